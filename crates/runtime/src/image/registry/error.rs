//! Why a registry did not give or take what was asked.
//!
//! The texts are what `kubectl describe` shows after `Failed to pull image`; the words users know
//! from containerd (`not found`, `pull access denied`) are kept.

use std::{io, path::PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("registry configuration {path:?}: {reason}")]
    Config { path: PathBuf, reason: String },
    #[error(
        "this machine has no certificate authorities (Debian: ca-certificates), and none is configured for this registry"
    )]
    NoAuthority,
    #[error("{what}: not found")]
    NotFound { what: String },
    #[error(
        "{action} access denied, repository does not exist or may require authorization: {registry}: {reason}"
    )]
    Denied { action: &'static str, registry: String, reason: String },
    #[error("cannot reach {url}: {reason}")]
    Unreachable { url: String, reason: String },
    #[error("{url}: unexpected status {status}{detail}")]
    Status { url: String, status: http::StatusCode, detail: String },
    #[error("{url}: the connection broke: {reason}")]
    Broken { url: String, reason: String },
    #[error("{url}: {reason}")]
    Invalid { url: String, reason: String },
    #[error("content of {digest} does not match its digest")]
    Mismatch { digest: String },
    #[error("no match for platform in manifest: no variant for {platform}")]
    Platform { platform: String },
    #[error("layer {digest}: {reason}")]
    Layer { digest: String, reason: String },
    #[error(transparent)]
    Local(#[from] Box<crate::error::Error>),
    #[error("cannot write image content: {0}")]
    Disk(#[from] io::Error),
    /// Every endpoint was asked in vain.
    #[error("{0}")]
    Every(String),
}

// === impl RegistryError ===

impl RegistryError {
    /// Whether the same request may succeed in a moment.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            RegistryError::Broken { .. } => true,
            RegistryError::Status { status, .. } => {
                status.is_server_error() || *status == http::StatusCode::TOO_MANY_REQUESTS
            }
            _ => false,
        }
    }
}

impl From<crate::error::Error> for RegistryError {
    fn from(error: crate::error::Error) -> Self {
        RegistryError::Local(Box::new(error))
    }
}
