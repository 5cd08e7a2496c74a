//! `/openapi/v2` and `/openapi/v3`: the served API as OpenAPI documents, and a tag each.
//!
//! Accept header and path -> a document. Documents are made when first asked for and kept as long as
//! what they describe is served. Counterpart: `kube-openapi/pkg/handler` and `handler3`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderValue, StatusCode};
use serde_json::Value;
use sha2::{Digest, Sha512};
use skiff_api::{Kinds, Status, openapi};

use crate::authn::x509::hex;
use crate::call::Call;
use crate::negotiate::ranges;
use crate::nonresource::not_found;
use crate::reply::{Body, Reply, empty, with_type};

/// What was made, by path.
#[derive(Default)]
pub struct Documents {
    made: Mutex<HashMap<String, Made>>,
}

struct Made {
    /// The kinds it was last known to be right for.
    of: Arc<Kinds>,
    /// What of the kinds it depends on; `None`: all.
    hash: Option<String>,
    document: Document,
}

#[derive(Clone)]
struct Document {
    bytes: Bytes,
    tag: String,
}

const JSON: &str = "application/json";
const V3_PROTOBUF: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
const PROTOBUF: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// Media types of the v2 document: as asked for, and as answered. The "@" of the older name is not
/// allowed in a media type, which is why the answer has another one. `*/*` takes the first.
const SWAGGER: &[(&str, &str)] = &[
    (JSON, JSON),
    ("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", PROTOBUF),
    (PROTOBUF, PROTOBUF),
];

pub async fn run(call: &Call, rest: &[&str]) -> Result<Reply, Status> {
    let documents = &call.server.documents;
    let json = |value: Value| Bytes::from(value.to_string());
    let document = match rest {
        ["v2"] => return Ok(swagger(call)),
        ["v3"] => index(call).or_else(|| {
            documents.get(call, "", |kinds| Some(json(openapi::index(kinds, &version()))))
        }),
        ["v3", "apis", group, version]
            if call.server.aggregator.view().at(group, version).is_some() =>
        {
            let path = format!("/openapi/v3/apis/{group}/{version}");
            return Ok(remote_document(call, group, version, &path).await);
        }
        ["v3", path @ ..] => {
            let path = path.join("/");
            let make = |kinds: &Kinds| openapi::at(kinds, &path, &version()).map(json);
            let found = documents.get(call, &path, make);
            match moved(call, &path).filter(|_| found.is_some()) {
                Some(reply) => return Ok(reply),
                None => found,
            }
        }
        _ => None,
    };
    match (document, rest) {
        // The index is sniffed as text upstream, whatever is asked for.
        (Some(document), ["v3"]) => Ok(answer(call, &document, "text/plain; charset=utf-8")),
        (Some(_), _) if !takes_json(call.header(ACCEPT)) => {
            Ok(Reply::Response(without_body(StatusCode::NOT_ACCEPTABLE)))
        }
        (Some(document), _) => Ok(answer(call, &document, JSON)),
        (None, ["v3", ..]) => Ok(Reply::Response(without_body(StatusCode::NOT_FOUND))),
        (None, _) => Ok(not_found()),
    }
}

/// Documents of versions come as JSON, also to those who would rather have protobuf.
fn takes_json(accept: &str) -> bool {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    ranges(accept).iter().any(|range| range.includes(JSON) || range.includes(V3_PROTOBUF))
}

/// The index with what aggregated API servers describe; none if there are no such servers.
fn index(call: &Call) -> Option<Document> {
    let view = call.server.aggregator.view();
    let mut described =
        view.remotes().filter_map(|remote| Some((remote, remote.served().openapi?))).peekable();
    described.peek()?;
    let mut index = openapi::index(&call.server.kinds(), &version());
    for (remote, hash) in described {
        let path = format!("apis/{}/{}", remote.group, remote.version);
        let url = format!("/openapi/v3/{path}?hash={hash}");
        index["paths"][path] = serde_json::json!({ "serverRelativeURL": url });
    }
    let bytes = Bytes::from(index.to_string());
    let tag = format!("\"{}\"", hex(&Sha512::digest(&bytes)).to_uppercase());
    Some(Document { bytes, tag })
}

/// An aggregated API server describes itself.
async fn remote_document(call: &Call, group: &str, version: &str, path: &str) -> Reply {
    let view = call.server.aggregator.view();
    match view.at(group, version).filter(|remote| remote.available()) {
        Some(remote) => crate::aggregate::proxy::document(remote, path, JSON).await,
        None => Reply::Response(without_body(StatusCode::NOT_FOUND)),
    }
}

