//! Revisions: a multi-version key-value store with watch.
//!
//! Bytes under a key go in, a [`Revision`] comes out; every later question (get, range, watch) may name the revision
//! it is asked at. The semantics are those of etcd that Kubernetes relies on: one global revision, compare-and-swap on
//! the mod revision, ranges at a revision, watch from a revision, compaction with a clear "too old".
//!
//! The README beside this crate lists what is promised, what checks it, and the bugs found so far.
//!
//! [`Store`] is the handle everyone holds, [`Engine`] the narrow trait behind it, [`embedded`] the engine that needs no
//! other process. Counterpart: etcd and `k8s.io/apiserver/pkg/storage/etcd3`.
//!
//! Differs from upstream: a value may carry a *hole* for its own revision, so that an object is encoded once and never
//! re-read ([`Value`]); every write carries a note saying who did it and why.
//!
//! Invariant: a reader or watcher never sees a durable write that a crash could still take back.

pub mod embedded;
mod engine;
mod entry;
mod error;
mod events;
mod key;
mod store;

pub use engine::{
    BoxFuture, Committed, Durability, Engine, Expect, Op, RangeRequest, RangeResponse, Txn,
    WatchSource,
};
pub use entry::{Entry, Event, EventKind, Revision, Value};
pub use error::{Error, OpenError};
pub use events::Events;
pub use key::{Key, KeyRange};
pub use store::{Store, Watch};
