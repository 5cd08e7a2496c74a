//! The one order of writes: transactions are decided under a lock, made durable in batches, then published.
//!
//! A commit is decided against the *head*, which includes writes still on their way to the disk, so that pipelined
//! compare-and-swaps see each other. The writer thread takes everything queued as one batch, for which it lets more gather
//! while many are writing, gives it to the journal, and only then replaces the published state, answers the committers
//! and announces the events. Reads use the published state alone, so they wait neither for the disk nor for a writer.
//!
//! An answer that tells of the head before it is durable (a conflict with a pending write) waits for it like a commit.
//! After a failed durable write nothing more is accepted: the disk and the head may differ until the store is opened again.
//!
//! Invariant: revisions are published in order, and none before everything up to it is as durable as was asked for.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::oneshot;

use super::clock::Clock;
use super::hub::Announcement;
use super::journal::Journal;
use super::state::{Retention, State};
use super::transaction;
use crate::{Committed, Durability, Error, Event, EventKind, Events, Revision, Txn};

/// How many events of history are dropped at most between two batches.
const FORGET_STEP: usize = 1024;
/// A batch of so many was written by a crowd, and the next one gets a moment to gather.
const CROWD: usize = 8;
/// What has gathered when there are so many is not kept waiting.
const ENOUGH: usize = 48;
/// The moment: a few times what a fast disk takes to sync.
const GATHERING: Duration = Duration::from_micros(600);
/// Expired history is looked for no more often than this.
const EXPIRY_STEP: Duration = Duration::from_secs(1);

/// The state that readers see.
pub(super) struct Published(RwLock<Arc<State>>);

/// Where committers and the writer thread meet.
pub(super) struct Desk {
    head: Mutex<Head>,
    work: Condvar,
    retention: Retention,
    clock: Arc<dyn Clock>,
}

struct Head {
    state: State,
    queue: Vec<Pending>,
    /// Revisions up to here may be given to volatile writes: a crash will not hand them out again.
    ceiling: Revision,
    /// Whether `state` has forgotten history that the published state still has.
    trimmed: bool,
    /// Whether the writer thread waits for work. While it writes it need not be woken, which is a system call.
    asleep: bool,
    refusal: Option<Error>,
    closing: bool,
    /// How many transactions the batch before this one held.
    last_batch: usize,
}

/// A decided transaction on its way to the disk; without events, an answer that must wait for those before it.
pub(super) struct Pending {
    pub events: Events,
    pub durable: bool,
    reply: oneshot::Sender<Result<(), Error>>,
}

/// What the writer thread does in one go.
pub(super) struct Batch {
    pub pending: Vec<Pending>,
    /// The head once all of `pending` has happened.
    pub state: State,
}

/// A transaction's outcome, and what must be durable before it is told.
pub(super) struct Decision {
    pub outcome: Result<Committed, Error>,
    pub settled: Option<oneshot::Receiver<Result<(), Error>>>,
}

// === impl Published ===

impl Published {
    pub fn new(state: State) -> Published {
        Published(RwLock::new(Arc::new(state)))
    }

    pub fn load(&self) -> Arc<State> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn store(&self, state: State) {
        let state = Arc::new(state);
        let last =
            std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), state);
        // Freed here, after the lock: it may be the last hold on a lot of history.
        drop(last);
    }
}

// === impl Desk: committers ===

impl Desk {
    pub fn new(
        state: State,
        ceiling: Revision,
        retention: Retention,
        clock: Arc<dyn Clock>,
    ) -> Desk {
        let head = Head {
            state,
            queue: Vec::new(),
            ceiling,
            trimmed: false,
            asleep: false,
            refusal: None,
            closing: false,
            last_batch: 0,
        };
        Desk { head: Mutex::new(head), work: Condvar::new(), retention, clock }
    }

    /// Decides a transaction and queues it. `published` is what readers see at this moment or saw a moment ago.
    pub fn submit(&self, txn: &Txn, published: Revision) -> Decision {
        let mut head = self.lock();
        if let Some(refusal) = &head.refusal {
            return Decision { outcome: Err(refusal.clone()), settled: None };
        }
        let (outcome, events, durable) =
            match transaction::decide(&head.state, txn, self.clock.now()) {
                Ok(events) => {
                    let durable = head.take_in(txn, &events);
                    let revision = head.state.revision;
                    (Ok(Committed { revision, events: events.clone() }), events, durable)
                }
                Err(error) if head.state.revision > published => {
                    (Err(error), Events::default(), false)
                }
                Err(error) => return Decision { outcome: Err(error), settled: None },
            };
        let (reply, settled) = oneshot::channel();
        head.queue.push(Pending { events, durable, reply });
        self.wake(head);
        Decision { outcome, settled: Some(settled) }
    }

    /// Declares history before a revision unreadable and has the writer thread drop it.
    pub fn compact(&self, revision: Revision) -> Result<(), Error> {
        let mut head = self.lock();
        if revision > head.state.revision {
            let current = head.state.revision;
            return Err(Error::FutureRevision { requested: revision, current });
        }
        if revision < head.state.compacted {
            return Err(Error::Compacted { requested: revision, oldest: head.state.compacted });
        }
        head.state.compact(revision);
        head.trimmed = true;
        self.wake(head);
        Ok(())
    }

    /// No more is accepted; the writer thread finishes what is queued and ends.
    pub fn close(&self) {
        let mut head = self.lock();
        head.refusal = Some(Error::Closed);
        head.closing = true;
        self.wake(head);
    }

