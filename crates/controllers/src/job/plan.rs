//! What to do about a Job's pods, and whether its end is decided.
//!
//! A picture and the back-off in -> verdict, then pods to delete or to create, and when to look again.
//! Counterpart: `syncJob` up to `manageJob`. Pure.
//! Invariant: a verdict that the status shows stands; a plan deletes or creates, never both.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::back_off::{BackOff, finish_time};
use super::picture::{Picture, all_failures_before, index, is_ending, size};
use super::policies::{self, Failure};
use super::template::Blueprint;
use crate::pod;
use crate::pod_control::BURST;

/// How the Job ends.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Succeeded { reason: String, message: String },
    Failed { reason: String, message: String },
}

#[derive(Debug, PartialEq)]
pub enum Op {
    Create(Vec<Pod>),
    /// Deletes pods that are too many: they are not counted.
    Drop(Vec<Arc<Pod>>),
    /// Deletes what still runs of a Job whose end is decided.
    End(Vec<Arc<Pod>>),
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub verdict: Option<Verdict>,
    pub op: Option<Op>,
    /// Time alone will change the plan.
    pub wait: Option<Duration>,
}

pub fn plan(picture: &Picture, back_off: &BackOff) -> Plan {
    if let Some(verdict) = verdict(picture) {
        let active = picture.active();
        let op = (!active.is_empty()).then_some(Op::End(active));
        return Plan { verdict: Some(verdict), op, wait: None };
    }
    let (op, pause) =
        if picture.is_being_deleted() { (None, None) } else { manage(picture, back_off) };
    let waits = [pause, deadline(picture)];
    Plan { verdict: None, op, wait: waits.into_iter().flatten().min() }
}

// === verdict ===

/// What ends the Job early or has been decided before. That all completions are reached shows in the account.
fn verdict(picture: &Picture) -> Option<Verdict> {
    let shown = |type_| {
        picture.condition(type_).map(|condition| {
            let reason = condition.reason.clone().unwrap_or_default();
            (reason, condition.message.clone().unwrap_or_default())
        })
    };
    if let Some((reason, message)) = shown("SuccessCriteriaMet") {
        return Some(Verdict::Succeeded { reason, message });
    }
    if let Some((reason, message)) = shown("FailureTarget") {
        return Some(Verdict::Failed { reason, message });
    }
    let failed = failed_by_policy(picture)
        .map(|message| ("PodFailurePolicy", message))
        .or_else(|| too_much(picture).map(|(reason, message)| (reason, message.to_owned())));
    if let Some((reason, message)) = failed {
        return Some(Verdict::Failed { reason: reason.into(), message });
    }
    let completions = picture.completions().filter(|_| picture.is_indexed())?;
    let policy = picture.spec.success_policy.as_ref();
    let message = policies::success(policy, completions, &picture.succeeded_indexes())?;
    Some(Verdict::Succeeded { reason: "SuccessPolicy".into(), message })
}

fn failed_by_policy(picture: &Picture) -> Option<String> {
    let failed = picture.pods.iter().filter(|pod| picture.has_failed(pod));
    failed
        .filter_map(|pod| match picture.failure(pod) {
            Failure::FailJob(message) => Some(message),
            _ => None,
        })
        .next()
}

/// Limits in the order in which they are checked.
fn too_much(picture: &Picture) -> Option<(&'static str, &'static str)> {
    let limit = size(picture.spec.backoff_limit.unwrap_or(6));
    if picture.failed() > limit || restarted_too_often(picture, limit) {
        return Some(("BackoffLimitExceeded", "Job has reached the specified backoff limit"));
    }
    if deadline(picture) == Some(Duration::ZERO) {
        return Some(("DeadlineExceeded", "Job was active longer than specified deadline"));
    }
    let failed = picture.failed_indexes()?.count();
    if picture.spec.max_failed_indexes.is_some_and(|most| failed > size(most)) {
        return Some((
            "MaxFailedIndexesExceeded",
            "Job has exceeded the specified maximal number of failed indexes",
        ));
    }
    let settled = failed + picture.succeeded_indexes().count();
    let all_settled = failed > 0 && settled >= picture.completions().unwrap_or(0);
    all_settled.then_some(("FailedIndexes", "Job has failed indexes"))
}

/// Containers that are restarted in place count against the limit as pods that failed would.
fn restarted_too_often(picture: &Picture, limit: usize) -> bool {
    let template = picture.spec.template.spec.as_ref();
    if template.and_then(|spec| spec.restart_policy.as_deref()) != Some("OnFailure") {
        return false;
    }
    let running =
        picture.pods.iter().filter(|pod| matches!(pod::phase(pod), "Running" | "Pending"));
    let restarts = running.filter_map(|pod| pod.status.as_ref()).flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    let restarts: usize = restarts.map(|container| size(container.restart_count)).sum();
    restarts > 0 && restarts >= limit
}

