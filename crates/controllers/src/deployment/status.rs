//! What a Deployment says about itself: counts, and the Available and Progressing conditions.
//!
//! Counterpart: `calculateStatus`, `syncRolloutStatus` and the deployment util conditions, with their reasons and words.
//! Pure. Invariant: a Deployment that needs no progress never times out.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::replica_sets::{Rollout, actual, available, desired, ready, sum, terminating};
use crate::conditions::{self, Condition};
use crate::runtime::Action;

pub fn status(rollout: &Rollout, now: Timestamp) -> DeploymentStatus {
    let mut status = counts(rollout);
    let mut list = status.conditions.take().unwrap_or_default();
    conditions::set(&mut list, availability(rollout, &status, now));
    if let Some(failure) = replica_failure(rollout) {
        conditions::set(&mut list, failure);
    } else {
        conditions::remove(&mut list, "ReplicaFailure");
    }
    set_progress(rollout, &status, &mut list, now);
    status.conditions = Some(list);
    status
}

fn counts(rollout: &Rollout) -> DeploymentStatus {
    let before = rollout.deployment.status.clone().unwrap_or_default();
    let total = sum(rollout.all(), actual);
    let available = sum(rollout.all(), available);
    let non_zero = |count: i32| (count != 0).then_some(count);
    DeploymentStatus {
        observed_generation: rollout.deployment.metadata.generation,
        replicas: non_zero(total),
        updated_replicas: non_zero(sum(rollout.new.iter(), actual)),
        ready_replicas: non_zero(sum(rollout.all(), ready)),
        available_replicas: non_zero(available),
        unavailable_replicas: non_zero((sum(rollout.all(), desired) - available).max(0)),
        terminating_replicas: Some(sum(rollout.all(), terminating)),
        collision_count: before.collision_count,
        conditions: before.conditions,
    }
}

fn availability(
    rollout: &Rollout,
    status: &DeploymentStatus,
    now: Timestamp,
) -> DeploymentCondition {
    let minimum = rollout.replicas - rollout.max_unavailable;
    let (state, reason, message) = match status.available_replicas.unwrap_or(0) >= minimum {
        true => ("True", "MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => (
            "False",
            "MinimumReplicasUnavailable",
            "Deployment does not have minimum availability.",
        ),
    };
    Condition::new("Available", state, reason, message, now)
}

/// A ReplicaSet that cannot create or delete pods says why; the Deployment repeats it.
fn replica_failure(rollout: &Rollout) -> Option<DeploymentCondition> {
    let reported = rollout.all().find_map(|set| {
        let list = set.status.as_ref()?.conditions.as_ref()?;
        list.iter().find(|condition| condition.type_ == "ReplicaFailure")
    })?;
    Some(DeploymentCondition {
        type_: "ReplicaFailure".into(),
        status: reported.status.clone(),
        reason: reported.reason.clone(),
        message: reported.message.clone(),
        last_transition_time: reported.last_transition_time.clone(),
        last_update_time: reported.last_transition_time.clone(),
    })
}

// === progress ===

fn set_progress(
    rollout: &Rollout,
    status: &DeploymentStatus,
    list: &mut Vec<DeploymentCondition>,
    now: Timestamp,
) {
    let Some(deadline) = deadline(rollout) else {
        return conditions::remove(list, "Progressing");
    };
    let current = list.iter().find(|condition| condition.type_ == "Progressing").cloned();
    let current_reason = current.as_ref().and_then(|condition| condition.reason.as_deref());
    if rollout.paused() {
        if current_reason != Some("DeploymentPaused") {
            let paused = ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned());
            put(list, paused, now);
        }
        return;
    }
    if current_reason == Some("DeploymentPaused") {
        return put(
            list,
            ("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned()),
            now,
        );
    }
    let finished = status.replicas == status.updated_replicas
        && current_reason == Some("NewReplicaSetAvailable");
    if finished && is_finished(rollout, status) {
        return;
    }
    if is_finished(rollout, status) {
        let message = format!("{} has successfully progressed.", subject(rollout));
        put(list, ("True", "NewReplicaSetAvailable", message), now);
    } else if current.is_none() || has_progressed(rollout, status) {
        let (reason, message) = match (&rollout.new, current.is_none()) {
            (Some(_), true) => {
                ("NewReplicaSetCreated", format!("Created new replica set {:?}", new_name(rollout)))
            }
            _ => ("ReplicaSetUpdated", format!("{} is progressing.", subject(rollout))),
        };
        put(list, ("True", reason, message), now);
    } else if current.as_ref().is_some_and(|condition| waited_too_long(condition, deadline, now)) {
        let message = format!("{} has timed out progressing.", subject(rollout));
        put(list, ("False", "ProgressDeadlineExceeded", message), now);
    }
}

