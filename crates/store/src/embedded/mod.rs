//! The engine that needs no other process: everything in memory, made durable by a log and snapshots in one directory.
//!
//! A write goes desk (decided against all pending writes) -> journal (one sync per batch) -> published state -> hub
//! (watchers). A read clones the pointer to the published state. Two threads: the *writer*, the only one that waits for
//! the disk, and the *announcer*, which wakes watchers; both sleep while nothing happens.
//!
//! Counterpart: etcd's `mvcc` over `wal`, without raft and without a page file. Differs from upstream: history is in
//! memory and after a restart reaches back to the last snapshot only.

mod clock;
mod disk;
mod hub;
mod journal;
mod record;
mod recovery;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

pub use clock::{Clock, MonotonicClock};
pub use disk::{Directory, Disk, DiskFile, NoDisk};
pub use recovery::{Cut, Loss, RecoveryReport};
pub use state::Retention;

use crate::{
    BoxFuture, Committed, Engine, Entry, Error, KeyRange, OpenError, RangeRequest, RangeResponse,
    Revision, Store, Txn, WatchSource,
};
use hub::{Announcement, Hub};
use journal::{Journal, Layout};
use writer::{Decision, Desk, Published};

/// How the engine is set up. The defaults suit a cluster of any size.
#[derive(Clone)]
pub struct Config {
    pub retention: Retention,
    /// The log is kept in files of this size.
    pub segment_bytes: u64,
    /// A snapshot is taken once this much, and as much as the live data, was logged since the last.
    pub snapshot_bytes: u64,
    pub clock: Arc<dyn Clock>,
}

/// The engine. Closing it, or dropping it, ends its threads.
pub struct Embedded {
    desk: Arc<Desk>,
    published: Arc<Published>,
    hub: Arc<Hub>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// Opens the store in a directory, which is made if need be; the report says what was found. Blocks until the data is
/// loaded.
pub fn open(path: &Path, config: Config) -> Result<(Store, RecoveryReport), OpenError> {
    let disk = Directory::lock(path)?;
    let (engine, report) = Embedded::open(Arc::new(disk), config)?;
    Ok((Store::new(engine), report))
}

/// A store that forgets everything when it is dropped.
pub fn in_memory() -> Store {
    let config = Config { snapshot_bytes: u64::MAX, ..Config::default() };
    let (engine, _) = Embedded::open(Arc::new(NoDisk), config).expect("no disk, no error");
    Store::new(engine)
}

// === impl Config ===

impl Default for Config {
    fn default() -> Config {
        Config {
            retention: Retention::default(),
            segment_bytes: 16 << 20,
            snapshot_bytes: 16 << 20,
            clock: Arc::new(MonotonicClock::default()),
        }
    }
}

// === impl Embedded ===

impl Embedded {
    pub fn open(
        disk: Arc<dyn Disk>,
        config: Config,
    ) -> Result<(Embedded, RecoveryReport), OpenError> {
        let layout =
            Layout { segment_bytes: config.segment_bytes, snapshot_bytes: config.snapshot_bytes };
        let recovered = recovery::recover(&*disk, layout, config.clock.now())?;
        let mut journal = Journal::new(disk, layout, recovered.resume);
        if let Some(renewed) = recovered.renewed {
            let action = "log the recovered revision".to_owned();
            journal
                .renew(renewed, &recovered.state)
                .map_err(|source| OpenError::Io { action, source })?;
        }
        let published = Arc::new(Published::new(recovered.state.clone()));
        let desk = Desk::new(recovered.state, journal.ceiling(), config.retention, config.clock);
        Ok((Embedded::start(Arc::new(desk), published, journal), recovered.report))
    }

    fn start(desk: Arc<Desk>, published: Arc<Published>, journal: Journal) -> Embedded {
        let hub = Arc::new(Hub::new(published.load().revision));
        let (announce, announcements) = hub::announcements();
        let announcer = spawn("store-announcer", {
            let hub = hub.clone();
            move || hub.run(announcements)
        });
        let writer = spawn("store-writer", {
            let (desk, published) = (desk.clone(), published.clone());
            move || write_until_closed(&desk, &published, journal, announce)
        });
        Embedded { desk, published, hub, threads: Mutex::new(vec![writer, announcer]) }
    }

    fn join(&self) {
        let threads =
            std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the store panicked");
            }
        }
    }
}

impl Engine for Embedded {
    fn get<'a>(
        &'a self,
        key: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<Arc<Entry>>, Error>> {
        Box::pin(async move { self.published.load().get(key, at) })
    }

    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, Error>> {
        Box::pin(async move { self.published.load().range(&request) })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>> {
        Box::pin(async move {
            let Decision { outcome, settled } =
                self.desk.submit(&txn, self.published.load().revision);
            if let Some(settled) = settled {
                settled.await.unwrap_or_else(|_| Err(writer_is_gone()))?;
            }
            outcome
        })
    }

    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, Error>> {
        Box::pin(async move {
            let oldest = self.published.load().compacted;
            if after < oldest {
                return Err(Error::Compacted { requested: after, oldest });
            }
            let watcher = self.hub.watch(&self.published, range, after);
            Ok(Box::new(watcher) as Box<dyn WatchSource>)
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move { self.desk.compact(revision) })
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(async move { Ok(self.published.load().revision) })
    }

    /// Blocks its thread for as long as the last batch takes to write.
    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(async move {
            self.desk.close();
            self.join();
            Ok(())
        })
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.desk.close();
        self.join();
    }
}

/// The writer thread's life. Should it panic, nobody is left waiting for an answer.
fn write_until_closed(
    desk: &Desk,
    published: &Published,
    mut journal: Journal,
    announce: Sender<Announcement>,
) {
    let work = AssertUnwindSafe(|| while desk.step(&mut journal, published, &announce) {});
    if catch_unwind(work).is_err() {
        let error = writer_is_gone();
        desk.abandon(&error, published);
        let _ = announce.send(Announcement::End(error));
        return;
    }
    if let Err(error) = journal.close(&published.load()) {
        tracing::error!(%error, "the store was not closed cleanly, the next start recovers it");
    }
    // Fails only when the announcer is gone, and then there is nobody to tell.
    let _ = announce.send(Announcement::End(Error::Closed));
}

fn writer_is_gone() -> Error {
    Error::Unwritable { reason: "the writer thread panicked".into() }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> JoinHandle<()> {
    std::thread::Builder::new().name(name.into()).spawn(work).expect("a process can start a thread")
}
