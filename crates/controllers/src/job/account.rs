//! The books of a Job: which ended pods are counted, and what its status says.
//!
//! A picture and the verdict in -> the next status, and the pods that may lose their tracking finalizer once it is written.
//! A pod is first named in `uncountedTerminatedPods`, then let go, then counted and no longer named; whatever is interrupted
//! goes on from the status and the pods alone. Counterpart: `trackJobStatusAndRemoveFinalizers`. Pure.
//! Invariant: a pod is counted exactly once, and a Job has ended only when nothing is left to count.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::picture::{Picture, is_tracked, size};
use super::plan::Verdict;
use super::policies::Failure;
use crate::conditions::Condition;
use crate::pod;

/// So many pods fit one status: their names take about 20 kB.
const MOST_UNCOUNTED: usize = 500;

#[derive(Debug, Default, PartialEq)]
pub struct Account {
    pub status: JobStatus,
    /// Pods whose finalizer may go once the status is written.
    pub untrack: Vec<Arc<Pod>>,
}

pub fn account(picture: &Picture, verdict: Option<&Verdict>) -> Account {
    let active = picture.active();
    // While pods are still to be deleted, the end is near but must not be declared.
    let verdict_stands = verdict.is_some() && active.is_empty();
    let completed = verdict.is_none() && is_complete(picture, active.len());
    let completed = completed.then(|| Verdict::Succeeded {
        reason: "CompletionsReached".into(),
        message: "Reached expected number of succeeded pods".into(),
    });
    let verdict = verdict.filter(|_| verdict_stands).or(completed.as_ref());

    let mut status = picture.status.clone();
    status.active = non_zero(active.len());
    status.ready = Some(count(active.iter().filter(|pod| pod::is_ready(pod)).count()));
    status.terminating = Some(count(picture.terminating()));
    if status.start_time.is_none() && !picture.is_suspended() {
        status.start_time = Some(Time(picture.now));
    }
    settle(picture, &mut status);
    let (untrack, more) = name_ended(picture, verdict, &mut status);
    match verdict {
        Some(verdict) => {
            let all_counted = untrack.is_empty() && !more && !has_uncounted(&status);
            conclude(picture, verdict, all_counted, &mut status);
        }
        None if !picture.is_being_deleted() && active_is_settled(picture) => {
            show_suspension(picture, &mut status);
        }
        None => {}
    }
    Account { status, untrack }
}

fn is_complete(picture: &Picture, active: usize) -> bool {
    let succeeded = picture.succeeded();
    active == 0
        && match picture.completions() {
            Some(completions) => succeeded >= completions,
            None => succeeded > 0,
        }
}

/// A Job counts as suspended once it has no pods any more.
fn active_is_settled(picture: &Picture) -> bool {
    !picture.is_suspended() || picture.active().is_empty()
}

// === counting ===

/// Pods that were let go since they were named are counted.
fn settle(picture: &Picture, status: &mut JobStatus) {
    let tracked: HashSet<&str> = picture
        .pods
        .iter()
        .filter(|pod| is_tracked(pod))
        .filter_map(|pod| pod.metadata.uid.as_deref())
        .collect();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    for (names, total) in [
        (&mut uncounted.succeeded, &mut status.succeeded),
        (&mut uncounted.failed, &mut status.failed),
    ] {
        let before = names.as_ref().map_or(0, Vec::len);
        names.iter_mut().for_each(|names| names.retain(|uid| tracked.contains(uid.as_str())));
        let settled = before - names.as_ref().map_or(0, Vec::len);
        *total = non_zero(size(total.unwrap_or(0)) + settled);
        names.take_if(|names| names.is_empty());
    }
}

