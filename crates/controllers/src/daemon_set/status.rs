//! What a DaemonSet says of its nodes, and when time alone will change that.
//!
//! Counterpart: `updateDaemonSetStatus`. Pure. Invariant: of several pods on a node the oldest speaks for it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSetStatus;
use k8s_openapi::api::core::v1::Pod;

use super::nodes::{Fit, spec};
use super::plan::Observed;
use crate::pod;

/// Collisions are told once there were any.
pub fn status(seen: &Observed, collisions: i32) -> DaemonSetStatus {
    let before = seen.set.status.clone().unwrap_or_default();
    let on = |fits: fn(Fit) -> bool| -> Vec<&Arc<Pod>> {
        let nodes = seen.nodes.iter().filter(|(_, fit)| fits(**fit));
        nodes.filter_map(|(node, _)| seen.on(node).first()).collect()
    };
    let placed = on(|fit| fit == Fit::Runs);
    let count = |counts: &dyn Fn(&Pod) -> bool| {
        i32::try_from(placed.iter().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX)
    };
    let available = count(&|pod| seen.is_available(pod));
    DaemonSetStatus {
        desired_number_scheduled: seen.desired(),
        current_number_scheduled: count(&|_| true),
        number_misscheduled: i32::try_from(on(|fit| fit != Fit::Runs).len()).unwrap_or(i32::MAX),
        number_ready: count(&pod::is_ready),
        number_available: non_zero(available),
        number_unavailable: non_zero(seen.desired() - available),
        updated_number_scheduled: non_zero(count(&|pod| seen.is_updated(pod))),
        observed_generation: seen.set.metadata.generation,
        collision_count: before.collision_count.or(non_zero(collisions)).map(|_| collisions),
        conditions: before.conditions,
    }
}

/// The API leaves zero counts out.
fn non_zero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Ready pods become available by time alone: how long until the next one does.
pub fn next_available(seen: &Observed) -> Option<Duration> {
    let min_ready = spec(&seen.set).min_ready_seconds.unwrap_or(0);
    let pods = seen.pods.values().flatten();
    let waits = pods.filter_map(|pod| pod::available_in(pod, min_ready, seen.now));
    waits.filter(|wait| *wait > Duration::ZERO).min()
}