    /// Has the writer thread look at what was left on the desk.
    fn wake(&self, mut head: MutexGuard<'_, Head>) {
        let asleep = std::mem::take(&mut head.asleep);
        drop(head);
        if asleep {
            self.work.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Head> {
        self.head.lock().expect("no transaction is decided half-way")
    }
}

// === impl Desk: the writer thread ===

impl Desk {
    /// Waits for a batch and sees it through; false once the store is closed and everything is done.
    pub fn step(
        &self,
        journal: &mut Journal,
        published: &Published,
        hub: &Sender<Announcement>,
    ) -> bool {
        let Some(batch) = self.next_batch() else { return false };
        match journal.append(&batch) {
            Ok(()) => self.publish(batch, journal.ceiling(), published, hub),
            Err(error) => self.refuse(batch, &error, published),
        }
        true
    }

    /// Waits for work: queued transactions, or history that has grown too old. None once closed and drained.
    fn next_batch(&self) -> Option<Batch> {
        let mut head = self.gathered();
        loop {
            let dropped = head.state.forget(&self.retention, self.clock.now(), FORGET_STEP);
            if !head.queue.is_empty() || head.trimmed || dropped > 0 {
                // A full step means that there is more to drop: come back without waiting.
                head.trimmed = dropped == FORGET_STEP;
                let pending = std::mem::take(&mut head.queue);
                head.last_batch = pending.len();
                return Some(Batch { pending, state: head.state.clone() });
            }
            if head.closing {
                return None;
            }
            head = self.sleep(head);
        }
    }

    /// The head, after a moment for more to come when many are writing: what a sync and a new state cost is shared by all
    /// of a batch, and saves each of them more than the moment takes. A few writers never wait for others.
    fn gathered(&self) -> MutexGuard<'_, Head> {
        let head = self.lock();
        if !head.waits_for_more() {
            return head;
        }
        drop(head);
        std::thread::sleep(GATHERING);
        self.lock()
    }

    /// An idle store wakes only when its history expires.
    fn sleep<'a>(&self, mut head: MutexGuard<'a, Head>) -> MutexGuard<'a, Head> {
        const POISONED: &str = "no transaction is decided half-way";
        head.asleep = true;
        let mut head = match head.state.next_expiry(&self.retention) {
            None => self.work.wait(head).expect(POISONED),
            Some(expiry) => {
                let left = expiry.saturating_sub(self.clock.now());
                self.work.wait_timeout(head, left.max(EXPIRY_STEP)).expect(POISONED).0
            }
        };
        head.asleep = false;
        head
    }

    fn publish(
        &self,
        batch: Batch,
        ceiling: Revision,
        published: &Published,
        hub: &Sender<Announcement>,
    ) {
        let revision = batch.state.revision;
        published.store(batch.state);
        self.lock().ceiling = ceiling;
        let mut events = Vec::with_capacity(batch.pending.len());
        for pending in batch.pending {
            events.push(pending.events);
            // A committer that has given up waiting does not take its write back.
            let _ = pending.reply.send(Ok(()));
        }
        // Fails only when the announcer is gone, which outlives this thread.
        let _ = hub.send(Announcement::Events(events, revision));
    }

    fn refuse(&self, batch: Batch, error: &io::Error, published: &Published) {
        tracing::error!(%error, "a durable write failed, the store takes no more until it is opened again");
        let refusal = Error::Unwritable { reason: error.to_string().into() };
        self.abandon(&refusal, published);
        for pending in batch.pending {
            let _ = pending.reply.send(Err(refusal.clone()));
        }
    }

    /// Takes the head back to what readers see: nothing that is still queued may ever be published.
    pub fn abandon(&self, refusal: &Error, published: &Published) {
        let mut head = self.lock();
        head.refusal.get_or_insert_with(|| refusal.clone());
        head.state = State::clone(&published.load());
        let queued = std::mem::take(&mut head.queue);
        drop(head);
        for pending in queued {
            let _ = pending.reply.send(Err(refusal.clone()));
        }
    }
}

// === impl Head ===

impl Head {
    fn waits_for_more(&self) -> bool {
        !self.closing && self.last_batch >= CROWD && self.queue.len() < ENOUGH
    }

    /// Makes a decided transaction part of the head; says whether it has to reach the disk.
    fn take_in(&mut self, txn: &Txn, events: &Events) -> bool {
        let durable = txn.durability == Durability::Durable || !self.may_float(events);
        events.iter().for_each(|event| self.state.apply(event.clone()));
        durable && !events.is_empty()
    }

    /// A volatile write may stay in memory only if a crash can neither lose the key altogether nor hand out its revision
    /// again: the key must be known on disk as a heartbeat, and the revision must have been reserved.
    fn may_float(&self, events: &Events) -> bool {
        let beats = |event: &Arc<Event>| {
            event.kind == EventKind::Put && event.previous().is_some_and(|last| last.heartbeat)
        };
        self.state.revision.next() <= self.ceiling && events.iter().all(beats)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::clock::MonotonicClock;

    #[test]
    fn only_a_crowd_waits_for_more_and_not_once_enough_have_come_or_the_store_closes() {
        let waits = |last_batch: usize, queued: usize, closing: bool| {
            let clock = Arc::new(MonotonicClock::default());
            let desk = Desk::new(State::default(), Revision(0), Retention::default(), clock);
            let mut head = desk.lock();
            let pending = || Pending {
                events: Events::default(),
                durable: false,
                reply: oneshot::channel().0,
            };
            head.queue = std::iter::repeat_with(pending).take(queued).collect();
            (head.last_batch, head.closing) = (last_batch, closing);
            head.waits_for_more()
        };
        assert!(waits(CROWD, 1, false));
        assert!(!waits(CROWD - 1, 1, false), "a few writers wait for nobody");
        assert!(!waits(CROWD, ENOUGH, false));
        assert!(!waits(CROWD, 1, true));
    }
}
