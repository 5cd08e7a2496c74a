//! What can go wrong, as the caller needs to tell it apart.
//!
//! Counterpart: the gRPC codes and message texts of a CRI server; users know some texts by heart
//! (`executable file not found in $PATH`), so those are kept.
//! Invariant: a variant names the object it is about, and its source says why.

use std::{io, path::PathBuf};

use crate::image::RegistryError;

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{kind} {id:?} not found")]
    NotFound { kind: &'static str, id: String },
    #[error("image {0:?} is not present on this node")]
    ImageNotFound(String),
    #[error("invalid image reference {reference:?}: {reason}")]
    InvalidReference { reference: String, reason: &'static str },
    #[error("failed to pull and unpack image {reference:?}: {source}")]
    Pull { reference: String, source: RegistryError },
    #[error("failed to push image {reference:?}: {source}")]
    Push { reference: String, source: RegistryError },
    #[error("not everything of image {0:?} is kept here: pull or load it again")]
    ContentMissing(String),
    #[error("image {image:?} is used by container {container:?}")]
    ImageInUse { image: String, container: String },
    #[error("image archive {archive:?} is not usable: {reason}")]
    BadArchive { archive: PathBuf, reason: String },
    #[error("image archive {archive:?}: content of {digest} does not match its digest")]
    DigestMismatch { archive: PathBuf, digest: String },
    #[error("image {reference:?} has no variant for {platform}")]
    NoMatchingPlatform { reference: String, platform: String },
    #[error("line {line}: {reason}")]
    Build { line: usize, reason: String },
    #[error("{kind} {id:?} is {state}, which {verb} does not allow")]
    WrongState { kind: &'static str, id: String, state: String, verb: &'static str },
    #[error("{what} is not valid: {reason}")]
    InvalidConfig { what: &'static str, reason: String },
    /// The container's process could not be set up or executed; the text is what `kubectl describe`
    /// shows.
    #[error("failed to start container {id:?}: {reason}")]
    StartFailed { id: String, reason: String },
    #[error("failed to exec in container {id:?}: {reason}")]
    ExecFailed { id: String, reason: String },
    #[error("command {command:?} timed out")]
    ExecTimeout { command: String },
    #[error("cannot create sandbox {id:?}: {reason}")]
    SandboxFailed { id: String, reason: String },
    #[error("network of sandbox {id:?}: {reason}")]
    Network { id: String, reason: String },
    #[error("shim of sandbox {id:?} is gone")]
    ShimGone { id: String },
    #[error("shim of sandbox {id:?} does not answer")]
    ShimSilent { id: String },
    #[error(
        "no cgroup file system is mounted here; containers cannot be limited or ended without one"
    )]
    NoCgroups,
    #[error("{what} {path:?}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
    #[error("unreadable state {path:?}: {source}")]
    State { path: PathBuf, source: serde_json::Error },
    /// Another runtime, behind a socket, has refused or does not answer; its words.
    #[error("{0}")]
    Remote(Box<dyn std::error::Error + Send + Sync>),
    #[error("{what} is not something that the container runtime at this node's endpoint offers")]
    NotOffered { what: &'static str },
    /// A blocking part of the runtime panicked or was cancelled at shutdown.
    #[error("the runtime is shutting down")]
    Shutdown,
}

/// Attaches the operation and the path to an I/O error.
pub(crate) trait IoContext<T> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T>;
}

impl<T, E: Into<io::Error>> IoContext<T> for Result<T, E> {
    fn at(self, what: &'static str, path: impl Into<PathBuf>) -> Result<T> {
        self.map_err(|source| Error::Io { what, path: path.into(), source: source.into() })
    }
}
