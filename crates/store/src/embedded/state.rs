//! One immutable view of the store: what is there now, and how it came to be since the last compaction.
//!
//! Three persistent maps, so a clone is a pointer copy and readers keep theirs while writers go on. `live` holds the
//! newest version of each key, `graves` the tombstones that history still tells of, `history` every event after
//! `compacted`. An older version is found by walking back: the event that made the newest version names the one it
//! replaced, and so on. Counterpart: etcd's treeIndex and its backend in one.
//!
//! Invariant: for every revision from `compacted` on, the events after it are all in `history`, and each holds on to the
//! version it replaced; so every read at such a revision can be answered from this view alone.

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, Vector};

use crate::{Entry, Error, Event, EventKind, Key, KeyRange, RangeRequest, RangeResponse, Revision};

/// How much history is kept for watchers and reads at older revisions. Whichever limit is met first counts.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    pub age: Duration,
    pub events: usize,
    /// Memory that only history holds on to: versions replaced or deleted since.
    pub bytes: usize,
}

#[derive(Clone, Default)]
pub(super) struct State {
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    live: OrdMap<Key, Arc<Entry>>,
    graves: OrdMap<Key, Arc<Entry>>,
    history: Vector<Arc<Event>>,
    history_bytes: usize,
    live_bytes: usize,
}

// === impl Retention ===

impl Default for Retention {
    /// Upstream's API server compacts etcd every five minutes; the other two bound a burst.
    fn default() -> Retention {
        Retention { age: Duration::from_secs(300), events: 200_000, bytes: 64 << 20 }
    }
}

// === impl State: reads ===

impl State {
    /// An empty state from which to load a snapshot taken at `revision`: nothing is known of the time before.
    pub fn starting_at(revision: Revision) -> State {
        State { revision, compacted: revision, ..State::default() }
    }

    /// The newest version of a key, or the tombstone that history still tells of: what the key's next event follows.
    pub fn newest(&self, key: &str) -> Option<&Arc<Entry>> {
        self.live.get(key).or_else(|| self.graves.get(key))
    }

    pub fn get(&self, key: &str, at: Option<Revision>) -> Result<Option<Arc<Entry>>, Error> {
        let at = self.readable(at)?;
        Ok(self.newest(key).and_then(|entry| self.version_at(entry, at)).cloned())
    }

    pub fn range(&self, request: &RangeRequest) -> Result<RangeResponse, Error> {
        let revision = self.readable(request.at)?;
        let mut page = Page::new(request);
        if request.range.is_empty() {
            return Ok(page.into_response(revision));
        }
        let within = request.range.bounds();
        let live = self.live.range::<_, str>(within).map(|(_, entry)| entry);
        if revision == self.revision {
            live.take_while(|entry| page.add(entry)).for_each(drop);
        } else {
            let graves = self.graves.range::<_, str>(within).map(|(_, grave)| grave);
            let then = merge(live, graves).filter_map(|newest| self.version_at(newest, revision));
            then.take_while(|entry| page.add(entry)).for_each(drop);
        }
        Ok(page.into_response(revision))
    }

    /// The events of a range after a revision, and the revision they reach to. Looks at no more than `budget` events, so
    /// that a long history is read in steps; a revision is never split.
    pub fn events_after(
        &self,
        range: &KeyRange,
        after: Revision,
        budget: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), Error> {
        if after < self.compacted {
            return Err(Error::Compacted { requested: after, oldest: self.compacted });
        }
        let mut history = self.history.focus();
        let (mut found, mut reached) = (Vec::new(), after);
        let start = self.first_after(after);
        for index in start..self.history.len() {
            let event = history.index(index);
            if index - start >= budget && event.revision() != reached {
                return Ok((found, reached));
            }
            reached = event.revision();
            if range.contains(event.key()) {
                found.push(event.clone());
            }
        }
        Ok((found, self.revision.max(after)))
    }

    /// Every live entry, in key order.
    pub fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.live.values()
    }

    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Roughly what the live entries weigh.
    pub fn live_bytes(&self) -> usize {
        self.live_bytes
    }

    fn readable(&self, at: Option<Revision>) -> Result<Revision, Error> {
        match at {
            None => Ok(self.revision),
            Some(requested) if requested > self.revision => {
                Err(Error::FutureRevision { requested, current: self.revision })
            }
            Some(requested) if requested < self.compacted => {
                Err(Error::Compacted { requested, oldest: self.compacted })
            }
            Some(requested) => Ok(requested),
        }
    }

    /// Walks back from a key's newest version to the one that stood at `at`.
    fn version_at<'a>(&'a self, newest: &'a Arc<Entry>, at: Revision) -> Option<&'a Arc<Entry>> {
        let mut entry = newest;
        while entry.mod_revision > at {
            entry = self.event_of(entry).replaced.as_ref()?;
        }
        (!entry.is_tombstone()).then_some(entry)
    }

    fn event_of(&self, entry: &Entry) -> &Event {
        let first = self.first_after(Revision(entry.mod_revision.0 - 1));
        (first..self.history.len())
            .map(|index| &self.history[index])
            .find(|event| event.entry.key == entry.key)
            .expect("history holds the event of every version newer than the compacted revision")
    }

    fn first_after(&self, revision: Revision) -> usize {
        let side = |event: &Arc<Event>| match event.revision() <= revision {
            true => Ordering::Less,
            false => Ordering::Greater,
        };
        self.history.binary_search_by(side).unwrap_or_else(|index| index)
    }
}

