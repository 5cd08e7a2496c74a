//! The queue by what it is told and what it then gives, on a paused clock.

use super::*;
use crate::framework::EventKind;
use skiff_api::scheduling::resources::{PodRequests, Resources};

fn pod(uid: &str, priority: i32) -> Arc<PodInfo> {
    let declared = Resources { milli_cpu: 100, ..Resources::default() };
    let requests = PodRequests { declared, ..PodRequests::default() };
    Arc::new(PodInfo { uid: uid.into(), priority, requests, ..PodInfo::default() })
}

fn queue() -> SchedulingQueue {
    SchedulingQueue::new(Duration::from_secs(1), Duration::from_secs(10))
}

fn popped(queue: &mut SchedulingQueue) -> Option<String> {
    queue.pop(Instant::now()).map(|pod| pod.info.uid.clone())
}

fn only(plugin: &str) -> PluginSet {
    let mut set = PluginSet::default();
    set.insert(PLUGINS.iter().position(|known| known.name() == plugin).unwrap());
    set
}

#[tokio::test(start_paused = true)]
async fn higher_priority_first_then_first_come() {
    let mut queue = queue();
    for (uid, priority) in [("a", 0), ("b", 5), ("c", 0), ("d", 5)] {
        queue.set(pod(uid, priority), &Listers::default(), Instant::now());
    }
    let order: Vec<_> = std::iter::from_fn(|| popped(&mut queue)).collect();
    assert_eq!(order, ["b", "d", "a", "c"]);
}

