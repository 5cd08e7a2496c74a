//! What is served besides kinds: discovery, the version and the keys of tokens.
//!
//! [`Kinds`] -> a path and its answer's type each; every one is a v3 document of its own, and all are
//! part of the v2 document. Counterpart: `kube-openapi/pkg/common/restfuladapter` on the services of
//! `pkg/server/routes`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::paths::responses;
use super::schemas::Components;
use crate::kind::Kinds;

/// One path that answers to GET.
pub struct Service {
    /// As in the index: without slashes around.
    pub path: String,
    description: &'static str,
    /// The fact name of what it answers with; `None`: text.
    answer: Option<&'static str>,
}

const FIXED: &[(&str, &str, Option<&str>)] = &[
    (".well-known/openid-configuration", "get service account issuer configuration", None),
    ("api", "get available API versions", Some("meta.v1.APIVersions")),
    ("apis", "get available API versions", Some("meta.v1.APIGroupList")),
    ("openid/v1/jwks", "get service account issuer keys", None),
    ("version", "get the version information for this server", Some("version.Info")),
];

/// Every service; of groups only built-in ones, as upstream describes no other.
pub fn all(kinds: &Kinds) -> Vec<Service> {
    let fixed = FIXED.iter().map(|(path, description, answer)| Service {
        path: (*path).to_owned(),
        description,
        answer: *answer,
    });
    let built_in = kinds.iter().filter(|kind| !kind.custom && !kind.group.is_empty());
    let groups: BTreeSet<&str> = built_in.map(|kind| kind.group.as_str()).collect();
    let groups = groups.into_iter().map(|group| Service {
        path: format!("apis/{group}"),
        description: "get information of a group",
        answer: Some("meta.v1.APIGroup"),
    });
    fixed.chain(groups).collect()
}

// === impl Service ===

impl Service {
    /// Its path and operations.
    pub fn item(&self, components: &mut Components) -> (String, Value) {
        let answer = match self.answer {
            Some(name) => components.named(name),
            None => json!({"type": "string"}),
        };
        let first = self.path.split('/').find(|part| *part != "apis").unwrap_or(&self.path);
        let operation = json!({
            "tags": [first.split('.').find(|part| !part.is_empty())],
            "description": self.description,
            "operationId": format!("get_{}", self.path.replace(['/', '.'], "_")),
            "responses": responses(&answer),
        });
        (format!("/{}/", self.path), json!({"get": operation}))
    }
}
