//! The served API as one Swagger 2.0 document.
//!
//! [`Kinds`] -> the same schemas and paths as the v3 documents, spelt the older way, as JSON
//! ([`document`]) or protobuf ([`to_proto`]). kubectl reads it when a v3 document does not know a
//! kind, before it says that nobody does. Counterpart: `kube-openapi/pkg/builder` and `handler`.
//! Invariant: nothing is described here that v3 does not describe; this only rewrites.

mod operation;
mod proto;
mod schema;

use serde_json::{Map, Value, json};

use super::{paths, schemas::Components};
use crate::kind::Kinds;

pub use proto::to_proto;

/// The whole document; as large as all v3 documents together, so made when asked for. `version` is
/// the release that serves it.
pub fn document(kinds: &Kinds, version: &str) -> Value {
    let mut components = Components::default();
    let mut found = Map::new();
    for kind in kinds.iter() {
        if !kind.custom {
            paths::add_discovery(&kind.group, &kind.version, &mut components, &mut found);
        }
        paths::add(kind, &mut components, &mut found);
    }
    let definitions: Map<String, Value> =
        components.finish().iter().map(|(name, of)| (name.clone(), schema::rewrite(of))).collect();
    let paths: Map<String, Value> =
        found.iter().map(|(path, item)| (path.clone(), operation::path_item(item))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": version},
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": {
            "BearerToken": {
                "description": "Bearer Token authentication",
                "type": "apiKey",
                "name": "authorization",
                "in": "header",
            },
        },
        "security": [{"BearerToken": []}],
    })
}

#[cfg(test)]
mod tests;
