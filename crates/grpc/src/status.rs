//! How a call ended, in memory and as the trailers `grpc-status` and `grpc-message`.
//!
//! Counterpart: `google.golang.org/grpc/status` and `codes`.
//! Invariant: any bytes of a message survive the header, which holds only printable ASCII.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub(crate) const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// Why a call was refused, in the protocol's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok,
    Canceled,
    Unknown,
    InvalidArgument,
    DeadlineExceeded,
    NotFound,
    AlreadyExists,
    PermissionDenied,
    ResourceExhausted,
    FailedPrecondition,
    Aborted,
    OutOfRange,
    Unimplemented,
    Internal,
    Unavailable,
    DataLoss,
    Unauthenticated,
}

/// By number.
const CODES: [Code; 17] = [
    Code::Ok,
    Code::Canceled,
    Code::Unknown,
    Code::InvalidArgument,
    Code::DeadlineExceeded,
    Code::NotFound,
    Code::AlreadyExists,
    Code::PermissionDenied,
    Code::ResourceExhausted,
    Code::FailedPrecondition,
    Code::Aborted,
    Code::OutOfRange,
    Code::Unimplemented,
    Code::Internal,
    Code::Unavailable,
    Code::DataLoss,
    Code::Unauthenticated,
];

/// A call that did not succeed; prints as Go's clients print it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rpc error: code = {code:?} desc = {message}")]
pub struct Status {
    pub code: Code,
    pub message: String,
}

// === impl Status ===

impl Status {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Status { code, message: message.into() }
    }

    pub fn unimplemented(path: &str) -> Self {
        let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
        Status::new(Code::Unimplemented, format!("unknown method {method} for service {service}"))
    }

    pub(crate) fn deadline_exceeded() -> Self {
        Status::new(Code::DeadlineExceeded, "context deadline exceeded")
    }

    pub(crate) fn unavailable(reason: impl std::fmt::Display) -> Self {
        Status::new(Code::Unavailable, reason.to_string())
    }

    /// What an answer means that is not gRPC's at all.
    pub(crate) fn of_http(status: StatusCode) -> Self {
        let code = match status.as_u16() {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502 | 503 | 504 => Code::Unavailable,
            _ => Code::Unknown,
        };
        Status::new(code, format!("unexpected HTTP status code received from server: {status}"))
    }

    /// What the trailers (or the headers of an answer without a body) say; `None` when they say nothing.
    pub(crate) fn read(headers: &HeaderMap) -> Option<Result<(), Status>> {
        let number = headers.get(STATUS)?.to_str().ok().and_then(|text| text.parse().ok());
        let code = number.and_then(|n: usize| CODES.get(n).copied()).unwrap_or(Code::Unknown);
        let message = headers.get(MESSAGE).map(|value| percent_decoded(value.as_bytes()));
        Some(match code {
            Code::Ok => Ok(()),
            code => Err(Status { code, message: message.unwrap_or_default() }),
        })
    }
}

/// The trailers that end a call.
pub(crate) fn trailers(outcome: Result<(), Status>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let code = outcome.as_ref().err().map_or(Code::Ok, |status| status.code);
    trailers.insert(STATUS, HeaderValue::from(code as u16));
    if let Err(status) = outcome {
        let message = HeaderValue::from_str(&percent_encoded(&status.message));
        trailers.insert(MESSAGE, message.expect("what is encoded is printable"));
    }
    trailers
}

fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

fn percent_decoded(mut rest: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(rest.len());
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
    fn a_status_is_told_by_its_name_and_its_decoded_message() {
        let mut headers = HeaderMap::new();
        headers.insert(STATUS, HeaderValue::from_static("13"));
        headers.insert(MESSAGE, HeaderValue::from_static("disk%20full%: 100%"));
        let status = Status::read(&headers).expect("there is one").expect_err("a refusal");
        assert_eq!(status.to_string(), "rpc error: code = Internal desc = disk full%: 100%");
        headers.insert(STATUS, HeaderValue::from_static("0"));
        assert_eq!(Status::read(&headers), Some(Ok(())));
        assert_eq!(Status::read(&HeaderMap::new()), None);
    }

    #[test]
    fn every_code_and_any_text_comes_back_from_the_trailers() {
        for code in CODES.into_iter().skip(1) {
            let status = Status::new(code, "größer als 100 %\n\u{1f980}");
            assert_eq!(Status::read(&trailers(Err(status.clone()))), Some(Err(status)));
        }
        assert_eq!(Status::read(&trailers(Ok(()))), Some(Ok(())));
    }
}