#[tokio::test(start_paused = true)]
async fn failed_attempts_back_off_longer_each_time() {
    let mut queue = queue();
    queue.set(pod("a", 0), &Listers::default(), Instant::now());
    for seconds in [1, 2, 4, 8, 10, 10] {
        assert_eq!(popped(&mut queue).as_deref(), Some("a"));
        queue.failed("a", Instant::now());
        assert_eq!(queue.next_due(), Some(Instant::now() + Duration::from_secs(seconds)));
        tokio::time::advance(Duration::from_secs(seconds) - Duration::from_millis(1)).await;
        assert_eq!(popped(&mut queue), None, "before {seconds} s");
        tokio::time::advance(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_an_event_that_may_help_wakes_a_pod() {
    let mut queue = queue();
    queue.set(pod("a", 0), &Listers::default(), Instant::now());
    popped(&mut queue);
    queue.unschedulable("a", only("NodeResourcesFit"), Instant::now());
    let other = PodInfo::default();
    queue.happened(&ClusterEvent::PodPlaced(&other), Instant::now());
    queue.happened(&ClusterEvent::Changed(EventKind::VolumeClaim), Instant::now());
    assert_eq!(popped(&mut queue), None);
    let full = crate::node_info::NodeInfo::default();
    queue.happened(&ClusterEvent::NodeAdded(&full), Instant::now());
    assert_eq!(popped(&mut queue), None, "a node without room does not help");
    queue.happened(&ClusterEvent::PodLeft(&other), Instant::now());
    // It is backing off still, but there is nothing else to do.
    assert_eq!(popped(&mut queue).as_deref(), Some("a"));
}

/// A watch that never ends is spared what it has not asked for.
#[tokio::test(start_paused = true)]
async fn an_event_is_asked_only_of_pods_whose_plugins_hear_of_it() {
    let mut queue = queue();
    for (uid, plugin) in [("fit", "NodeResourcesFit"), ("volume", "VolumeBinding")] {
        queue.set(pod(uid, 0), &Listers::default(), Instant::now());
        popped(&mut queue);
        queue.unschedulable(uid, only(plugin), Instant::now());
    }
    queue.happened(&ClusterEvent::Changed(EventKind::Namespace), Instant::now());
    assert_eq!(queue.unschedulable.len(), 2);
    queue.happened(&ClusterEvent::Changed(EventKind::Volume), Instant::now());
    assert_eq!(popped(&mut queue).as_deref(), Some("volume"));
    queue.happened(&ClusterEvent::PodLeft(&PodInfo::default()), Instant::now());
    assert_eq!(popped(&mut queue).as_deref(), Some("fit"));
}

#[tokio::test(start_paused = true)]
async fn a_woken_pod_waits_out_its_back_off_behind_active_ones() {
    let mut queue = queue();
    queue.set(pod("a", 9), &Listers::default(), Instant::now());
    popped(&mut queue);
    queue.unschedulable("a", only("NodeResourcesFit"), Instant::now());
    queue.happened(&ClusterEvent::PodLeft(&PodInfo::default()), Instant::now());
    queue.set(pod("b", 0), &Listers::default(), Instant::now());
    assert_eq!(popped(&mut queue).as_deref(), Some("b"));
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_pod_is_tried_again_after_five_minutes() {
    let mut queue = queue();
    queue.set(pod("a", 0), &Listers::default(), Instant::now());
    popped(&mut queue);
    queue.unschedulable("a", only("NodeName"), Instant::now());
    assert_eq!(queue.next_due(), Some(Instant::now() + MAX_UNSCHEDULABLE));
    tokio::time::advance(MAX_UNSCHEDULABLE).await;
    assert_eq!(popped(&mut queue).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_gated_pod_is_not_tried_until_the_gate_is_lifted() {
    let mut queue = queue();
    let gated = PodInfo { gates: vec!["wait".into()], ..PodInfo::clone(&pod("a", 0)) };
    queue.set(Arc::new(gated), &Listers::default(), Instant::now());
    assert_eq!(popped(&mut queue), None);
    assert_eq!(queue.next_due(), None);
    queue.set(pod("a", 0), &Listers::default(), Instant::now());
    assert_eq!(popped(&mut queue).as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn a_popped_or_removed_pod_is_not_given_again() {
    let mut queue = queue();
    queue.set(pod("a", 0), &Listers::default(), Instant::now());
    popped(&mut queue);
    queue.set(pod("a", 0), &Listers::default(), Instant::now());
    assert_eq!(popped(&mut queue), None, "it is being tried");
    queue.set(pod("b", 0), &Listers::default(), Instant::now());
    queue.remove("b");
    assert_eq!(popped(&mut queue), None);
}

/// Every known pod is where its place says, and nowhere else.
#[track_caller]
fn check(queue: &SchedulingQueue) {
    let mut placed = 0;
    for (uid, waiting) in &queue.pods {
        let arrival = waiting.pod.arrival;
        let active = queue.active.contains(&(waiting.pod.active_key(), uid.clone()));
        let backoff = queue.backoff.contains(&((waiting.pod.due, arrival), uid.clone()));
        let until = match waiting.place {
            Place::Unschedulable(until) => until,
            _ => Instant::now(),
        };
        let parked = queue.unschedulable.contains(&((until, arrival), uid.clone()));
        let expected = match waiting.place {
            Place::Active => (true, false, false),
            Place::Backoff => (false, true, false),
            Place::Unschedulable(_) => (false, false, true),
            Place::InFlight | Place::Gated => (false, false, false),
        };
        assert_eq!((active, backoff, parked), expected, "{uid}");
        placed += usize::from(active || backoff || parked);
    }
    let rejected: usize = queue.rejected.values().map(BTreeSet::len).sum();
    assert_eq!(rejected, queue.unschedulable.len(), "known by who turned them away");
    let queued = queue.active.len() + queue.backoff.len() + queue.unschedulable.len();
    assert_eq!(placed, queued, "an entry without a pod");
}

/// Whatever happens in whatever order: places stay true, and what may help a pod has it tried again.
#[tokio::test(start_paused = true)]
async fn no_wake_up_is_lost() {
    for seed in 1..=200_u64 {
        let mut chance = crate::cycle::Chance(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
        let mut queue = queue();
        for _ in 0..200 {
            let uid = format!("p{}", chance.below(8));
            match chance.below(9) {
                0 | 1 => queue.set(
                    pod(&uid, chance.below(3) as i32),
                    &Listers::default(),
                    Instant::now(),
                ),
                2 | 3 => drop(queue.pop(Instant::now())),
                4 if in_flight(&queue, &uid) => {
                    queue.unschedulable(&uid, only("NodeResourcesFit"), Instant::now());
                }
                5 if in_flight(&queue, &uid) => queue.failed(&uid, Instant::now()),
                6 => queue.preempting(&uid),
                7 => queue.preempted(&uid, chance.below(2) == 0, Instant::now()),
                _ => tokio::time::advance(Duration::from_millis(chance.below(3000))).await,
            }
            if chance.below(16) == 0 {
                queue.remove(&uid);
            }
            check(&queue);
        }
        let left = PodInfo::default();
        queue.happened(&ClusterEvent::PodLeft(&left), Instant::now());
        let all = queue.uids();
        all.iter().for_each(|uid| queue.preempted(uid, true, Instant::now()));
        check(&queue);
        let parked = queue.unschedulable.iter().map(|(_, uid)| uid.clone());
        assert_eq!(parked.collect::<Vec<_>>(), Vec::<String>::new(), "seed {seed}");
    }
}

fn in_flight(queue: &SchedulingQueue, uid: &str) -> bool {
    queue.pods.get(uid).is_some_and(|waiting| matches!(waiting.place, Place::InFlight))
}
