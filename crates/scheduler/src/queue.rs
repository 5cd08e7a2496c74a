//! Pods that wait to be scheduled: ready ones by priority and age, failed ones until back-off or a change lets them try.
//!
//! Counterpart: `pkg/scheduler/backend/queue` (activeQ, backoffQ, unschedulable pods with queueing hints).
//! Invariant: every pending pod this scheduler is responsible for is in exactly one place.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::cluster::ClusterEvent;
use crate::pod_info::PodInfo;

const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Queue {
    pods: HashMap<String, Pending>,
    /// Highest priority first, then oldest, then uid.
    active: BTreeSet<(Reverse<i32>, Timestamp, String)>,
    backing_off: BTreeSet<(Instant, String)>,
}

struct Pending {
    pod: Arc<PodInfo>,
    attempts: u32,
    place: Place,
}

#[derive(Clone, Debug, PartialEq)]
enum Place {
    Active,
    /// Tries again at this moment.
    BackingOff(Instant),
    /// Tries again when one of these happens, but not before its back-off ends.
    Unschedulable {
        retry_on: Vec<ClusterEvent>,
        not_before: Instant,
    },
    /// Has scheduling gates: only a change of the pod itself helps.
    Gated,
    /// Handed out; comes back by `failed` or leaves by `remove`.
    InFlight,
}

// === impl Queue ===

impl Queue {
    /// Adds a pending pod, or takes over a new version of it. A changed pod that did not fit may fit now.
    pub fn put(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid.clone();
        let known = self.pods.get(&uid);
        let attempts = known.map_or(0, |known| known.attempts);
        let place = match known.map(|known| known.place.clone()) {
            _ if pod.gated => Place::Gated,
            Some(place @ (Place::InFlight | Place::BackingOff(_))) => place,
            Some(place @ Place::Unschedulable { .. }) if !self.asks_differently(&pod) => place,
            _ => Place::Active,
        };
        self.remove(&uid);
        self.pods.insert(uid.clone(), Pending { pod, attempts, place: Place::InFlight });
        self.move_to(&uid, place);
    }

    pub fn remove(&mut self, uid: &str) {
        if self.pods.contains_key(uid) {
            self.move_to(uid, Place::InFlight);
            self.pods.remove(uid);
        }
    }

    pub fn contains(&self, uid: &str) -> bool {
        self.pods.contains_key(uid)
    }

    /// The next pod to schedule.
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.end_back_offs(now);
        let (_, _, uid) = self.active.first()?.clone();
        self.move_to(&uid, Place::InFlight);
        let pending = self.pods.get_mut(&uid).expect("an active pod is pending");
        pending.attempts += 1;
        Some(pending.pod.clone())
    }

    /// When the next back-off ends.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.backing_off.first().map(|(at, _)| *at)
    }

    /// The pod fits nowhere: wait for one of these events.
    pub fn unschedulable(&mut self, uid: &str, retry_on: Vec<ClusterEvent>, now: Instant) {
        if let Some(pending) = self.pods.get(uid) {
            let not_before = now + back_off(pending.attempts);
            self.move_to(uid, Place::Unschedulable { retry_on, not_before });
        }
    }

    /// Something went wrong that has nothing to do with fitting: try again after the back-off.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        if let Some(pending) = self.pods.get(uid) {
            self.move_to(uid, Place::BackingOff(now + back_off(pending.attempts)));
        }
    }

    /// The cluster changed: pods that waited for this may try again.
    pub fn notice(&mut self, event: ClusterEvent, now: Instant) {
        let waiting = self.pods.iter().filter_map(|(uid, pending)| match &pending.place {
            Place::Unschedulable { retry_on, not_before } if retry_on.contains(&event) => {
                Some((uid.clone(), *not_before))
            }
            _ => None,
        });
        for (uid, not_before) in waiting.collect::<Vec<_>>() {
            let place =
                if not_before <= now { Place::Active } else { Place::BackingOff(not_before) };
            self.move_to(&uid, place);
        }
    }

    fn end_back_offs(&mut self, now: Instant) {
        while let Some((at, uid)) = self.backing_off.first().cloned()
            && at <= now
        {
            self.move_to(&uid, Place::Active);
        }
    }

    /// Of all a pod's fields, these can make an unschedulable pod schedulable without the cluster changing.
    fn asks_differently(&self, new: &PodInfo) -> bool {
        let Some(Pending { pod: old, .. }) = self.pods.get(&new.uid) else { return true };
        old.requests != new.requests
            || old.labels != new.labels
            || old.tolerations != new.tolerations
            || old.priority != new.priority
    }

    fn move_to(&mut self, uid: &str, place: Place) {
        let Some(pending) = self.pods.get_mut(uid) else { return };
        let rank = (Reverse(pending.pod.priority), pending.pod.created, uid.to_owned());
        match pending.place {
            Place::Active => drop(self.active.remove(&rank)),
            Place::BackingOff(at) => drop(self.backing_off.remove(&(at, uid.to_owned()))),
            Place::Unschedulable { .. } | Place::Gated | Place::InFlight => {}
        }
        match place {
            Place::Active => drop(self.active.insert(rank)),
            Place::BackingOff(at) => drop(self.backing_off.insert((at, uid.to_owned()))),
            Place::Unschedulable { .. } | Place::Gated | Place::InFlight => {}
        }
        pending.place = place;
    }
}

