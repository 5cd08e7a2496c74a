//! Delivery: published events in, awake watchers out.
//!
//! Watchers of the same range form a group. A group keeps a short ring of the batches its watchers have not all taken yet;
//! a batch is one shared slice, so a thousand watchers cost a thousand pointer copies. Groups are found by the prefixes of
//! an event's key: a write to a lease wakes no watcher of pods.
//!
//! Watchers beyond a number (`COHORT`) form another group of the same range. Groups that have something to take are woken
//! in turn, and after each the next waits for as long as its watchers are busy, which is learnt from how they did in the
//! turns before ([`Turns`]). So the more watchers there are, the more events each takes in one go, and the work comes
//! evenly instead of in one heap that writers and other watchers would have to wait behind.
//!
//! A watcher that falls behind its ring reads history from the published state instead, step by step, and joins the ring
//! again where history ends; one that falls behind history gets `Compacted`. So nobody's slowness costs more than a ring.
//!
//! Counterpart: etcd's watchable store (synced and unsynced watchers), and the dispatch of the API server's watch cache.
//! Invariant: a state is published before its events are announced, so what a ring no longer has, history does.

mod group;
mod turns;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use group::{Behind, Group, RING_AGE};
use turns::Turns;

#[cfg(test)]
pub(super) use group::MILESTONE_EVERY;

use super::writer::Published;
use crate::{BoxFuture, Error, Events, Key, KeyRange, Revision, WatchSource};

/// How many watchers are woken at a time.
const COHORT: u32 = 100;
/// How many events of history a watcher looks at in one step.
const REPLAY_STEP: usize = 4096;

/// What the announcer thread is told.
pub(super) enum Announcement {
    Events(Vec<Events>, Revision),
    /// The engine is closing: watchers get this error once they have seen everything.
    End(Error),
}

pub(super) struct Hub {
    groups: Mutex<Groups>,
    /// Every event up to this revision has reached its groups.
    announced: AtomicU64,
}

#[derive(Default)]
struct Groups {
    by_prefix: HashMap<Key, Vec<Arc<Group>>>,
    by_key: HashMap<Key, Vec<Arc<Group>>>,
    others: Vec<Arc<Group>>,
    ended: Option<Error>,
}

/// One watcher: where it is, and whether it reads the ring or history.
pub(super) struct Watcher {
    hub: Arc<Hub>,
    published: Arc<Published>,
    group: Arc<Group>,
    /// Everything up to here has been returned.
    position: Revision,
    /// The batch of the ring to take next.
    cursor: u64,
    /// History is still to be read before the ring.
    replaying: bool,
}

// === impl Hub ===

impl Hub {
    /// Watchers can be told from the first moment that they have seen everything up to `revision`.
    pub fn new(revision: Revision) -> Hub {
        Hub { groups: Mutex::default(), announced: AtomicU64::new(revision.0) }
    }

    /// Joins the range's group. The ring is entered first and history read after, so that no event falls between.
    pub fn watch(
        self: &Arc<Hub>,
        published: &Arc<Published>,
        range: KeyRange,
        after: Revision,
    ) -> Watcher {
        let mut groups = lock(&self.groups);
        let group = groups.of_range(range);
        let mut ring = lock(&group.ring);
        ring.watchers += 1;
        if let Some(error) = &groups.ended {
            ring.ended = Some(error.clone());
        }
        let cursor = ring.next;
        drop(ring);
        let (hub, published) = (self.clone(), published.clone());
        Watcher { hub, published, group, position: after, cursor, replaying: true }
    }

    /// The announcer thread: hands events to groups and wakes them, at once or when their pace allows.
    pub fn run(&self, announcements: Receiver<Announcement>) {
        let mut turns = Turns::new();
        let mut shed = Instant::now();
        loop {
            let announcement = match turns.next() {
                None => announcements.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(due) => {
                    announcements.recv_timeout(due.saturating_duration_since(Instant::now()))
                }
            };
            match announcement {
                Ok(Announcement::Events(events, revision)) => {
                    self.announce(&events, revision, &mut turns)
                }
                Ok(Announcement::End(error)) => return self.end(error),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            let now = turns.wake();
            if now >= shed + RING_AGE {
                shed = now;
                lock(&self.groups).all().for_each(|group| lock(&group.ring).shed(now));
            }
        }
    }

    fn announce(&self, transactions: &[Events], revision: Revision, turns: &mut Turns) {
        let groups = lock(&self.groups);
        let reached = Revision(self.announced.load(Ordering::Relaxed));
        for event in transactions.iter().flat_map(|events| events.iter()) {
            groups.each_holding(event.key(), |group| {
                let mut ring = lock(&group.ring);
                if ring.pending.is_empty() {
                    ring.note_milestone(reached);
                    turns.add(group);
                }
                ring.pending.push(event.clone());
                ring.last = event.revision();
            });
        }
        self.announced.store(revision.0, Ordering::Release);
    }

    /// Lets every watcher take what there is and then learn that no more will come.
    fn end(&self, error: Error) {
        let mut groups = lock(&self.groups);
        groups.ended = Some(error.clone());
        for group in groups.all() {
            let mut ring = lock(&group.ring);
            ring.make_batch();
            ring.ended = Some(error.clone());
            drop(ring);
            group.arrived.notify_waiters();
        }
    }

    fn leave(&self, group: &Arc<Group>) {
        let mut groups = lock(&self.groups);
        let mut ring = lock(&group.ring);
        ring.watchers -= 1;
        if ring.watchers == 0 {
            groups.remove(group);
        }
    }
}

pub(super) fn announcements() -> (Sender<Announcement>, Receiver<Announcement>) {
    std::sync::mpsc::channel()
}

// === impl Groups ===

impl Groups {
    fn of_range(&mut self, range: KeyRange) -> Arc<Group> {
        let cohorts = match (aligned_prefix(&range), range.as_single()) {
            (Some(prefix), _) => self.by_prefix.entry(prefix.clone()).or_default(),
            (None, Some(key)) => self.by_key.entry(key.clone()).or_default(),
            (None, None) => &mut self.others,
        };
        let with_room = |group: &&Arc<Group>| group.range == range && group.watchers() < COHORT;
        if let Some(group) = cohorts.iter().find(with_room) {
            return group.clone();
        }
        let group = Arc::new(Group::new(range));
        cohorts.push(group.clone());
        group
    }

