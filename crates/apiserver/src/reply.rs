//! The answer of a verb, before it is known in what representation the client wants it.
//!
//! Reply + negotiated [`Media`](crate::negotiate::Media) -> response. Counterpart: `endpoints/handlers/response.go`.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use skiff_api::{KindDef, Status};

pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every answer: bytes at once, or a stream that ends when the client goes away.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

pub enum Reply {
    /// One object, encoded at the kind's version.
    Object { code: StatusCode, kind: Arc<KindDef>, bytes: Bytes },
    /// A collection.
    List(List),
    /// An object that is no kind's own: a Status, a review, a Scale.
    Value { code: StatusCode, value: Value },
    /// Already what goes over the wire.
    Response(Response<Body>),
}

/// Encoded items and what the list says about itself.
pub struct List {
    pub kind: Arc<KindDef>,
    pub items: Vec<Bytes>,
    pub resource_version: String,
    pub continue_token: String,
    pub remaining: Option<i64>,
}

impl Reply {
    pub fn object(kind: Arc<KindDef>, bytes: Bytes) -> Reply {
        Reply::Object { code: StatusCode::OK, kind, bytes }
    }

    pub fn created(kind: Arc<KindDef>, bytes: Bytes) -> Reply {
        Reply::Object { code: StatusCode::CREATED, kind, bytes }
    }

    pub fn value(value: Value) -> Reply {
        Reply::Value { code: StatusCode::OK, value }
    }

    /// The Status of a deletion that is done.
    pub fn deleted(kind: &KindDef, name: &str, uid: &str) -> Reply {
        let mut details = json!({ "name": name, "kind": kind.resource, "uid": uid });
        if !kind.group.is_empty() {
            details["group"] = kind.group.clone().into();
        }
        Reply::value(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        }))
    }

    pub fn text(code: StatusCode, text: impl Into<Bytes>) -> Reply {
        Reply::Response(with_type(code, "text/plain; charset=utf-8", text.into()))
    }

    pub fn json(value: &Value) -> Reply {
        Reply::Response(with_type(StatusCode::OK, "application/json", value.to_string().into()))
    }
}

/// A complete answer of one content type.
pub fn with_type(code: StatusCode, content_type: &str, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(full(bytes));
    *response.status_mut() = code;
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

pub fn full(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

pub fn empty() -> Body {
    full(Bytes::new())
}

/// The one way an error leaves: a JSON Status.
pub fn error(status: &Status) -> Response<Body> {
    let code = StatusCode::from_u16(status.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = with_type(code, "application/json", status.to_value().to_string().into());
    if let Some(after) = status
        .details
        .as_ref()
        .map(|details| details.retry_after_seconds)
        .filter(|after| *after > 0)
    {
        response.headers_mut().insert(header::RETRY_AFTER, after.into());
    }
    response
}