/// The whole API in one document, as JSON or protobuf.
fn swagger(call: &Call) -> Reply {
    let Some(media_type) = swagger_media_type(call.header(ACCEPT)) else {
        return Reply::Response(without_body(StatusCode::NOT_ACCEPTABLE));
    };
    let document = call.server.documents.get(call, media_type, |kinds| {
        let document = openapi::v2::document(kinds, &version());
        Some(match media_type {
            PROTOBUF => openapi::v2::to_proto(&document).into(),
            _ => document.to_string().into(),
        })
    });
    match document {
        Some(document) => answer(call, &document, media_type),
        None => not_found(),
    }
}

fn swagger_media_type(accept: &str) -> Option<&'static str> {
    let accept = if accept.trim().is_empty() { "*/*" } else { accept };
    ranges(accept).iter().find_map(|range| {
        SWAGGER.iter().find(|(known, _)| range.includes(known)).map(|(_, answered)| *answered)
    })
}

impl Documents {
    fn get(
        &self,
        call: &Call,
        path: &str,
        make: impl FnOnce(&Kinds) -> Option<Bytes>,
    ) -> Option<Document> {
        let kinds = call.server.kinds();
        let mut made = self.made.lock().expect("no panic while held");
        if let Some(known) = made.get(path).filter(|known| Arc::ptr_eq(&known.of, &kinds)) {
            return Some(known.document.clone());
        }
        // A kind more elsewhere leaves the document of a group and version as it was.
        let hash = openapi::hash_at(&kinds, path, &version());
        if let Some(known) = made.get_mut(path).filter(|known| known.hash == hash && hash.is_some())
        {
            known.of = kinds;
            return Some(known.document.clone());
        }
        made.remove(path);
        let bytes = make(&kinds)?;
        let tag = hex(&Sha512::digest(&bytes)).to_uppercase();
        let document = Document { bytes, tag: format!("\"{tag}\"") };
        made.insert(path.to_owned(), Made { of: kinds, hash, document: document.clone() });
        Some(document)
    }
}

/// A document asked for by its hash never changes; clients may keep it.
fn answer(call: &Call, document: &Document, media_type: &'static str) -> Reply {
    let known = call.header(IF_NONE_MATCH).split(',').any(|tag| tag.trim() == document.tag);
    let mut response = match known {
        true => without_body(StatusCode::NOT_MODIFIED),
        false => with_type(StatusCode::OK, media_type, document.bytes.clone()),
    };
    let headers = response.headers_mut();
    if let Ok(tag) = HeaderValue::from_str(&document.tag) {
        headers.insert(ETAG, tag);
    }
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if call.query.has("hash") {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Reply::Response(response)
}

fn without_body(code: StatusCode) -> http::Response<Body> {
    let mut response = http::Response::new(empty());
    *response.status_mut() = code;
    response
}

/// A document that is asked for by another hash than the index names has moved there.
fn moved(call: &Call, path: &str) -> Option<Reply> {
    let asked = call.query.get("hash")?;
    let hash = openapi::hash_at(&call.server.kinds(), path, &version())?;
    if hash == asked {
        return None;
    }
    let place = format!("/openapi/v3/{path}?hash={hash}");
    let mut response = without_body(StatusCode::MOVED_PERMANENTLY);
    let headers = response.headers_mut();
    headers.insert(LOCATION, place.parse().ok()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(JSON));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    Some(Reply::Response(response))
}

/// The release as documents name it.
fn version() -> String {
    let fact: Value =
        serde_json::from_str(include_str!("../facts/version.json")).expect("facts are valid JSON");
    let part = |name: &str| fact[name].as_str().unwrap_or("").to_owned();
    format!("{}.{}", part("major"), part("minor"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_json_unless_protobuf_is_preferred() {
        let check = |accept, expected| assert_eq!(swagger_media_type(accept), expected, "{accept}");
        check("", Some(JSON));
        check("*/*", Some(JSON));
        check("application/json, */*", Some(JSON));
        check("application/com.github.proto-openapi.spec.v2@v1.0+protobuf", Some(PROTOBUF));
        check(
            "text/html, application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
            Some(PROTOBUF),
        );
        check(
            "application/json;q=0.5, application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
            Some(PROTOBUF),
        );
        check("application/yaml", None);
    }
}