    fn each_holding(&self, key: &str, mut visit: impl FnMut(&Arc<Group>)) {
        let prefixes = key.match_indices('/').map(|(slash, _)| &key[..=slash]);
        prefixes.filter_map(|prefix| self.by_prefix.get(prefix)).flatten().for_each(&mut visit);
        self.by_key.get(key).into_iter().flatten().for_each(&mut visit);
        self.others.iter().filter(|group| group.range.contains(key)).for_each(&mut visit);
    }

    fn all(&self) -> impl Iterator<Item = &Arc<Group>> {
        let grouped = self.by_prefix.values().chain(self.by_key.values());
        grouped.flatten().chain(&self.others)
    }

    fn remove(&mut self, group: &Arc<Group>) {
        match (aligned_prefix(&group.range), group.range.as_single()) {
            (Some(prefix), _) => remove_from(&mut self.by_prefix, prefix, group),
            (None, Some(key)) => remove_from(&mut self.by_key, key, group),
            (None, None) => self.others.retain(|other| !Arc::ptr_eq(other, group)),
        }
    }
}

fn remove_from(groups: &mut HashMap<Key, Vec<Arc<Group>>>, key: &Key, group: &Arc<Group>) {
    let Some(cohorts) = groups.get_mut(key) else { return };
    cohorts.retain(|other| !Arc::ptr_eq(other, group));
    if cohorts.is_empty() {
        groups.remove(key);
    }
}

/// A prefix that ends where a path segment does can be looked up; any other range is asked one by one.
fn aligned_prefix(range: &KeyRange) -> Option<&Key> {
    range.as_prefix().filter(|prefix| prefix.ends_with('/'))
}

// === impl Watcher ===

impl WatchSource for Watcher {
    fn next(&mut self) -> BoxFuture<'_, Result<Events, Error>> {
        Box::pin(async move {
            loop {
                let events = match self.replaying {
                    true => self.replay()?,
                    false => self.take().await?,
                };
                if let Some(last) = events.last() {
                    self.position = last.revision();
                    return Ok(events);
                }
            }
        })
    }

    fn progress(&mut self) -> Revision {
        let announced = Revision(self.hub.announced.load(Ordering::Acquire));
        let ring = lock(&self.group.ring);
        let idle = !self.replaying && self.cursor == ring.next && ring.pending.is_empty();
        drop(ring);
        if idle {
            self.position = self.position.max(announced);
        }
        self.position
    }
}

impl Watcher {
    /// One step through history. At its end the ring takes over: it was entered before this state was published.
    fn replay(&mut self) -> Result<Events, Error> {
        let state = self.published.load();
        let (events, reached) =
            state.events_after(&self.group.range, self.position, REPLAY_STEP)?;
        if events.is_empty() {
            self.position = reached;
        }
        self.replaying = reached < state.revision;
        Ok(events.into())
    }

    /// The next batch of the ring, less what history has already told.
    async fn take(&mut self) -> Result<Events, Error> {
        let group = self.group.clone();
        loop {
            // Asked for before looking, so that it also hears of a batch made in between.
            let arrived = group.arrived.notified();
            {
                let mut ring = lock(&group.ring);
                match (ring.batch(self.cursor), &ring.ended) {
                    (Ok(Some(batch)), _) => {
                        self.cursor += 1;
                        let events = self.unseen(batch);
                        ring.taken += 1;
                        return Ok(events);
                    }
                    (Ok(None), Some(error)) => return Err(error.clone()),
                    (Ok(None), None) => {}
                    (Err(Behind), _) => {
                        self.position = ring.reached_at(self.position);
                        self.cursor = ring.next;
                        self.replaying = true;
                        return Ok(Events::default());
                    }
                }
            }
            arrived.await;
        }
    }

    fn unseen(&self, batch: &Events) -> Events {
        match batch.first().is_some_and(|first| first.revision() > self.position) {
            true => batch.clone(),
            false => {
                batch.iter().filter(|event| event.revision() > self.position).cloned().collect()
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.hub.leave(&self.group);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is changed in steps that cannot panic half-way.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watchers_beyond_a_cohort_form_another_group_of_their_range() {
        let mut groups = Groups::default();
        let range = KeyRange::prefix("/p/");
        let mut joined: Vec<Arc<Group>> = Vec::new();
        for _ in 0..2 * COHORT {
            let group = groups.of_range(range.clone());
            lock(&group.ring).watchers += 1;
            joined.push(group);
        }
        let heard = |groups: &Groups| {
            let mut count = 0;
            groups.each_holding("/p/a", |_| count += 1);
            count
        };
        assert_eq!(heard(&groups), 2);
        assert!(Arc::ptr_eq(&joined[0], &joined[COHORT as usize - 1]));
        groups.remove(&joined[0]);
        assert_eq!(heard(&groups), 1);
        groups.remove(&joined[COHORT as usize]);
        assert_eq!((heard(&groups), groups.by_prefix.len()), (0, 0));
    }
}
