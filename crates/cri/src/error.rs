//! Errors of the trait as statuses of gRPC, and back.
//!
//! Invariant: what the kubelet tells apart (not found, an exec out of time) keeps its kind; all else keeps its words.

use skiff_grpc::{Code, Status};
use skiff_runtime::Error;

use crate::convert::Unknown;

pub fn status_of(error: Error) -> Status {
    let code = match &error {
        Error::NotFound { .. } | Error::ImageNotFound(_) => Code::NotFound,
        Error::InvalidReference { .. } | Error::InvalidConfig { .. } => Code::InvalidArgument,
        Error::WrongState { .. } | Error::ImageInUse { .. } => Code::FailedPrecondition,
        Error::ExecTimeout { .. } => Code::DeadlineExceeded,
        Error::ShimGone { .. } | Error::Shutdown => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, error.to_string())
}

/// `kind` and `id` name what was asked about.
pub fn error_of(status: Status, kind: &'static str, id: &str) -> Error {
    match status.code {
        Code::NotFound => Error::NotFound { kind, id: id.to_owned() },
        _ => Error::Remote(Box::new(status)),
    }
}

impl From<Unknown> for Status {
    fn from(unknown: Unknown) -> Self {
        Status::new(Code::InvalidArgument, unknown.to_string())
    }
}
