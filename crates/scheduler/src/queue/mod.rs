//! Pods waiting for a node: what to try next, and when to try again what did not fit.
//!
//! Three places: active (by priority, then age), backing off (by time, 1 s doubling to 10 s), and unschedulable
//! (until an event may help, or five minutes have passed). When nothing is active, a pod may leave its back-off early,
//! as upstream's does: waiting serves nobody when there is nothing else to do.
//! Counterpart: `backend/queue`. Invariant: a pod is in one place; a popped pod is in none until it comes back.

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::framework::ClusterEvent;
use crate::listers::Listers;
use crate::plugins::{PLUGINS, PluginSet};
use crate::pod_info::PodInfo;

const MAX_UNSCHEDULABLE: Duration = Duration::from_secs(300);

/// Order of trying: higher priority, then older, then first come.
type ActiveKey = (Reverse<i32>, Timestamp, u64);
/// Order of coming due.
type DueKey = (Instant, u64);

pub struct SchedulingQueue {
    initial_backoff: Duration,
    max_backoff: Duration,
    /// By uid.
    pods: HashMap<String, Waiting>,
    active: BTreeSet<(ActiveKey, String)>,
    backoff: BTreeSet<(DueKey, String)>,
    unschedulable: BTreeSet<(DueKey, String)>,
    /// The unschedulable ones by who turned them away, so that an event is asked of those only whom it may concern.
    rejected: HashMap<PluginSet, BTreeSet<String>>,
    gated: BTreeSet<String>,
    arrivals: u64,
}

/// A pod that is known and has no node.
struct Waiting {
    pod: QueuedPod,
    place: Place,
    preempting: Preempting,
}

/// Whether pods are being evicted for it. It is not tried meanwhile, or it would evict more.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Preempting {
    No,
    Yes,
    /// Something happened that may help; it counts once the evictions are asked for.
    Woken,
}

#[derive(Clone, Debug)]
pub struct QueuedPod {
    pub info: Arc<PodInfo>,
    pub attempts: u32,
    /// Who turned it away last time; nobody if the attempt itself failed.
    pub rejected_by: PluginSet,
    /// When it may be tried again.
    due: Instant,
    arrival: u64,
}

enum Place {
    Active,
    /// Being tried or bound.
    InFlight,
    Backoff,
    Unschedulable(Instant),
    Gated,
}

// === impl SchedulingQueue ===

impl SchedulingQueue {
    pub fn new(initial_backoff: Duration, max_backoff: Duration) -> SchedulingQueue {
        SchedulingQueue {
            initial_backoff,
            max_backoff,
            pods: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            rejected: HashMap::new(),
            gated: BTreeSet::new(),
            arrivals: 0,
        }
    }

    fn backoff_after(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(30);
        self.initial_backoff.saturating_mul(2_u32.pow(doublings)).min(self.max_backoff)
    }

    /// Takes a new pod, or the new state of a known one.
    pub fn set(&mut self, info: Arc<PodInfo>, listers: &Listers, now: Instant) {
        let Some(waiting) = self.pods.get_mut(&info.uid) else {
            return self.insert(info, listers, now);
        };
        let matters = !waiting.pod.info.schedules_like(&info);
        let uid = info.uid.clone();
        match waiting.place {
            Place::InFlight => waiting.pod.info = info,
            Place::Gated => {
                self.remove(&uid);
                self.insert(info, listers, now);
            }
            Place::Unschedulable(_) if matters => {
                waiting.pod.info = info;
                let pod = waiting.pod.clone();
                if helps(&pod, &ClusterEvent::PodUpdated) {
                    self.wake(pod, now);
                }
            }
            _ => {
                self.take_out(&uid);
                let waiting = self.pods.get_mut(&uid).expect("it was there a line ago");
                waiting.pod.info = info;
                self.put_back(&uid);
            }
        }
    }

