//! Answers as the typed clients of this process can read them, and no more than they read.
//!
//! None of them looks at who owns which field, which is half of a small object: objects come without (a write that does not
//! speak of owners leaves them as they are). Lists are passed on as they stand.
//!
//! The API lets a time be null where its types know no missing time (a condition's `lastTransitionTime`): Go reads the zero time,
//! the types of `k8s-openapi` read nothing at all. One such object would end every watch of its kind, and end it again when it
//! resumes, so whoever may write a status could stop Services for the whole cluster. Bytes of an answer -> the same with a zero
//! time for such a null. Invariant: nothing else is touched, and an answer without such nulls is handed through as it is.

use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::BodyExt;
use memchr::memmem;

use crate::reply::{Body, BoxError};
use crate::server::LocalService;

/// Required times, each with its null as it is stored. Inside of a text the quotes would be escaped.
const NULLS: [(&str, &str); 2] = [
    (r#""lastTransitionTime":null"#, r#""lastTransitionTime":"0001-01-01T00:00:00Z""#),
    (r#""lastObservedTime":null"#, r#""lastObservedTime":"0001-01-01T00:00:00.000000Z""#),
];

/// On a request: the answer is to be without owners of fields.
#[derive(Clone)]
pub struct Lean;

/// The request path for the typed clients of this process.
#[derive(Clone)]
pub struct TypedService(pub LocalService);

// === impl TypedService ===

impl<B> tower::Service<Request<B>> for TypedService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        tower::Service::<Request<B>>::poll_ready(&mut self.0, context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        request.extensions_mut().insert(Lean);
        let answer = self.0.call(request);
        Box::pin(async move { Ok(answer.await?.map(readable)) })
    }
}

/// No frame of ours ends within an object.
fn readable(body: Body) -> Body {
    body.map_frame(|frame: Frame<Bytes>| frame.map_data(with_times)).boxed_unsync()
}

fn with_times(bytes: Bytes) -> Bytes {
    NULLS
        .iter()
        .fold(bytes, |bytes, (null, zero)| replaced(bytes, null.as_bytes(), zero.as_bytes()))
}

fn replaced(bytes: Bytes, what: &[u8], with: &[u8]) -> Bytes {
    let mut found = memmem::find_iter(&bytes, what).peekable();
    if found.peek().is_none() {
        return bytes;
    }
    let mut out = Vec::with_capacity(bytes.len() + with.len());
    let mut copied = 0;
    for at in found {
        out.extend_from_slice(&bytes[copied..at]);
        out.extend_from_slice(with);
        copied = at + what.len();
    }
    out.extend_from_slice(&bytes[copied..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn only_nulls_of_required_times_are_filled_in() {
        let object = |missing: &str| {
            let told = json!(format!(r#""lastTransitionTime":{missing}"#));
            let times = [json!(missing), json!("2026-01-01T00:00:00Z"), json!(missing)];
            let conditions = times.map(|time| json!({"lastTransitionTime": time, "reason": null}));
            json!({"told": told, "conditions": conditions}).to_string()
        };
        let stored = object("null").replace(r#""lastTransitionTime":"null""#, NULLS[0].0);
        let read: Value = serde_json::from_slice(&with_times(stored.into())).expect("JSON");
        let times: Vec<&Value> = read["conditions"]
            .as_array()
            .expect("conditions")
            .iter()
            .map(|condition| &condition["lastTransitionTime"])
            .collect();
        assert_eq!(times, ["0001-01-01T00:00:00Z", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00Z"]);
        assert_eq!(read["conditions"][0]["reason"], Value::Null);
        assert_eq!(read["told"], r#""lastTransitionTime":null"#);
    }

    #[test]
    fn what_can_be_read_is_handed_through() {
        let bytes = Bytes::from_static(br#"{"lastTransitionTime":"2026-01-01T00:00:00Z"}"#);
        assert_eq!(with_times(bytes.clone()).as_ptr(), bytes.as_ptr());
    }
}