// === impl State: changes ===

impl State {
    /// Takes an event in. Events come in revision order.
    pub fn apply(&mut self, event: Arc<Event>) {
        debug_assert!(event.revision() >= self.revision, "events come in revision order");
        self.revision = event.revision();
        self.history_bytes += event.weight();
        let entry = &event.entry;
        match event.kind {
            EventKind::Put => {
                if event.replaced.as_ref().is_some_and(|last| last.is_tombstone()) {
                    self.graves.remove(&*entry.key);
                }
                self.insert(entry.clone());
            }
            EventKind::Delete => {
                if let Some(last) = self.live.remove(&*entry.key) {
                    self.live_bytes -= last.weight();
                }
                self.graves.insert(entry.key.clone(), entry.clone());
            }
        }
        self.history.push_back(event);
    }

    /// Takes in an entry of a snapshot, which has no history.
    pub fn insert(&mut self, entry: Arc<Entry>) {
        self.live_bytes += entry.weight();
        if let Some(last) = self.live.insert(entry.key.clone(), entry) {
            self.live_bytes -= last.weight();
        }
    }

    /// Declares everything before `revision` unreadable. The memory goes step by step, with [`State::forget`].
    pub fn compact(&mut self, revision: Revision) {
        self.compacted = self.compacted.max(revision.min(self.revision));
    }

    /// Drops up to `budget` events that are compacted or more than the retention allows, and says how many.
    pub fn forget(&mut self, retention: &Retention, now: Duration, budget: usize) -> usize {
        for dropped in 0..budget {
            let Some(oldest) = self.history.front() else { return dropped };
            if oldest.revision() > self.compacted && !self.overdue(oldest, retention, now) {
                return dropped;
            }
            self.compacted = self.compacted.max(oldest.revision());
            self.drop_oldest_event();
        }
        budget
    }

    /// When [`State::forget`] will next have something to do.
    pub fn next_expiry(&self, retention: &Retention) -> Option<Duration> {
        self.history.front().map(|oldest| oldest.at + retention.age)
    }

    fn overdue(&self, oldest: &Event, retention: &Retention, now: Duration) -> bool {
        now >= oldest.at + retention.age
            || self.history.len() > retention.events
            || self.history_bytes > retention.bytes
    }

    fn drop_oldest_event(&mut self) {
        let Some(event) = self.history.pop_front() else { return };
        self.history_bytes -= event.weight();
        let grave = self.graves.get(&**event.key());
        if event.kind == EventKind::Delete
            && grave.is_some_and(|grave| Arc::ptr_eq(grave, &event.entry))
        {
            self.graves.remove(&**event.key());
        }
    }
}

/// The part of a range that fits the limit, and a count of the rest.
struct Page {
    limit: usize,
    count: bool,
    entries: Vec<Arc<Entry>>,
    remaining: usize,
}

// === impl Page ===

impl Page {
    fn new(request: &RangeRequest) -> Page {
        let limit = request.limit.unwrap_or(usize::MAX);
        Page { limit, count: request.count, entries: Vec::new(), remaining: 0 }
    }

    /// Takes the next entry in, and says whether more are of interest.
    fn add(&mut self, entry: &Arc<Entry>) -> bool {
        if self.entries.len() < self.limit {
            self.entries.push(entry.clone());
            return true;
        }
        self.remaining += 1;
        self.count
    }

    fn into_response(self, revision: Revision) -> RangeResponse {
        RangeResponse { entries: self.entries, revision, remaining: self.remaining }
    }
}

/// Two runs of entries, each in key order, as one. No key is in both.
fn merge<'a>(
    live: impl Iterator<Item = &'a Arc<Entry>>,
    graves: impl Iterator<Item = &'a Arc<Entry>>,
) -> impl Iterator<Item = &'a Arc<Entry>> {
    let (mut live, mut graves) = (live.peekable(), graves.peekable());
    std::iter::from_fn(move || match (live.peek(), graves.peek()) {
        (Some(entry), Some(grave)) if grave.key < entry.key => graves.next(),
        (Some(_), _) => live.next(),
        (None, _) => graves.next(),
    })
}