/// Progress moves the update time even when nothing else of the condition changes: the deadline counts from there.
fn put(
    list: &mut Vec<DeploymentCondition>,
    (state, reason, message): (&str, &str, String),
    now: Timestamp,
) {
    let mut new =
        <DeploymentCondition as Condition>::new("Progressing", state, reason, &message, now);
    if let Some(old) =
        list.iter().find(|old| old.type_ == "Progressing" && old.status == new.status)
    {
        new.last_transition_time = old.last_transition_time.clone();
    }
    conditions::remove(list, "Progressing");
    list.push(new);
}

fn subject(rollout: &Rollout) -> String {
    match &rollout.new {
        Some(_) => format!("ReplicaSet {:?}", new_name(rollout)),
        None => format!(
            "Deployment {:?}",
            rollout.deployment.metadata.name.as_deref().unwrap_or_default()
        ),
    }
}

fn new_name(rollout: &Rollout) -> &str {
    rollout.new.as_ref().and_then(|new| new.metadata.name.as_deref()).unwrap_or_default()
}

/// Every pod is of the new template, available, and no other is left.
fn is_finished(rollout: &Rollout, status: &DeploymentStatus) -> bool {
    let wanted = (rollout.replicas != 0).then_some(rollout.replicas);
    status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
}

pub fn is_complete(rollout: &Rollout, _now: Timestamp) -> bool {
    is_finished(rollout, &counts(rollout))
}

fn has_progressed(rollout: &Rollout, status: &DeploymentStatus) -> bool {
    let before = rollout.deployment.status.clone().unwrap_or_default();
    let old_pods = |status: &DeploymentStatus| {
        status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0)
    };
    status.updated_replicas > before.updated_replicas
        || old_pods(status) < old_pods(&before)
        || status.ready_replicas > before.ready_replicas
        || status.available_replicas > before.available_replicas
}

/// The progress deadline; the largest value means there is none.
fn deadline(rollout: &Rollout) -> Option<i64> {
    rollout.spec().progress_deadline_seconds.filter(|seconds| *seconds != i32::MAX).map(i64::from)
}

fn waited_too_long(condition: &DeploymentCondition, deadline: i64, now: Timestamp) -> bool {
    match condition.reason.as_deref() {
        // Finished before: what runs now needs no progress. Already timed out: say so once.
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded") => false,
        _ => seconds_since_update(condition, now).is_some_and(|waited| waited >= deadline),
    }
}

fn seconds_since_update(condition: &DeploymentCondition, now: Timestamp) -> Option<i64> {
    let Time(updated) = condition.last_update_time.clone()?;
    Some(now.as_second() - updated.as_second())
}

