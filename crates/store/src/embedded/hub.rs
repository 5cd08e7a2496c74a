//! Delivery: published events in, awake watchers out.
//!
//! Watchers of the same range form a group. A group keeps a short ring of the batches its watchers have not all taken yet;
//! a batch is one shared slice, so a thousand watchers cost a thousand pointer copies. Groups are found by the prefixes of
//! an event's key: a write to a lease wakes no watcher of pods.
//!
//! Watchers beyond a number (`COHORT`) form another group of the same range. Groups that have something to take are woken
//! in turn, and after each the next waits for as long as its watchers are busy, which is learnt from how they did in the
//! turns before ([`Pace`]). So the more watchers there are, the more events each takes in one go, and the work comes
//! evenly instead of in one heap that writers and other watchers would have to wait behind.
//!
//! A watcher that falls behind its ring reads history from the published state instead, step by step, and joins the ring
//! again where history ends; one that falls behind history gets `Compacted`. So nobody's slowness costs more than a ring.
//!
//! Counterpart: etcd's watchable store (synced and unsynced watchers), and the dispatch of the API server's watch cache.
//! Invariant: a state is published before its events are announced, so what a ring no longer has, history does.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::writer::Published;
use crate::{BoxFuture, Error, Event, Events, Key, KeyRange, Revision, WatchSource};

/// What waking one watcher costs, its work included: a first guess, and what it never is less or more than.
const WAKE_COST: Duration = Duration::from_micros(20);
const LEAST_COST: Duration = Duration::from_micros(2);
const MOST_COST: Duration = Duration::from_micros(40);
/// How many watchers are woken at a time.
const COHORT: u32 = 100;
/// A group of so few never waits for its turn.
const FEW: u32 = 8;
/// What a ring may hold before the slowest watchers have to read history.
const RING_BATCHES: usize = 256;
const RING_BYTES: usize = 4 << 20;
/// Watchers have long taken a batch of this age; who has not reads history. Looked for at most this often, too.
const RING_AGE: Duration = Duration::from_secs(5);
/// How often a group notes how far its watchers were, and how many such notes it keeps: as long as history usually is.
pub(super) const MILESTONE_EVERY: Duration = Duration::from_secs(1);
const MILESTONES: usize = 512;
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

/// Groups with something to take, and who is next.
struct Turns {
    waiting: VecDeque<Arc<Group>>,
    /// When those woken last are expected to be done.
    free: Instant,
    pace: Pace,
}

/// What waking a watcher costs here and now: on a busy machine more, and with many events at a time, too.
struct Pace {
    cost: Duration,
    /// The group woken last, and how many batches it will have given out when nearly all its watchers have taken theirs.
    last: Option<(Weak<Group>, u64)>,
}

/// Watchers of one range, up to a cohort of them.
struct Group {
    range: KeyRange,
    ring: Mutex<Ring>,
    arrived: Notify,
}

