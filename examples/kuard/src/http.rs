//! A request as the pages see it, and an answer.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::HeaderMap;
use hyper::{Method, Response, StatusCode, Version};
use serde::Serialize;
use serde_json::json;

/// A request with its body read.
pub struct Call {
    pub method: Method,
    pub path: String,
    pub query: String,
    /// As sent: path and query.
    pub target: String,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub peer: String,
}

impl Call {
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

pub struct Answer {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: Bytes,
}

impl Answer {
    pub fn text(body: impl Into<Bytes>) -> Answer {
        let content_type = "text/plain; charset=utf-8";
        Answer { status: StatusCode::OK, content_type, body: body.into() }
    }

    pub fn html(body: String) -> Answer {
        Answer { content_type: "text/html; charset=utf-8", ..Answer::text(body) }
    }

    pub fn json(value: &impl Serialize) -> Answer {
        let body = serde_json::to_vec(value).expect("answers are plain data");
        Answer { content_type: "application/json", ..Answer::text(body) }
    }

    pub fn empty(status: StatusCode) -> Answer {
        Answer { status, ..Answer::text("") }
    }

    pub fn error(status: StatusCode, message: &str) -> Answer {
        Answer { status, ..Answer::json(&json!({ "kind": "error", "message": message })) }
    }

    pub fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        let value = hyper::header::HeaderValue::from_static(self.content_type);
        response.headers_mut().insert(hyper::header::CONTENT_TYPE, value);
        response
    }
}
