//! The work queue of one controller: keys to look at, each at most once, each never by two workers at a time.
//!
//! Counterpart: client-go `util/workqueue` (dedup, delay, per-item exponential back-off). One consumer awaits `next`;
//! any thread may `add`. There is no ticking: the consumer sleeps until an add or the earliest delayed key.
//! Differs from upstream: a key that was dear rests before it is handed out again, so that what happens to each of ten
//! thousand pods costs a look at all of them a few times, not ten thousand times.
//! Invariant: a key added while it is being processed is handed out again after `done`, exactly once.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use super::clock::Clock;
use super::store::Key;

const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(1000);

/// A run that took less processor time is cheap enough to be had again at once.
const CHEAP: Duration = Duration::from_millis(2);
/// Others rest so many times as long as they took: a key has at most a fifth of a processor.
const REST: u32 = 4;

#[derive(Default)]
pub struct WorkQueue {
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    ready: VecDeque<Key>,
    /// Keys that are in `ready`, or must go there when their present run is done.
    dirty: HashSet<Key>,
    /// Keys that are being worked on or rest from it.
    processing: HashSet<Key>,
    resting: BTreeSet<(Instant, Key)>,
    delayed: BTreeSet<(Instant, Key)>,
    due: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

// === impl WorkQueue ===

impl WorkQueue {
    /// Delays are those of `clock`.
    pub fn new(clock: Clock) -> WorkQueue {
        WorkQueue { clock, ..WorkQueue::default() }
    }

    pub fn add(&self, key: Key) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    /// Adds the key after a delay; of several delays for one key the earliest counts.
    pub fn add_after(&self, key: Key, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        self.lock().add_at(key, self.clock.instant() + delay);
        self.changed.notify_one();
    }

    /// Adds a key that failed, later after each failure in a row.
    pub fn add_failed(&self, key: Key) {
        let failures = {
            let mut state = self.lock();
            let count = state.failures.entry(key.clone()).or_default();
            *count += 1;
            *count
        };
        self.add_after(key, back_off(failures));
    }

    /// The key did well: its next failure waits shortly again.
    pub fn forget(&self, key: &Key) {
        self.lock().failures.remove(key);
    }

    /// The next key to work on; it stays reserved until `done`.
    pub async fn next(&self) -> Key {
        loop {
            let wake = {
                let mut state = self.lock();
                state.promote_due(self.clock.instant());
                if let Some(key) = state.take() {
                    return key;
                }
                state.next_due()
            };
            match wake {
                Some(at) => {
                    tokio::select! { () = self.clock.sleep_until(at) => {}, () = self.changed.notified() => {} }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// The run is over; `busy` is the processor time it took.
    pub fn done(&self, key: Key, busy: Duration) {
        let mut state = self.lock();
        match busy < CHEAP {
            true => state.release(key),
            false => drop(state.resting.insert((self.clock.instant() + busy * REST, key))),
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Keys waiting to be handed out at once.
    pub fn depth(&self) -> usize {
        self.lock().ready.len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic happens while the queue is locked")
    }
}

// === impl State ===

impl State {
    fn add(&mut self, key: Key) {
        if self.dirty.insert(key.clone()) && !self.processing.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn add_at(&mut self, key: Key, at: Instant) {
        match self.due.get(&key) {
            Some(earlier) if *earlier <= at => return,
            Some(later) => {
                let later = (*later, key.clone());
                self.delayed.remove(&later);
            }
            None => {}
        }
        self.due.insert(key.clone(), at);
        self.delayed.insert((at, key));
    }

    /// The key may be handed out again, and is if it was added meanwhile.
    fn release(&mut self, key: Key) {
        self.processing.remove(&key);
        if self.dirty.contains(&key) {
            self.ready.push_back(key);
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let delayed = self.delayed.first().map(|(at, _)| *at);
        let resting = self.resting.first().map(|(at, _)| *at);
        delayed.into_iter().chain(resting).min()
    }

    fn promote_due(&mut self, now: Instant) {
        while let Some((at, _)) = self.resting.first()
            && *at <= now
        {
            let (_, key) = self.resting.pop_first().expect("the set has a first element");
            self.release(key);
        }
        while let Some((at, _)) = self.delayed.first()
            && *at <= now
        {
            let (_, key) = self.delayed.pop_first().expect("the set has a first element");
            self.due.remove(&key);
            self.add(key);
        }
    }

    fn take(&mut self) -> Option<Key> {
        let key = self.ready.pop_front()?;
        self.dirty.remove(&key);
        self.processing.insert(key.clone());
        Some(key)
    }
}

fn back_off(failures: u32) -> Duration {
    FIRST_BACK_OFF
        .saturating_mul(2u32.saturating_pow(failures.saturating_sub(1)))
        .min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    async fn idle(queue: &WorkQueue) -> bool {
        tokio::time::timeout(Duration::from_millis(1), queue.next()).await.is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once() {
        let queue = WorkQueue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("a"));
        assert!(idle(&queue).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_processed_comes_again_only_after_done() {
        let queue = WorkQueue::default();
        queue.add(key("a"));
        let a = queue.next().await;
        queue.add(key("a"));
        assert!(idle(&queue).await);
        queue.done(a.clone(), Duration::ZERO);
        assert_eq!(queue.next().await, a);
    }

    #[tokio::test(start_paused = true)]
    async fn a_dear_key_rests_before_it_comes_again_and_keeps_no_other_waiting() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add(key("dear"));
        let dear = queue.next().await;
        queue.add(key("dear"));
        queue.done(dear, Duration::from_millis(100));
        queue.add(key("dear"));
        queue.add(key("other"));
        assert_eq!(queue.next().await, key("other"));
        assert!(start.elapsed().is_zero());
        assert_eq!(queue.next().await, key("dear"));
        assert_eq!(start.elapsed().as_millis(), 400);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_counts() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(10));
        queue.add_after(key("a"), Duration::from_secs(30));
        queue.next().await;
        assert_eq!(start.elapsed().as_secs(), 10);
        queue.done(key("a"), Duration::ZERO);
        assert!(tokio::time::timeout(Duration::from_secs(100), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_put_off_to_tomorrow_is_due_when_the_clock_says_so() {
        let (clock, hand) = Clock::by_hand();
        let (queue, day) = (WorkQueue::new(clock), Duration::from_secs(86_400));
        queue.add_after(key("a"), day);
        assert!(idle(&queue).await);
        hand.advance(day);
        assert!(!idle(&queue).await);
    }

    #[test]
    fn back_off_doubles_to_a_limit() {
        assert_eq!(back_off(1), Duration::from_millis(5));
        assert_eq!(back_off(4), Duration::from_millis(40));
        assert_eq!(back_off(400), LONGEST_BACK_OFF);
    }
}