/// Time left until the active deadline; none if there is none or it does not run now.
fn deadline(picture: &Picture) -> Option<Duration> {
    let seconds = picture.spec.active_deadline_seconds.filter(|_| !picture.is_suspended())?;
    let start = picture.status.start_time.as_ref().map_or(picture.now, |time| time.0);
    let left = i128::from(seconds) * 1000 - picture.now.duration_since(start).as_millis();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

// === pods ===

/// Pods to delete or create, or for how long no pod may be created.
fn manage(picture: &Picture, back_off: &BackOff) -> (Option<Op>, Option<Duration>) {
    let active = picture.active();
    let have = active.len();
    let wanted = match picture.completions() {
        _ if picture.is_suspended() => 0,
        Some(completions) => {
            completions.saturating_sub(picture.succeeded()).min(picture.parallelism())
        }
        // Work that the pods share among themselves: once one succeeds, no more are started.
        None if picture.succeeded() > 0 => have,
        None => picture.parallelism(),
    };
    let mut superfluous = superfluous(picture, active, have.saturating_sub(wanted));
    if !superfluous.is_empty() {
        superfluous.truncate(BURST);
        return (Some(Op::Drop(superfluous)), None);
    }
    let ending = if picture.replaces_only_ended() { picture.terminating() } else { 0 };
    match wanted.saturating_sub(ending + have).min(BURST) {
        0 => (None, None),
        missing => create(picture, back_off, missing),
    }
}

/// At least `count` of the active pods; of an indexed Job, all that share an index with another or have none that counts.
fn superfluous(picture: &Picture, mut active: Vec<Arc<Pod>>, count: usize) -> Vec<Arc<Pod>> {
    active.sort_by_cached_key(|pod| (pod::progress(pod), pod::record(pod)));
    let mut left = active;
    let mut gone = Vec::new();
    if picture.is_indexed() {
        let mut seen = BTreeSet::new();
        // The pod that is the last to go keeps the index.
        left.reverse();
        let (kept, doubles): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|pod| picture.index(pod).is_some_and(|index| seen.insert(index)));
        (left, gone) = (kept, doubles);
        left.reverse();
    }
    gone.extend(left.into_iter().take(count.saturating_sub(gone.len())));
    gone
}

fn create(picture: &Picture, back_off: &BackOff, missing: usize) -> (Option<Op>, Option<Duration>) {
    let blueprint = Blueprint::new(picture);
    let by_index = picture.spec.backoff_limit_per_index.is_some();
    let pause = back_off.remaining(picture.now);
    if !by_index && !pause.is_zero() {
        return (None, Some(pause));
    }
    let Some(completions) = picture.completions().filter(|_| picture.is_indexed()) else {
        return (Some(Op::Create(vec![blueprint.pod(); missing])), None);
    };
    let replaced = picture.to_be_replaced();
    let indexes: Vec<usize> = pending(picture, completions).take(missing).collect();
    let pause_of = |index: &usize| match replaced.get(index) {
        Some(pod) => {
            let failures = u32::try_from(all_failures_before(pod) + 1).unwrap_or(u32::MAX);
            BackOff::since(failures, finish_time(pod)).remaining(picture.now)
        }
        None => Duration::ZERO,
    };
    let (due, later): (Vec<_>, Vec<_>) =
        indexes.into_iter().partition(|index| pause_of(index).is_zero());
    let wait = later.iter().map(pause_of).min();
    let pods: Vec<Pod> = due
        .into_iter()
        .map(|index| blueprint.indexed_pod(index, replaced.get(&index).map(Arc::as_ref)))
        .collect();
    ((!pods.is_empty()).then_some(Op::Create(pods)), wait)
}

/// Indexes that neither succeeded nor failed for good and that no pod is working on.
fn pending(picture: &Picture, completions: usize) -> impl Iterator<Item = usize> {
    let ending = |pod: &Pod| picture.replaces_only_ended() && is_ending(pod);
    let busy = picture.pods.iter().filter(|pod| pod::is_active(pod) || ending(pod));
    let settled = picture.succeeded_indexes().with(busy.filter_map(|pod| index(pod)));
    let settled = settled.union(&picture.failed_indexes().unwrap_or_default());
    settled.missing(completions).collect::<Vec<_>>().into_iter()
}
