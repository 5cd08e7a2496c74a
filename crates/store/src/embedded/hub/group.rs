//! A group of watchers and its ring: the batches that not all of them have taken yet.
//!
//! Events as they are announced -> batches, made when the group is woken. A ring is bounded in number, bytes and age; who
//! needs what it no longer has reads history, from as late a revision as the milestones allow.
//! Invariant: batches are numbered without gaps, so a watcher's cursor says what it has missed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::lock;
use crate::{Error, Event, Events, KeyRange, Revision};

/// What a ring may hold before the slowest watchers have to read history.
const RING_BATCHES: usize = 256;
const RING_BYTES: usize = 4 << 20;
/// Watchers have long taken a batch of this age; who has not reads history. Looked for at most this often, too.
pub const RING_AGE: Duration = Duration::from_secs(5);
/// How often a group notes how far its watchers were, and how many such notes it keeps: as long as history usually is.
pub const MILESTONE_EVERY: Duration = Duration::from_secs(1);
const MILESTONES: usize = 512;

/// Watchers of one range, up to a cohort of them.
pub struct Group {
    pub range: KeyRange,
    pub ring: Mutex<Ring>,
    pub arrived: Notify,
}

#[derive(Default)]
pub struct Ring {
    pub watchers: u32,
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The number of batches ever made, and so the number of the next one.
    pub next: u64,
    /// How often a watcher took a batch.
    pub taken: u64,
    /// Announced, but not yet made a batch: the group was woken a moment ago.
    pub pending: Vec<Arc<Event>>,
    /// The revision of the last event announced.
    pub last: Revision,
    milestones: VecDeque<Milestone>,
    pub ended: Option<Error>,
}

struct Batch {
    events: Events,
    bytes: usize,
    at: Instant,
}

/// Whoever was given the range's event at `last` was given everything up to `reached`, for the range was silent in between.
/// A watcher that then misses a burst need not go further back than this.
struct Milestone {
    last: Revision,
    reached: Revision,
    at: Instant,
}

// === impl Group ===

impl Group {
    pub fn new(range: KeyRange) -> Group {
        Group { range, ring: Mutex::default(), arrived: Notify::new() }
    }

    pub fn watchers(&self) -> u32 {
        lock(&self.ring).watchers
    }

    pub fn taken(&self) -> u64 {
        lock(&self.ring).taken
    }

    /// Makes what is pending a batch and wakes the watchers; says when nearly all of them will have taken it.
    pub fn wake(&self) -> u64 {
        let mut ring = lock(&self.ring);
        ring.make_batch();
        // A tenth may be stuck and hold nobody back.
        let enough = ring.taken + u64::from(ring.watchers - ring.watchers / 10);
        drop(ring);
        self.arrived.notify_waiters();
        enough
    }
}

// === impl Ring ===

impl Ring {
    pub fn make_batch(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let bytes = self.pending.iter().map(|event| event.entry.weight() + event.weight()).sum();
        let events = self.pending.drain(..).collect();
        self.batches.push_back(Batch { events, bytes, at: Instant::now() });
        self.bytes += bytes;
        self.next += 1;
        while self.batches.len() > RING_BATCHES || self.bytes > RING_BYTES && self.batches.len() > 1
        {
            self.drop_oldest();
        }
    }

    /// Lets go of old batches, which would keep versions in memory that history has long forgotten.
    pub fn shed(&mut self, now: Instant) {
        while self.batches.front().is_some_and(|oldest| now >= oldest.at + RING_AGE) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= oldest.bytes;
        }
    }

    pub fn note_milestone(&mut self, reached: Revision) {
        let at = Instant::now();
        if self.milestones.back().is_some_and(|newest| at < newest.at + MILESTONE_EVERY) {
            return;
        }
        self.milestones.push_back(Milestone { last: self.last, reached, at });
        if self.milestones.len() > MILESTONES {
            self.milestones.pop_front();
        }
    }

    /// What a watcher has been given everything up to, if the last event it was given is at `position`.
    pub fn reached_at(&self, position: Revision) -> Revision {
        let passed = self.milestones.iter().rev().find(|milestone| milestone.last <= position);
        passed.map_or(position, |milestone| milestone.reached.max(position))
    }

    /// The batch with this number, unless it is still to come.
    pub fn batch(&self, number: u64) -> Result<Option<&Events>, Behind> {
        let oldest = self.next - self.batches.len() as u64;
        match number.checked_sub(oldest) {
            None => Err(Behind),
            Some(index) => Ok(self.batches.get(index as usize).map(|batch| &batch.events)),
        }
    }
}

/// The ring no longer has what the watcher needs.
pub struct Behind;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::embedded::transaction::tombstone;
    use crate::{EventKind, Key};

    fn sealed(ring: &mut Ring, revision: u64) {
        let entry = Arc::new(tombstone(&Key::from("/a"), &Default::default(), Revision(revision)));
        let at = Duration::ZERO;
        ring.pending.push(Arc::new(Event { kind: EventKind::Delete, entry, replaced: None, at }));
        ring.make_batch();
    }

    #[test]
    fn a_ring_sheds_what_is_old_and_tells_who_needed_it() {
        let mut ring = Ring::default();
        sealed(&mut ring, 1);
        assert!(matches!(ring.batch(0), Ok(Some(_))));
        ring.shed(Instant::now() + RING_AGE);
        assert!(ring.batch(0).is_err() && ring.bytes == 0);
        assert!(matches!(ring.batch(1), Ok(None)));
        sealed(&mut ring, 2);
        assert!(matches!(ring.batch(1), Ok(Some(batch)) if batch[0].revision() == Revision(2)));
    }

    #[test]
    fn a_ring_holds_no_more_than_its_size() {
        let mut ring = Ring::default();
        (1..=RING_BATCHES as u64 + 1).for_each(|revision| sealed(&mut ring, revision));
        assert!(ring.batch(0).is_err() && ring.batch(1).is_ok());
    }
}
