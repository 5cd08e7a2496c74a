//! Unary gRPC calls over plain HTTP/2, for health probes and for plugins of the node.
//!
//! A stream and a message -> the answer's message, or the status that was given instead. The messages are few and small enough
//! to be written field by field where they are used. Counterpart: `google.golang.org/grpc`.
//! Invariant: one call per stream, and an answer is never larger than asked for.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

/// Flags, then the length of what follows.
const PREFIX: usize = 5;

const CODES: [&str; 17] = [
    "OK",
    "Canceled",
    "Unknown",
    "InvalidArgument",
    "DeadlineExceeded",
    "NotFound",
    "AlreadyExists",
    "PermissionDenied",
    "ResourceExhausted",
    "FailedPrecondition",
    "Aborted",
    "OutOfRange",
    "Unimplemented",
    "Internal",
    "Unavailable",
    "DataLoss",
    "Unauthenticated",
];

/// One call; `method` is a path like `/csi.v1.Node/NodeGetInfo`.
pub struct Call<'a> {
    pub authority: &'a str,
    pub method: &'a str,
    pub user_agent: &'a str,
    pub message: &'a [u8],
    pub max_answer: usize,
}

#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    #[error("rpc error: code = {} desc = {message}", code_name(.code))]
    Status { code: usize, message: String },
    #[error("rpc error: code = Unavailable desc = {0}")]
    Transport(String),
    #[error("rpc error: code = Internal desc = malformed answer")]
    Malformed,
}

fn code_name(code: &usize) -> &'static str {
    CODES.get(*code).copied().unwrap_or("Unknown")
}

// === impl Call ===

impl Call<'_> {
    pub async fn run<S>(self, stream: S) -> Result<Bytes, GrpcError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let transport = |error: &dyn std::fmt::Display| GrpcError::Transport(error.to_string());
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .map_err(|e| transport(&e))?;
        tokio::spawn(connection);
        let request = self.request().map_err(|e| transport(&e))?;
        let response = sender.send_request(request).await.map_err(|e| transport(&e))?;
        if response.status() != StatusCode::OK {
            return Err(transport(&format!("unexpected HTTP status code {}", response.status())));
        }
        let early = response.headers().clone();
        let body = Limited::new(response.into_body(), self.max_answer + PREFIX);
        let body = body.collect().await.map_err(|e| transport(&e))?;
        refused(&early)?;
        body.trailers().map_or(Ok(()), refused)?;
        unframed(body.to_bytes())
    }

    fn request(&self) -> http::Result<Request<Full<Bytes>>> {
        Request::post(format!("http://{}{}", self.authority, self.method))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, self.user_agent)
            .body(Full::new(framed(self.message)))
    }
}

/// A status other than OK among the headers or the trailers.
fn refused(headers: &HeaderMap) -> Result<(), GrpcError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    match text("grpc-status") {
        None | Some("0") => Ok(()),
        Some(code) => Err(GrpcError::Status {
            code: code.parse().unwrap_or(2),
            message: percent_decoded(text("grpc-message").unwrap_or_default()),
        }),
    }
}

pub fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(message.len() + PREFIX);
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("our messages are small"));
    framed.put_slice(message);
    framed.freeze()
}

/// Compressed messages are refused: we say that we take none.
fn unframed(mut framed: Bytes) -> Result<Bytes, GrpcError> {
    if framed.len() < PREFIX || framed.get_u8() != 0 {
        return Err(GrpcError::Malformed);
    }
    let length = framed.get_u32() as usize;
    match framed.len() == length {
        true => Ok(framed),
        false => Err(GrpcError::Malformed),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escaped = (*first == b'%').then(|| after.get(..2)).flatten();
        let byte = escaped.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_unframes() {
        assert_eq!(framed(b"").as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(unframed(framed(b"abc")).expect("whole").as_ref(), b"abc");
        for torn in [&[0, 0][..], &[0, 0, 0, 0, 2, 8], &[1, 0, 0, 0, 0]] {
            assert!(unframed(Bytes::copy_from_slice(torn)).is_err(), "{torn:?}");
        }
    }

    #[test]
    fn a_status_is_told_by_its_name_and_its_decoded_message() {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", "13".parse().expect("a value"));
        headers.insert("grpc-message", "disk%20full%: 100%".parse().expect("a value"));
        let error = refused(&headers).expect_err("a refusal");
        assert_eq!(error.to_string(), "rpc error: code = Internal desc = disk full%: 100%");
        headers.insert("grpc-status", "0".parse().expect("a value"));
        assert!(refused(&headers).is_ok());
    }
}
