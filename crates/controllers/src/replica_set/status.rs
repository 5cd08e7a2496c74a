//! What a set says of its pods, and when time alone will change that.
//!
//! Counterpart: `calculateStatus` and its conditions. Pure. Invariant: the same pods give the same status.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;

use super::kinds::Replicated;
use super::plan::replicas;
use crate::conditions::{self, Condition};
use crate::pod;
use crate::runtime::{Action, Error};

pub fn status<K: Replicated>(
    set: &K,
    members: &[Arc<Pod>],
    failure: Option<&Error>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let min_ready = set.min_ready_seconds();
    let template = set.template().and_then(|template| template.metadata.as_ref());
    let template_labels = template.and_then(|meta| meta.labels.as_ref());
    let active = || members.iter().filter(|pod| pod::is_active(pod));
    let labeled = active().filter(|pod| {
        let labels = pod.metadata.labels.as_ref();
        template_labels
            .into_iter()
            .flatten()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    });
    let terminating =
        members.iter().filter(|pod| pod::is_terminating(pod) && !pod::is_terminal(pod));
    ReplicaSetStatus {
        replicas: count(active()),
        fully_labeled_replicas: non_zero(count(labeled)),
        ready_replicas: non_zero(count(active().filter(|pod| pod::is_ready(pod)))),
        available_replicas: non_zero(count(
            active().filter(|pod| pod::is_available(pod, min_ready, now)),
        )),
        terminating_replicas: Some(count(terminating)),
        observed_generation: set.meta().generation,
        conditions: failure_condition(set, count(active()), failure, now),
    }
}

fn failure_condition<K: Replicated>(
    set: &K,
    have: i32,
    failure: Option<&Error>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let mut list = set.conditions();
    match failure {
        Some(error) => {
            let creating = usize::try_from(have).unwrap_or(0) < replicas(set);
            let reason = if creating { "FailedCreate" } else { "FailedDelete" };
            conditions::set(
                &mut list,
                Condition::new("ReplicaFailure", "True", reason, &error.message(), now),
            );
        }
        None => conditions::remove(&mut list, "ReplicaFailure"),
    }
    (!list.is_empty()).then_some(list)
}

fn count<T>(items: impl Iterator<Item = T>) -> i32 {
    i32::try_from(items.count()).unwrap_or(i32::MAX)
}

/// The API leaves zero counts out.
fn non_zero(count: i32) -> Option<i32> {
    (count != 0).then_some(count)
}

/// Ready pods become available by time alone: look again when the next one does.
pub fn next_look<K: Replicated>(set: &K, members: &[Arc<Pod>], now: Timestamp) -> Action {
    let waits = members.iter().filter(|pod| pod::is_active(pod));
    let waits = waits.filter_map(|pod| pod::available_in(pod, set.min_ready_seconds(), now));
    waits.filter(|wait| *wait > Duration::ZERO).min().map_or(Action::Done, Action::After)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{member, set};
    use super::*;
    use k8s_openapi::api::core::v1::ReplicationController;

    #[test]
    fn status_counts_and_min_ready_waits() {
        let mut set = set();
        set.spec.as_mut().unwrap().min_ready_seconds = Some(30);
        let pods = [member("a", "{}"), member("b", "{status: {phase: Succeeded}}")];
        let at = |second| {
            Timestamp::from_second(
                "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second() + second,
            )
            .unwrap()
        };
        let early = status(&set, &pods, None, at(10));
        assert_eq!(
            (early.replicas, early.ready_replicas, early.available_replicas),
            (1, Some(1), None)
        );
        assert_eq!(next_look(&set, &pods, at(10)), Action::After(Duration::from_secs(20)));
        assert_eq!(status(&set, &pods, None, at(30)).available_replicas, Some(1));
        assert_eq!(next_look(&set, &pods, at(30)), Action::Done);
    }

    #[test]
    fn failure_condition_comes_and_goes() {
        let error = Error::Invalid("quota".into());
        let mut failing = set();
        failing.status = Some(status(&failing, &[], Some(&error), Timestamp::UNIX_EPOCH));
        let condition = &failing.status.as_ref().unwrap().conditions.as_ref().unwrap()[0];
        assert_eq!(
            (condition.reason.as_deref(), condition.message.as_deref()),
            (Some("FailedCreate"), Some("quota"))
        );
        assert_eq!(status(&failing, &[], None, Timestamp::UNIX_EPOCH).conditions, None);
    }

    #[test]
    fn a_replication_controller_tells_the_same_in_its_own_shape() {
        let error = Error::Invalid("quota".into());
        let mut controller: ReplicationController = crate::testing::yaml(
            "{metadata: {name: web, uid: u, generation: 3},
              spec: {replicas: 2, selector: {app: web}, template: {metadata: {labels: {app: web}}}}}",
        );
        let told = status(&controller, &[member("a", "{}")], Some(&error), Timestamp::UNIX_EPOCH);
        controller.set_status(told.clone());
        let own = controller.status.as_ref().unwrap();
        assert_eq!(
            (own.replicas, own.ready_replicas, own.observed_generation),
            (1, Some(1), Some(3))
        );
        assert_eq!(controller.conditions(), told.conditions.unwrap());
    }
}