/// An unfinished rollout is looked at again when its deadline passes.
pub fn next_look(rollout: &Rollout, status: &DeploymentStatus, now: Timestamp) -> Action {
    let progressing =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "Progressing");
    let (Some(deadline), Some(condition)) = (deadline(rollout), progressing) else {
        return Action::Done;
    };
    let settled = matches!(
        condition.reason.as_deref(),
        Some("NewReplicaSetAvailable" | "ProgressDeadlineExceeded" | "DeploymentPaused")
    );
    match seconds_since_update(condition, now) {
        Some(waited) if !settled => {
            Action::After(Duration::from_secs(u64::try_from(deadline - waited).unwrap_or(0) + 1))
        }
        _ => Action::Done,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};

    const CREATED: i64 = 1_700_000_000;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(CREATED + second).unwrap()
    }

    fn deployment(before: Option<DeploymentStatus>) -> Arc<Deployment> {
        let mut deployment: Deployment = yaml(
            "{metadata: {name: web, generation: 4}, spec: {replicas: 2, progressDeadlineSeconds: 60, selector: {},
              template: {spec: {containers: [{name: c, image: new}]}},
              strategy: {rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}}}",
        );
        deployment.status = before;
        Arc::new(deployment)
    }

    fn rollout(before: Option<DeploymentStatus>, available: i32) -> Rollout {
        let set: ReplicaSet = yaml(&format!(
            "{{metadata: {{name: web-1}}, spec: {{replicas: 2, selector: {{}},
               template: {{spec: {{containers: [{{name: c, image: new}}]}}}}}},
               status: {{replicas: 2, readyReplicas: {available}, availableReplicas: {available}}}}}"
        ));
        Rollout::new(deployment(before), vec![Arc::new(set)], false)
    }

    fn reason<'a>(status: &'a DeploymentStatus, type_: &str) -> &'a str {
        conditions::find(status.conditions.as_ref().unwrap(), type_)
            .unwrap()
            .reason
            .as_deref()
            .unwrap()
    }

    #[test]
    fn a_rollout_starts_progresses_and_finishes() {
        let first = status(&rollout(None, 0), at(0));
        assert_eq!(reason(&first, "Progressing"), "NewReplicaSetCreated");
        assert_eq!(reason(&first, "Available"), "MinimumReplicasUnavailable");
        assert_eq!(first.observed_generation, Some(4));
        let second = status(&rollout(Some(first), 1), at(5));
        assert_eq!(reason(&second, "Progressing"), "ReplicaSetUpdated");
        let third = status(&rollout(Some(second), 2), at(9));
        assert_eq!(reason(&third, "Progressing"), "NewReplicaSetAvailable");
        assert_eq!(reason(&third, "Available"), "MinimumReplicasAvailable");
        assert_eq!(
            status(&rollout(Some(third.clone()), 2), at(500)),
            third,
            "nothing changed, nothing to write"
        );
    }

    #[test]
    fn a_stuck_rollout_times_out_once() {
        let first = status(&rollout(None, 0), at(0));
        assert_eq!(
            next_look(&rollout(None, 0), &first, at(10)),
            Action::After(Duration::from_secs(51))
        );
        let early = status(&rollout(Some(first.clone()), 0), at(59));
        assert_eq!(early, first);
        let late = status(&rollout(Some(early), 0), at(61));
        assert_eq!(reason(&late, "Progressing"), "ProgressDeadlineExceeded");
        assert_eq!(status(&rollout(Some(late.clone()), 0), at(200)), late);
    }

    #[test]
    fn a_finished_deployment_does_not_time_out_when_a_pod_fails() {
        let done = status(&rollout(Some(status(&rollout(None, 0), at(0))), 2), at(5));
        let hurt = status(&rollout(Some(done), 1), at(500));
        assert_eq!(reason(&hurt, "Progressing"), "NewReplicaSetAvailable");
        assert_eq!(reason(&hurt, "Available"), "MinimumReplicasUnavailable");
    }

    #[test]
    fn pausing_is_told_once() {
        let pause = |before| {
            let mut rollout = rollout(before, 2);
            Arc::make_mut(&mut rollout.deployment).spec.as_mut().unwrap().paused = Some(true);
            rollout
        };
        let first = status(&pause(None), at(0));
        assert_eq!(reason(&first, "Progressing"), "DeploymentPaused");
        assert_eq!(status(&pause(Some(first.clone())), at(10)), first);
        let resumed = status(&rollout(Some(first), 2), at(20));
        assert_eq!(reason(&resumed, "Progressing"), "DeploymentResumed");
    }
}