    pub fn remove(&mut self, uid: &str) {
        self.take_out(uid);
        self.pods.remove(uid);
    }

    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|waiting| &waiting.pod.info)
    }

    pub fn uids(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    /// The next pod to try, if one may be tried now.
    pub fn pop(&mut self, now: Instant) -> Option<QueuedPod> {
        self.wake_due(now);
        let uid = match self.active.pop_first() {
            Some((_, uid)) => uid,
            // Nothing else to do. A pod whose attempt failed waits in full: the API server may be in trouble.
            None => {
                let early =
                    self.backoff.iter().find(|(_, uid)| !self.pods[uid].pod.rejected_by.is_empty());
                let entry = early.cloned()?;
                self.backoff.remove(&entry);
                entry.1
            }
        };
        let waiting = self.pods.get_mut(&uid).expect("only known pods are queued");
        waiting.place = Place::InFlight;
        waiting.pod.attempts += 1;
        Some(waiting.pod.clone())
    }

    /// When `pop` may have something new without any event.
    pub fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first().map(|((due, _), _)| *due);
        let unschedulable = self.unschedulable.first().map(|((due, _), _)| *due);
        backoff.into_iter().chain(unschedulable).min()
    }

    /// The pod fits nowhere: it waits until something happens that `rejected_by` thinks may help.
    pub fn unschedulable(&mut self, uid: &str, rejected_by: PluginSet, now: Instant) {
        let Some(attempts) = self.pods.get(uid).map(|waiting| waiting.pod.attempts) else { return };
        let due = now + self.backoff_after(attempts);
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.pod.rejected_by = rejected_by;
        waiting.pod.due = due;
        waiting.place = Place::Unschedulable(now + MAX_UNSCHEDULABLE);
        self.put_back(uid);
    }

    /// The attempt itself failed (the API said no): try again after the back-off, whatever happens.
    pub fn failed(&mut self, uid: &str, now: Instant) {
        let Some(attempts) = self.pods.get(uid).map(|waiting| waiting.pod.attempts) else { return };
        let due = now + self.backoff_after(attempts);
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        waiting.pod.rejected_by = PluginSet::default();
        waiting.pod.due = due;
        waiting.place = Place::Backoff;
        self.put_back(uid);
    }

    /// Wakes the pods that the event may help.
    pub fn happened(&mut self, event: &ClusterEvent, now: Instant) {
        let hearing = PluginSet::hearing(event.kind());
        let concerned =
            self.rejected.iter().filter(|(by, _)| by.is_empty() || !by.and(hearing).is_empty());
        let waiting = concerned.flat_map(|(_, uids)| uids).map(|uid| &self.pods[uid].pod);
        let helped: Vec<_> = waiting.filter(|pod| helps(pod, event)).cloned().collect();
        for pod in helped {
            self.wake(pod, now);
        }
    }

    /// Lets in the gated pods that nothing keeps out any more.
    pub fn look_at_gated(&mut self, listers: &Listers, now: Instant) {
        let open = |uid: &&String| is_open(&self.pods[*uid].pod.info, listers);
        let open: Vec<_> = self.gated.iter().filter(open).cloned().collect();
        for uid in open {
            let info = self.pods[&uid].pod.info.clone();
            self.remove(&uid);
            self.insert(info, listers, now);
        }
    }

    /// Evictions for the pod are being asked for: it waits for `preempted`, whatever happens.
    pub fn preempting(&mut self, uid: &str) {
        if let Some(waiting) = self.pods.get_mut(uid) {
            waiting.preempting = Preempting::Yes;
        }
    }

    /// The evictions were asked for, or that failed; then the pod is tried again at once.
    pub fn preempted(&mut self, uid: &str, asked: bool, now: Instant) {
        let Some(waiting) = self.pods.get_mut(uid) else { return };
        let woken = std::mem::replace(&mut waiting.preempting, Preempting::No);
        match asked {
            false => self.activate(uid),
            true if woken == Preempting::Woken => {
                let pod = waiting.pod.clone();
                self.wake(pod, now);
            }
            true => {}
        }
    }

    /// Has the pod tried as soon as its turn comes.
    pub fn activate(&mut self, uid: &str) {
        let parked = |place: &Place| matches!(place, Place::Unschedulable(_) | Place::Backoff);
        if self.pods.get(uid).is_some_and(|waiting| parked(&waiting.place)) {
            self.take_out(uid);
            self.set_place(uid, Place::Active);
        }
    }

    fn insert(&mut self, info: Arc<PodInfo>, listers: &Listers, now: Instant) {
        self.arrivals += 1;
        let uid = info.uid.clone();
        let open = is_open(&info, listers);
        let pod = QueuedPod {
            info,
            attempts: 0,
            rejected_by: PluginSet::default(),
            due: now,
            arrival: self.arrivals,
        };
        let place = if open { Place::Active } else { Place::Gated };
        self.pods.insert(uid.clone(), Waiting { pod, place, preempting: Preempting::No });
        self.put_back(&uid);
    }

    fn wake_due(&mut self, now: Instant) {
        while let Some(uid) = due(&self.backoff, now).or_else(|| due(&self.unschedulable, now)) {
            self.take_out(&uid);
            self.set_place(&uid, Place::Active);
        }
    }

    /// From unschedulable to active, or to back-off for the rest of it.
    fn wake(&mut self, pod: QueuedPod, now: Instant) {
        let waiting = self.pods.get_mut(&pod.info.uid).expect("only known pods are woken");
        if waiting.preempting != Preempting::No {
            waiting.preempting = Preempting::Woken;
            return;
        }
        if !matches!(waiting.place, Place::Unschedulable(_)) {
            return;
        }
        self.take_out(&pod.info.uid);
        let place = if pod.due <= now { Place::Active } else { Place::Backoff };
        self.set_place(&pod.info.uid, place);
    }

    fn set_place(&mut self, uid: &str, place: Place) {
        self.pods.get_mut(uid).expect("only known pods are queued").place = place;
        self.put_back(uid);
    }

    /// Enters the pod into the order its place stands for.
    fn put_back(&mut self, uid: &str) {
        let Waiting { pod, place, .. } = &self.pods[uid];
        let name = uid.to_owned();
        match place {
            Place::Active => self.active.insert((pod.active_key(), name)),
            Place::Backoff => self.backoff.insert(((pod.due, pod.arrival), name)),
            Place::Unschedulable(until) => {
                self.rejected.entry(pod.rejected_by).or_default().insert(name.clone());
                self.unschedulable.insert(((*until, pod.arrival), name))
            }
            Place::Gated => self.gated.insert(name),
            Place::InFlight => false,
        };
    }

    fn take_out(&mut self, uid: &str) {
        let Some(Waiting { pod, place, .. }) = self.pods.get(uid) else { return };
        let name = uid.to_owned();
        match place {
            Place::Active => self.active.remove(&(pod.active_key(), name)),
            Place::Backoff => self.backoff.remove(&((pod.due, pod.arrival), name)),
            Place::Unschedulable(until) => {
                if let Some(uids) = self.rejected.get_mut(&pod.rejected_by) {
                    uids.remove(uid);
                    if uids.is_empty() {
                        self.rejected.remove(&pod.rejected_by);
                    }
                }
                self.unschedulable.remove(&((*until, pod.arrival), name))
            }
            Place::Gated => self.gated.remove(uid),
            Place::InFlight => false,
        };
    }
}

fn is_open(pod: &PodInfo, listers: &Listers) -> bool {
    PLUGINS.iter().all(|plugin| plugin.pre_enqueue(pod, listers).is_ok())
}

/// The first of an order by time, once its time has come.
fn due(order: &BTreeSet<(DueKey, String)>, now: Instant) -> Option<String> {
    let ((due, _), uid) = order.first()?;
    (*due <= now).then(|| uid.clone())
}

// === impl QueuedPod ===

impl QueuedPod {
    fn active_key(&self) -> ActiveKey {
        (Reverse(self.info.priority), self.info.created, self.arrival)
    }
}

fn helps(pod: &QueuedPod, event: &ClusterEvent) -> bool {
    let asked = pod.rejected_by.and(PluginSet::hearing(event.kind()));
    let unforeseeable = pod.rejected_by.is_empty() || !asked.and(PluginSet::EXTENDERS).is_empty();
    unforeseeable || asked.iter().any(|plugin| plugin.may_help(&pod.info, event))
}
