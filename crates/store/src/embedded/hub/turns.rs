//! Whose turn it is to be woken: large groups one after another, at a pace that is learnt.
//!
//! Groups with pending events in -> wake-ups out. Invariant: a group waits for those woken before it at the longest as
//! long as `MOST_COST` for each of their watchers, however many of them are stuck.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::group::Group;

/// What waking one watcher costs, its work included: a first guess, and what it never is less or more than.
const WAKE_COST: Duration = Duration::from_micros(20);
const LEAST_COST: Duration = Duration::from_micros(2);
const MOST_COST: Duration = Duration::from_micros(40);
/// A group of so few never waits for its turn.
const FEW: u32 = 8;

/// Groups with something to take, and who is next.
pub struct Turns {
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

// === impl Turns ===

impl Turns {
    pub fn new() -> Turns {
        let pace = Pace { cost: WAKE_COST, last: None };
        Turns { waiting: VecDeque::new(), free: Instant::now(), pace }
    }

    /// A group that was silent has something to take.
    pub fn add(&mut self, group: &Arc<Group>) {
        self.waiting.push_back(group.clone());
    }

    /// When the next turn is, if anybody waits for one.
    pub fn next(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.free)
    }

    /// Wakes whose turn it is; says when that was.
    pub fn wake(&mut self) -> Instant {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KeyRange;
    use crate::embedded::hub::COHORT;
    use crate::embedded::hub::lock;

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
}
