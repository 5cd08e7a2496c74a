//! The handle everyone holds: a cheap clone around whichever engine keeps the data.
//!
//! Adds no behaviour of its own; it spares callers the boxed trait. Counterpart: etcd's `clientv3.Client`.

use std::sync::Arc;

use crate::{
    Committed, Engine, Entry, Error, Events, KeyRange, RangeRequest, RangeResponse, Revision, Txn,
    WatchSource,
};

#[derive(Clone)]
pub struct Store {
    engine: Arc<dyn Engine>,
}

/// A stream of events; ends with an error, after which the watcher lists again and starts anew.
pub struct Watch {
    source: Box<dyn WatchSource>,
}

// === impl Store ===

impl Store {
    pub fn new(engine: impl Engine) -> Store {
        Store { engine: Arc::new(engine) }
    }

    /// The key's current version.
    pub async fn get(&self, key: &str) -> Result<Option<Arc<Entry>>, Error> {
        self.engine.get(key, None).await
    }

    /// The key's version as of a revision.
    pub async fn get_at(&self, key: &str, at: Revision) -> Result<Option<Arc<Entry>>, Error> {
        self.engine.get(key, Some(at)).await
    }

    /// The keys of a range as of one revision. The entries are shared, not copied; the cost is one step per key,
    /// returned or counted.
    pub async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.engine.range(request).await
    }

    /// Writes all or nothing; see [`Engine::commit`] for what an answer promises.
    pub async fn commit(&self, txn: Txn) -> Result<Committed, Error> {
        self.engine.commit(txn).await
    }

    /// Every event in the range after a revision: history first, then live. Pass the revision of a range to go on
    /// exactly where it ends.
    pub async fn watch(&self, range: KeyRange, after: Revision) -> Result<Watch, Error> {
        Ok(Watch { source: self.engine.watch(range, after).await? })
    }

    pub async fn compact(&self, revision: Revision) -> Result<(), Error> {
        self.engine.compact(revision).await
    }

    pub async fn current_revision(&self) -> Result<Revision, Error> {
        self.engine.current_revision().await
    }

    /// Writes out what is pending and releases the data directory.
    pub async fn close(&self) -> Result<(), Error> {
        self.engine.close().await
    }
}

// === impl Watch ===

impl Watch {
    /// Waits for the next events: never none, always in revision order. Cancel safe. A watcher too slow for the history
    /// that is kept gets [`Error::Compacted`].
    pub async fn next(&mut self) -> Result<Events, Error> {
        self.source.next().await
    }

    /// Everything up to this revision has been returned by [`Watch::next`], though the latest of it may concern other keys.
    pub fn progress(&mut self) -> Revision {
        self.source.progress()
    }
}