fn back_off(attempts: u32) -> Duration {
    FIRST_BACK_OFF
        .saturating_mul(2u32.saturating_pow(attempts.saturating_sub(1)))
        .min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32, second: i64) -> Arc<PodInfo> {
        let created = Timestamp::from_second(second).unwrap();
        Arc::new(PodInfo { uid: uid.into(), priority, created, ..PodInfo::default() })
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|pod| pod.uid.clone())
    }

    #[tokio::test(start_paused = true)]
    async fn priority_then_age() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for pod in [pod("young", 0, 20), pod("important", 9, 30), pod("old", 0, 10)] {
            queue.put(pod);
        }
        let order: Vec<String> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["important", "old", "young"]);
    }

    #[tokio::test(start_paused = true)]
    async fn unschedulable_pods_wait_for_their_event_and_their_back_off() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(pod("p", 0, 0));
        pop(&mut queue, now);
        queue.unschedulable("p", vec![ClusterEvent::NodeAdded], now);
        queue.notice(ClusterEvent::NodeTaints, now);
        assert_eq!((pop(&mut queue, now), queue.wakes_at()), (None, None));
        queue.notice(ClusterEvent::NodeAdded, now);
        assert_eq!(pop(&mut queue, now), None);
        let later = queue.wakes_at().unwrap();
        assert_eq!(later - now, FIRST_BACK_OFF);
        assert_eq!(pop(&mut queue, later).as_deref(), Some("p"));
        queue.unschedulable("p", vec![ClusterEvent::NodeAdded], later);
        queue.notice(ClusterEvent::NodeAdded, later + Duration::from_secs(60));
        assert_eq!(pop(&mut queue, later + Duration::from_secs(60)).as_deref(), Some("p"));
    }

    #[tokio::test(start_paused = true)]
    async fn gates_hold_and_updates_do_not_duplicate() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        queue.put(Arc::new(PodInfo { gated: true, ..(*pod("p", 0, 0)).clone() }));
        assert_eq!(pop(&mut queue, now), None);
        queue.put(pod("p", 0, 0));
        queue.put(pod("p", 3, 0));
        assert_eq!(pop(&mut queue, now).as_deref(), Some("p"));
        queue.put(pod("p", 3, 0));
        assert_eq!(pop(&mut queue, now), None, "a pod in flight is not handed out twice");
        queue.remove("p");
        assert!(queue.pods.is_empty() && queue.active.is_empty());
    }

    #[test]
    fn back_off_doubles_to_ten_seconds() {
        assert_eq!([1, 2, 3, 4, 5].map(|attempts| back_off(attempts).as_secs()), [1, 2, 4, 8, 10]);
    }
}