/// Names ended pods in the status, in order of index. Gives those to let go, and whether there are more than fit.
fn name_ended(
    picture: &Picture,
    verdict: Option<&Verdict>,
    status: &mut JobStatus,
) -> (Vec<Arc<Pod>>, bool) {
    let mut tracked: Vec<&Arc<Pod>> = picture.pods.iter().filter(|pod| is_tracked(pod)).collect();
    tracked.sort_by_key(|pod| picture.index(pod));
    let waiting = picture.to_be_replaced();
    let counted = picture.counted_indexes();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let (mut untrack, mut indexes, mut more) = (Vec::new(), Vec::new(), false);
    for pod in tracked {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let replaced_first = picture.index(pod).and_then(|index| waiting.get(&index));
        let waits = replaced_first.is_some_and(|waiting| waiting.metadata.uid == pod.metadata.uid);
        let free = picture.is_being_deleted() || verdict.is_some();
        let ended = pod::phase(pod) == "Succeeded" || (picture.has_failed(pod) && !waits);
        if !free && !ended {
            continue;
        }
        let named = uncounted.succeeded.as_ref().map_or(0, Vec::len)
            + uncounted.failed.as_ref().map_or(0, Vec::len);
        if indexes.len() + named >= MOST_UNCOUNTED {
            more = true;
            break;
        }
        untrack.push(pod.clone());
        let names = match ending(picture, verdict, pod) {
            Ending::Succeeded if picture.is_indexed() => {
                let new = picture.index(pod).filter(|index| !counted.contains(*index));
                indexes.extend(new);
                continue;
            }
            Ending::Succeeded => &mut uncounted.succeeded,
            Ending::Failed if !picture.is_indexed() || picture.index(pod).is_some() => {
                &mut uncounted.failed
            }
            Ending::Failed | Ending::Uncounted => continue,
        };
        if !names.iter().flatten().any(|named| *named == uid) {
            names.get_or_insert_default().push(uid);
        }
    }
    if picture.is_indexed() {
        let succeeded = counted.with(indexes);
        status.succeeded = non_zero(succeeded.count());
        status.completed_indexes = Some(succeeded.to_string()).filter(|text| !text.is_empty());
        status.failed_indexes = picture.failed_indexes().map(|failed| failed.to_string());
    }
    (untrack, more)
}

/// As what a pod goes into the books.
enum Ending {
    Succeeded,
    Failed,
    Uncounted,
}

fn ending(picture: &Picture, verdict: Option<&Verdict>, pod: &Pod) -> Ending {
    let named_failed =
        pod.metadata.uid.as_ref().is_some_and(|uid| picture.uncounted_failed().contains(uid));
    if pod::phase(pod) == "Succeeded" && !named_failed {
        return Ending::Succeeded;
    }
    let failed = match verdict {
        // Pods that were ended because enough others had succeeded did not fail.
        Some(Verdict::Succeeded { .. }) => pod::phase(pod) == "Failed",
        Some(Verdict::Failed { .. }) => true,
        None => picture.has_failed(pod),
    };
    match failed && picture.failure(pod) != Failure::Ignore {
        true => Ending::Failed,
        false => Ending::Uncounted,
    }
}

fn has_uncounted(status: &JobStatus) -> bool {
    status.uncounted_terminated_pods.as_ref().is_some_and(|uncounted| {
        let names = |names: &Option<Vec<String>>| names.as_ref().is_some_and(|n| !n.is_empty());
        names(&uncounted.succeeded) || names(&uncounted.failed)
    })
}

// === conditions ===

/// First the end that is sure to come, then, once all pods are gone and counted, the end.
fn conclude(picture: &Picture, verdict: &Verdict, all_counted: bool, status: &mut JobStatus) {
    let (target, end, reason, message) = match verdict {
        Verdict::Succeeded { reason, message } => {
            ("SuccessCriteriaMet", "Complete", reason, message)
        }
        Verdict::Failed { reason, message } => ("FailureTarget", "Failed", reason, message),
    };
    let now = picture.now;
    let conditions = status.conditions.get_or_insert_default();
    set(conditions, JobCondition::new(target, "True", reason, message, now));
    if all_counted && picture.terminating() == 0 {
        set(conditions, JobCondition::new(end, "True", reason, message, now));
        if end == "Complete" {
            status.completion_time = Some(Time(now));
        }
    }
}

fn show_suspension(picture: &Picture, status: &mut JobStatus) {
    let (shown, reason, message) = match picture.is_suspended() {
        true => ("True", "JobSuspended", "Job suspended"),
        false => ("False", "JobResumed", "Job resumed"),
    };
    let conditions = status.conditions.get_or_insert_default();
    let before = conditions.iter().find(|condition| condition.type_ == "Suspended");
    let before = before.map_or("False", |condition| condition.status.as_str());
    if before != shown {
        set(conditions, JobCondition::new("Suspended", shown, reason, message, picture.now));
        // The time the Job is given runs only while it is not suspended.
        status.start_time = (!picture.is_suspended()).then_some(Time(picture.now));
    }
    status.conditions.take_if(|conditions| conditions.is_empty());
}

/// Unlike elsewhere, a Job's condition is new in all its fields whenever one of them changes.
fn set(conditions: &mut Vec<JobCondition>, new: JobCondition) {
    match conditions.iter_mut().find(|old| old.type_ == new.type_) {
        Some(old)
            if old.status == new.status
                && old.reason == new.reason
                && old.message == new.message => {}
        Some(old) => *old = new,
        None => conditions.push(new),
    }
}

fn count(items: usize) -> i32 {
    i32::try_from(items).unwrap_or(i32::MAX)
}

/// The API leaves zero counts out.
fn non_zero(items: usize) -> Option<i32> {
    (items != 0).then_some(count(items))
}
