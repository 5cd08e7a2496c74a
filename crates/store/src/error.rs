//! What a store refuses, and why a store does not open.
//!
//! Counterpart: etcd's `rpctypes` errors; the API server turns `Conflict` into 409 and `Compacted` into 410. Invariant: an
//! error other than [`Error::Unwritable`] or [`Error::Closed`] on a commit means that nothing was written.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::{Entry, Expect, Key, Revision};

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    #[error("{key}: expected {expected}, found {}", describe(.current.as_deref()))]
    Conflict {
        key: Key,
        expected: Expect,
        /// What is stored now, so that a retry needs no second read.
        current: Option<Arc<Entry>>,
    },
    #[error("revision {requested} is compacted, the oldest that can be read is {oldest}")]
    Compacted { requested: Revision, oldest: Revision },
    #[error("revision {requested} is in the future, the current one is {current}")]
    FutureRevision { requested: Revision, current: Revision },
    #[error("{key} is named twice in one transaction")]
    DuplicateKey { key: Key },
    #[error("{key}: no empty JSON string at offset {offset} to hold the revision")]
    BadHole { key: Key, offset: u32 },
    #[error("{key}: {bytes} bytes are more than the {limit} one entry may have")]
    TooLarge { key: Key, bytes: usize, limit: usize },
    /// A layer above keeps values in a form that it cannot read.
    #[error("{key}: {reason}")]
    Unreadable { key: Key, reason: String },
    /// The outcome of the write that met the failure is unknown until the store is opened again.
    #[error("the store takes no writes since one failed, until it is opened again: {reason}")]
    Unwritable { reason: Arc<str> },
    #[error("the store is closed")]
    Closed,
}

/// Why a store does not open. Nothing was changed on disk.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{}: another process has this store open", .path.display())]
    Locked { path: PathBuf },
    #[error(
        "{file}: written by a newer release (format {found}, this one reads up to {supported})"
    )]
    NewerFormat { file: String, found: u32, supported: u32 },
    #[error("no snapshot can be read and the log does not reach back to the beginning: {details}")]
    Unrecoverable { details: String },
    #[error("{action}: {source}")]
    Io { action: String, source: io::Error },
}

fn describe(current: Option<&Entry>) -> String {
    current.map_or("nothing".to_owned(), |entry| format!("revision {}", entry.mod_revision))
}
