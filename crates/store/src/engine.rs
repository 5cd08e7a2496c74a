//! The narrow trait behind a store, and the words it is spoken to in.
//!
//! An engine keeps versions of keys: it commits transactions, answers reads at a revision and feeds watches. Counterpart:
//! `k8s.io/apiserver/pkg/storage.Interface` below its codecs, or etcd's KV and Watch services. Engines hold bytes: kinds,
//! JSON and HTTP are unknown here. Futures are boxed because a [`crate::Store`] picks its engine at run time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Error, Events, Key, KeyRange, Revision, Value};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub trait Engine: Send + Sync + 'static {
    /// The key's version at a revision, by default the current one.
    fn get<'a>(
        &'a self,
        key: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<Arc<Entry>>, Error>>;

    /// The keys of a range, in order, as of one revision.
    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, Error>>;

    /// Writes all of the transaction or none of it. Once it has answered, the write survives a crash
    /// (unless it was [`Durability::Volatile`]). Dropping the future does not take the write back.
    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>>;

    /// Every event in the range with a revision greater than `after`, then live ones.
    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, Error>>;

    /// Forgets how things were before `revision`: reads at it still work, older ones answer [`Error::Compacted`].
    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>>;

    /// The newest revision that reads can see.
    fn current_revision(&self) -> BoxFuture<'_, Result<Revision, Error>>;

    /// Writes out what is pending and lets go of the data; later calls answer [`Error::Closed`].
    fn close(&self) -> BoxFuture<'_, Result<(), Error>>;
}

/// One watcher's side of an engine.
pub trait WatchSource: Send {
    /// Waits for the next events. Cancel safe: what was not returned comes again.
    fn next(&mut self) -> BoxFuture<'_, Result<Events, Error>>;

    /// The watcher has been given everything up to this revision: what a bookmark may say.
    fn progress(&mut self) -> Revision;
}

#[derive(Clone, Debug)]
pub struct RangeRequest {
    pub range: KeyRange,
    /// By default the current revision.
    pub at: Option<Revision>,
    /// At most this many entries; [`RangeResponse::remaining`] counts the rest. Zero only counts.
    pub limit: Option<usize>,
    /// Whether to count the rest, which costs a step per key, or only to say whether there is any.
    pub count: bool,
}

#[derive(Clone, Debug)]
pub struct RangeResponse {
    pub entries: Vec<Arc<Entry>>,
    /// The revision that was read: ask for the next page at this one.
    pub revision: Revision,
    /// How many keys of the range come after the last entry; just one of them if they were not to be counted.
    pub remaining: usize,
}

/// Operations that happen together, at one revision, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub ops: Vec<Op>,
    /// Who does this and why; kept beside every version it makes.
    pub note: Bytes,
    pub durability: Durability,
}

#[derive(Clone, Debug)]
pub enum Op {
    Put {
        key: Key,
        value: Value,
        expect: Expect,
    },
    /// Deleting what is not there, when that is not an unmet expectation, does nothing.
    Delete {
        key: Key,
        expect: Expect,
    },
    /// Changes nothing, but the transaction fails unless the key is as expected.
    Check {
        key: Key,
        expect: Expect,
    },
}

/// What a key must be like for its transaction to go ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Present,
    /// Last written at exactly this revision.
    Mod(Revision),
}

/// How much of a crash a write must survive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    #[default]
    Durable,
    /// For heartbeats: visible and watchable at once, on disk only along with the next durable write. A crash may take
    /// the key back to an older version, but never to none: an engine makes a key's first volatile write durable.
    Volatile,
}

#[derive(Clone, Debug)]
pub struct Committed {
    pub revision: Revision,
    /// What changed, in the order of the operations.
    pub events: Events,
}

// === impl RangeRequest ===

impl RangeRequest {
    pub fn new(range: KeyRange) -> RangeRequest {
        RangeRequest { range, at: None, limit: None, count: true }
    }

    pub fn prefix(prefix: impl Into<Key>) -> RangeRequest {
        RangeRequest::new(KeyRange::prefix(prefix))
    }

    pub fn at(self, revision: Revision) -> RangeRequest {
        RangeRequest { at: Some(revision), ..self }
    }

    pub fn limit(self, limit: usize) -> RangeRequest {
        RangeRequest { limit: Some(limit), ..self }
    }

    /// Stops at the first key past the limit: for pages whose reader does not ask how many are left.
    pub fn uncounted(self) -> RangeRequest {
        RangeRequest { count: false, ..self }
    }
}

// === impl RangeResponse ===

impl RangeResponse {
    pub fn more(&self) -> bool {
        self.remaining > 0
    }
}

// === impl Txn ===

impl Txn {
    pub fn put(key: impl Into<Key>, value: Value, expect: Expect) -> Txn {
        Txn::default().and(Op::Put { key: key.into(), value, expect })
    }

    pub fn delete(key: impl Into<Key>, expect: Expect) -> Txn {
        Txn::default().and(Op::Delete { key: key.into(), expect })
    }

    pub fn and(mut self, op: Op) -> Txn {
        self.ops.push(op);
        self
    }

    pub fn note(self, note: impl Into<Bytes>) -> Txn {
        Txn { note: note.into(), ..self }
    }

    pub fn volatile(self) -> Txn {
        Txn { durability: Durability::Volatile, ..self }
    }
}

// === impl Op ===

impl Op {
    pub fn key(&self) -> &Key {
        match self {
            Op::Put { key, .. } | Op::Delete { key, .. } | Op::Check { key, .. } => key,
        }
    }

    pub fn expect(&self) -> Expect {
        match self {
            Op::Put { expect, .. } | Op::Delete { expect, .. } | Op::Check { expect, .. } => {
                *expect
            }
        }
    }
}

// === impl Expect ===

impl Expect {
    pub fn is_met_by(self, current: Option<&Entry>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => current.is_none(),
            Expect::Present => current.is_some(),
            Expect::Mod(revision) => current.is_some_and(|entry| entry.mod_revision == revision),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expect::Any => f.write_str("anything"),
            Expect::Absent => f.write_str("nothing"),
            Expect::Present => f.write_str("any version"),
            Expect::Mod(revision) => write!(f, "revision {revision}"),
        }
    }
}

// === impl Committed ===

impl Committed {
    /// The new version of the only key a single-key transaction wrote; none if it changed nothing.
    pub fn entry(&self) -> Option<&Arc<Entry>> {
        self.events.first().map(|event| &event.entry)
    }
}