#[derive(Default)]
struct Ring {
    watchers: u32,
    batches: VecDeque<Batch>,
    bytes: usize,
    /// The number of batches ever made, and so the number of the next one.
    next: u64,
    /// How often a watcher took a batch.
    taken: u64,
    /// Announced, but not yet made a batch: the group was woken a moment ago.
    pending: Vec<Arc<Event>>,
    /// The revision of the last event announced.
    last: Revision,
    milestones: VecDeque<Milestone>,
    ended: Option<Error>,
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
            let announcement = match turns.waiting.is_empty() {
                true => announcements.recv().map_err(|_| RecvTimeoutError::Disconnected),
                false => {
                    announcements.recv_timeout(turns.free.saturating_duration_since(Instant::now()))
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
                    turns.waiting.push_back(group.clone());
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

// === impl Turns ===

impl Turns {
    fn new() -> Turns {
        let pace = Pace { cost: WAKE_COST, last: None };
        Turns { waiting: VecDeque::new(), free: Instant::now(), pace }
    }

    /// Wakes whose turn it is; says when that was.
    fn wake(&mut self) -> Instant {
        let now = Instant::now();
        self.waiting.retain(|group| {
            let watchers = group.watchers();
            let stays = watchers > FEW && self.free > now;
            if !stays {
                let cost = self.pace.wake(group);
                self.free = self.free.max(now) + cost * watchers;
            }
            stays
        });
        now
    }
}

// === impl Pace ===

impl Pace {
    /// Wakes the group. Learns from the large one before, which has had the time that it was expected to need.
    fn wake(&mut self, group: &Arc<Group>) -> Duration {
        let enough = group.wake();
        if group.watchers() > FEW
            && let Some((last, enough)) = self.last.replace((Arc::downgrade(group), enough))
            && let Some(last) = last.upgrade()
        {
            self.learn(last.taken() >= enough);
        }
        self.cost
    }

    /// Dearer at once when watchers were late, cheaper bit by bit as long as they are not.
    fn learn(&mut self, in_time: bool) {
        let cost = match in_time {
            true => self.cost - self.cost / 32,
            false => self.cost + self.cost / 8,
        };
        self.cost = cost.clamp(LEAST_COST, MOST_COST);
    }
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

// === impl Group ===

impl Group {
    fn new(range: KeyRange) -> Group {
        Group { range, ring: Mutex::default(), arrived: Notify::new() }
    }

    fn watchers(&self) -> u32 {
        lock(&self.ring).watchers
    }

    fn taken(&self) -> u64 {
        lock(&self.ring).taken
    }

    /// Makes what is pending a batch and wakes the watchers; says when nearly all of them will have taken it.
    fn wake(&self) -> u64 {
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
    fn make_batch(&mut self) {
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
    fn shed(&mut self, now: Instant) {
        while self.batches.front().is_some_and(|oldest| now >= oldest.at + RING_AGE) {
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        if let Some(oldest) = self.batches.pop_front() {
            self.bytes -= oldest.bytes;
        }
    }

    fn note_milestone(&mut self, reached: Revision) {
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
    fn reached_at(&self, position: Revision) -> Revision {
        let passed = self.milestones.iter().rev().find(|milestone| milestone.last <= position);
        passed.map_or(position, |milestone| milestone.reached.max(position))
    }

    /// The batch with this number, unless it is still to come.
    fn batch(&self, number: u64) -> Result<Option<&Events>, Behind> {
        let oldest = self.next - self.batches.len() as u64;
        match number.checked_sub(oldest) {
            None => Err(Behind),
            Some(index) => Ok(self.batches.get(index as usize).map(|batch| &batch.events)),
        }
    }
}

/// The ring no longer has what the watcher needs.
struct Behind;

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
    use crate::EventKind;
    use crate::embedded::transaction::tombstone;

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

    #[test]
    fn a_large_group_waits_for_those_woken_before_it_and_a_small_one_does_not() {
        let group = |watchers| {
            let group = Arc::new(Group::new(KeyRange::prefix("/p/")));
            lock(&group.ring).watchers = watchers;
            group
        };
        let waiting = VecDeque::from([group(COHORT), group(COHORT), group(FEW)]);
        let mut turns = Turns { waiting, ..Turns::new() };
        let woken = turns.wake();
        assert_eq!(turns.waiting.len(), 1);
        assert_eq!(turns.waiting[0].watchers(), COHORT);
        assert!(turns.free >= woken + WAKE_COST * COHORT);
    }

    #[test]
    fn groups_that_were_late_slow_the_pace_and_groups_in_time_quicken_it() {
        let group = Arc::new(Group::new(KeyRange::prefix("/p/")));
        lock(&group.ring).watchers = COHORT;
        let mut pace = Pace { cost: WAKE_COST, last: None };
        pace.wake(&group);
        let late = pace.wake(&group);
        assert!(late > WAKE_COST, "nobody took anything");
        lock(&group.ring).taken += u64::from(COHORT - COHORT / 10);
        assert!(pace.wake(&group) < late, "a tenth is not waited for");
        for _ in 0..1000 {
            pace.wake(&group);
        }
        assert_eq!(pace.cost, MOST_COST, "and no stuck group holds the others for ever");
    }

    #[test]
    fn a_ring_holds_no_more_than_its_size() {
        let mut ring = Ring::default();
        (1..=RING_BATCHES as u64 + 1).for_each(|revision| sealed(&mut ring, revision));
        assert!(ring.batch(0).is_err() && ring.batch(1).is_ok());
    }
}
