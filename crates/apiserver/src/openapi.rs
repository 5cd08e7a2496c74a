//! `/openapi/v3`: the served API as OpenAPI documents, an index of them, and a tag each.
//!
//! Documents are made when first asked for and kept as long as the same kinds are served. Counterpart:
//! `kube-openapi/pkg/handler3`. `/openapi/v2` answers 404: clients of the last years read v3.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha512};
use skiff_api::{Kinds, Status, openapi};

use crate::authn::x509::hex;
use crate::call::Call;
use crate::nonresource::not_found;
use crate::reply::{Reply, empty, with_type};

/// What was made for one set of kinds.
#[derive(Default)]
pub struct Documents {
    made: Mutex<Made>,
}

#[derive(Default)]
struct Made {
    of: Option<Arc<Kinds>>,
    by_path: HashMap<String, Document>,
}

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    tag: String,
}

pub fn run(call: &Call, rest: &[&str]) -> Result<Reply, Status> {
    let document = match rest {
        ["v3"] => Some(
            call.server.documents.get(call, "", |kinds| Some(openapi::index(kinds, &version()))),
        ),
        ["v3", "api", version] => {
            Some(call.server.documents.get(call, &format!("api/{version}"), |kinds| {
                openapi::document(kinds, "", version)
            }))
        }
        ["v3", "apis", group, version] => {
            let path = format!("apis/{group}/{version}");
            Some(
                call.server
                    .documents
                    .get(call, &path, |kinds| openapi::document(kinds, group, version)),
            )
        }
        _ => None,
    };
    match document.flatten() {
        Some(document) => Ok(answer(call, &document)),
        None => Ok(not_found()),
    }
}

impl Documents {
    fn get(
        &self,
        call: &Call,
        path: &str,
        make: impl FnOnce(&Kinds) -> Option<Value>,
    ) -> Option<Document> {
        let kinds = call.server.kinds();
        let mut made = self.made.lock().expect("no panic while held");
        if !made.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &kinds)) {
            *made = Made { of: Some(kinds.clone()), by_path: HashMap::new() };
        }
        if let Some(document) = made.by_path.get(path) {
            return Some(document.clone());
        }
        let bytes = Bytes::from(make(&kinds)?.to_string());
        let tag = hex(&Sha512::digest(&bytes)).to_uppercase();
        let document = Document { bytes, tag };
        made.by_path.insert(path.to_owned(), document.clone());
        Some(document)
    }
}

/// A document asked for by its hash never changes; clients may keep it.
fn answer(call: &Call, document: &Document) -> Reply {
    let tag = format!("\"{}\"", document.tag);
    if call.header(IF_NONE_MATCH) == tag {
        let mut response = http::Response::new(empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Reply::Response(response);
    }
    let mut response = with_type(StatusCode::OK, "application/json", document.bytes.clone());
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(ETAG, value);
    }
    if call.query.has("hash") {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Reply::Response(response)
}

fn version() -> String {
    let fact: Value =
        serde_json::from_str(include_str!("../facts/version.json")).expect("facts are valid JSON");
    fact["gitVersion"].as_str().unwrap_or("").to_owned()
}
