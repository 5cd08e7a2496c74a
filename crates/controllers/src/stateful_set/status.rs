//! What a StatefulSet says of its pods, and when time alone will change that.
//!
//! Counterpart: `updateStatus` and `completeRollingUpdate`. Pure.
//! Invariant: the current revision becomes the update revision only when every pod is of it and ready.

use std::time::Duration;

use k8s_openapi::api::apps::v1::StatefulSetStatus;
use k8s_openapi::api::core::v1::Pod;

use super::identity::{self, spec};
use super::plan::Observed;
use crate::pod;
use crate::runtime::Action;

pub fn status(seen: &Observed, collisions: i32) -> StatefulSetStatus {
    let min_ready = spec(&seen.set).min_ready_seconds.unwrap_or(0);
    let count = |counts: &dyn Fn(&Pod) -> bool| {
        i32::try_from(seen.pods.iter().filter(|pod| counts(pod)).count()).unwrap_or(i32::MAX)
    };
    let of = |revision: &str| {
        count(&|pod| !pod::is_terminating(pod) && identity::revision(pod) == Some(revision))
    };
    let mut status = StatefulSetStatus {
        observed_generation: seen.set.metadata.generation,
        replicas: count(&|_| true),
        ready_replicas: non_zero(count(&is_running_and_ready)),
        available_replicas: Some(count(&|pod| {
            is_running_and_ready(pod) && pod::is_available(pod, min_ready, seen.now)
        })),
        current_replicas: non_zero(of(&seen.current.name)),
        updated_replicas: non_zero(of(&seen.update.name)),
        current_revision: Some(seen.current.name.clone()),
        update_revision: Some(seen.update.name.clone()),
        collision_count: Some(collisions),
        conditions: seen.set.status.as_ref().and_then(|status| status.conditions.clone()),
    };
    complete(seen, &mut status);
    status
}

fn complete(seen: &Observed, status: &mut StatefulSetStatus) {
    let strategy = spec(&seen.set).update_strategy.as_ref();
    let rolls = strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete");
    let wanted = spec(&seen.set).replicas.unwrap_or(1);
    let all = |counted: Option<i32>| counted.unwrap_or(0) == wanted;
    if rolls
        && status.replicas == wanted
        && all(status.updated_replicas)
        && all(status.ready_replicas)
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pod::phase(pod) == "Running" && pod::is_ready(pod)
}

/// The API leaves zero counts out.
fn non_zero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Ready pods become available by time alone: look again when the next one does.
pub fn next_look(seen: &Observed) -> Action {
    let min_ready = spec(&seen.set).min_ready_seconds.unwrap_or(0);
    let waits = seen.pods.iter().filter_map(|pod| pod::available_in(pod, min_ready, seen.now));
    waits.filter(|wait| *wait > Duration::ZERO).min().map_or(Action::Done, Action::After)
}
