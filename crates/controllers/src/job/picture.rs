//! A Job and its pods as they are seen at one moment, and what can be read off them.
//!
//! Counterpart: `syncJobCtx`. Pure. Invariant: a pod counts anew only while it carries the tracking finalizer and the status
//! does not name it yet; what the status has counted is never looked up in pods again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use super::back_off::{BackOff, finish_time};
use super::indexes::Indexes;
use super::policies::{self, Failure};
use super::{FAILURE_COUNT, IGNORED_FAILURE_COUNT, INDEX, TRACKING};
use crate::pod;

pub struct Picture<'a> {
    pub job: &'a Job,
    pub spec: &'a JobSpec,
    pub status: &'a JobStatus,
    pub pods: &'a [Arc<Pod>],
    pub now: Timestamp,
}

static NO_STATUS: JobStatus = JobStatus {
    active: None,
    completed_indexes: None,
    completion_time: None,
    conditions: None,
    failed: None,
    failed_indexes: None,
    ready: None,
    start_time: None,
    succeeded: None,
    terminating: None,
    uncounted_terminated_pods: None,
};

// === impl Picture ===

impl<'a> Picture<'a> {
    pub fn new(job: &'a Job, pods: &'a [Arc<Pod>], now: Timestamp) -> Option<Picture<'a>> {
        let status = job.status.as_ref().unwrap_or(&NO_STATUS);
        Some(Picture { job, spec: job.spec.as_ref()?, status, pods, now })
    }

    pub fn is_being_deleted(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    pub fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }

    pub fn parallelism(&self) -> usize {
        size(self.spec.parallelism.unwrap_or(1))
    }

    pub fn completions(&self) -> Option<usize> {
        self.spec.completions.map(size)
    }

    /// Whether a pod that is on its way out is replaced only once it has ended.
    pub fn replaces_only_ended(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed")
            || self.spec.pod_failure_policy.is_some()
    }

    pub fn active(&self) -> Vec<Arc<Pod>> {
        self.pods.iter().filter(|pod| pod::is_active(pod)).cloned().collect()
    }

    pub fn terminating(&self) -> usize {
        self.pods.iter().filter(|pod| is_ending(pod)).count()
    }

    pub fn condition(&self, type_: &str) -> Option<&JobCondition> {
        let mut conditions = self.status.conditions.iter().flatten();
        conditions.find(|condition| condition.type_ == type_ && condition.status == "True")
    }

    /// The pod's index, if it is one of this Job's.
    pub fn index(&self, pod: &Pod) -> Option<usize> {
        index(pod).filter(|index| self.completions().is_some_and(|all| *index < all))
    }

    /// Whether the pod counts as failed. One being deleted does too: it may never come to an end of its own.
    pub fn has_failed(&self, pod: &Pod) -> bool {
        match pod::phase(pod) {
            "Failed" => true,
            "Succeeded" => false,
            _ => pod::is_terminating(pod) && !self.replaces_only_ended(),
        }
    }

    pub fn failure(&self, pod: &Pod) -> Failure {
        policies::failure(self.spec.pod_failure_policy.as_ref(), pod)
    }

    fn counts(&self, pod: &Pod) -> bool {
        self.failure(pod) != Failure::Ignore
    }

    /// Pods the status has yet to hear of, except those with an index the Job has not.
    fn unheard(&self, heard: &'a [String]) -> impl Iterator<Item = &Pod> {
        self.pods.iter().map(Arc::as_ref).filter(move |pod| {
            is_tracked(pod)
                && !pod.metadata.uid.as_ref().is_some_and(|uid| heard.contains(uid))
                && (!self.is_indexed() || self.index(pod).is_some())
        })
    }

    pub fn newly_succeeded(&self) -> Vec<&Pod> {
        self.unheard(self.uncounted_succeeded())
            .filter(|pod| pod::phase(pod) == "Succeeded")
            .collect()
    }

    pub fn newly_failed(&self) -> Vec<&Pod> {
        self.unheard(self.uncounted_failed()).filter(|pod| self.has_failed(pod)).collect()
    }

    pub fn uncounted_succeeded(&self) -> &'a [String] {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        uncounted.and_then(|uncounted| uncounted.succeeded.as_deref()).unwrap_or_default()
    }

    pub fn uncounted_failed(&self) -> &'a [String] {
        let uncounted = self.status.uncounted_terminated_pods.as_ref();
        uncounted.and_then(|uncounted| uncounted.failed.as_deref()).unwrap_or_default()
    }

    /// All successes so far; of an indexed Job, the indexes.
    pub fn succeeded(&self) -> usize {
        if self.is_indexed() {
            return self.succeeded_indexes().count();
        }
        size(self.status.succeeded.unwrap_or(0))
            + self.newly_succeeded().len()
            + self.uncounted_succeeded().len()
    }

    /// All failures so far that are not ignored.
    pub fn failed(&self) -> usize {
        let new = self.newly_failed().iter().filter(|pod| self.counts(pod)).count();
        size(self.status.failed.unwrap_or(0)) + new + self.uncounted_failed().len()
    }

    pub fn counted_indexes(&self) -> Indexes {
        let text = self.status.completed_indexes.as_deref().unwrap_or_default();
        Indexes::parse(text, self.completions().unwrap_or(0))
    }

    pub fn succeeded_indexes(&self) -> Indexes {
        let tracked = self.pods.iter().filter(|pod| is_tracked(pod));
        let succeeded = tracked.filter(|pod| pod::phase(pod) == "Succeeded");
        self.counted_indexes().with(succeeded.filter_map(|pod| self.index(pod)))
    }

    /// Indexes that will not be tried again; none if failures are not counted by index.
    pub fn failed_indexes(&self) -> Option<Indexes> {
        let limit = self.spec.backoff_limit_per_index?;
        let before = self.status.failed_indexes.as_deref().unwrap_or_default();
        let tracked = self.pods.iter().filter(|pod| is_tracked(pod) && self.has_failed(pod));
        let lost = tracked.filter(|pod| match self.failure(pod) {
            Failure::FailIndex => true,
            Failure::Ignore => false,
            Failure::Count | Failure::FailJob(_) => failures_before(pod) >= size(limit),
        });
        let before = Indexes::parse(before, self.completions().unwrap_or(0));
        Some(before.with(lost.filter_map(|pod| self.index(pod))))
    }

    /// Per index, the failed pod that its replacement will take the count of failures from. Until then it stays tracked.
    pub fn to_be_replaced(&self) -> BTreeMap<usize, Arc<Pod>> {
        let Some(failed) = self.failed_indexes() else { return BTreeMap::new() };
        let settled = failed.union(&self.succeeded_indexes());
        let active: BTreeSet<usize> =
            self.active().iter().filter_map(|pod| self.index(pod)).collect();
        let mut last: BTreeMap<usize, Arc<Pod>> = BTreeMap::new();
        for pod in self.pods.iter().filter(|pod| is_tracked(pod) && self.has_failed(pod)) {
            let Some(index) = self.index(pod) else { continue };
            let rank = |pod: &Pod| (all_failures_before(pod), finish_time(pod));
            let later = last.get(&index).is_none_or(|known| rank(known) <= rank(pod));
            if later && !settled.contains(index) && !active.contains(&index) {
                last.insert(index, pod.clone());
            }
        }
        last
    }

    /// The back-off as far as pods that are counted already tell.
    pub fn past_back_off(&self) -> BackOff {
        let counted = |phase: &str| -> Vec<&Pod> {
            let pods = self.pods.iter().map(Arc::as_ref);
            pods.filter(|pod| !is_tracked(pod) && pod::phase(pod) == phase).collect()
        };
        BackOff::default().after(&counted("Succeeded"), &counted("Failed"))
    }
}

/// Counts and limits of the API are never negative: it refuses them.
pub fn size(count: i32) -> usize {
    usize::try_from(count).unwrap_or(0)
}

pub fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().flatten().any(|finalizer| finalizer == TRACKING)
}

/// On its way out, and not there yet.
pub fn is_ending(pod: &Pod) -> bool {
    pod::is_terminating(pod) && !pod::is_terminal(pod)
}

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

pub fn index(pod: &Pod) -> Option<usize> {
    annotation(pod, INDEX)?.parse().ok()
}

/// How often the index failed before this pod, as far as failures counted.
pub fn failures_before(pod: &Pod) -> usize {
    annotation(pod, FAILURE_COUNT).and_then(|count| count.parse().ok()).map_or(0, size)
}

pub fn ignored_failures_before(pod: &Pod) -> usize {
    annotation(pod, IGNORED_FAILURE_COUNT).and_then(|count| count.parse().ok()).map_or(0, size)
}

pub fn all_failures_before(pod: &Pod) -> usize {
    failures_before(pod) + ignored_failures_before(pod)
}
