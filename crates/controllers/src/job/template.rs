//! The pods that a Job makes: its template, tracked, and with an index where the Job has indexes.
//!
//! Counterpart: the pod half of `manageJob`. Invariant: a pod is tracked from its first moment, so none ends unseen.

use k8s_openapi::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector, Pod};

use super::picture::{Picture, failures_before, ignored_failures_before};
use super::policies::Failure;
use super::{FAILURE_COUNT, IGNORED_FAILURE_COUNT, INDEX, TRACKING};
use crate::pod_control::pod_from_template;

const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What is left of 63 characters for a name to which five random ones are added.
const LONGEST_PREFIX: usize = 58;

pub struct Blueprint<'a> {
    picture: &'a Picture<'a>,
    pod: Pod,
}

// === impl Blueprint ===

impl<'a> Blueprint<'a> {
    pub fn new(picture: &'a Picture<'a>) -> Blueprint<'a> {
        let mut pod = pod_from_template(&picture.spec.template, picture.job);
        let finalizers = pod.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|finalizer| finalizer == TRACKING) {
            finalizers.push(TRACKING.into());
        }
        if let Some(spec) = pod.spec.as_mut().filter(|_| picture.is_indexed()) {
            let init = spec.init_containers.iter_mut().flatten();
            init.chain(&mut spec.containers).for_each(tell_index);
        }
        Blueprint { picture, pod }
    }

    pub fn pod(&self) -> Pod {
        self.pod.clone()
    }

    /// The pod for an index; where one failed before, it goes on with that one's count of failures.
    pub fn indexed_pod(&self, index: usize, replaced: Option<&Pod>) -> Pod {
        let mut pod = self.pod();
        let job = self.picture.job.metadata.name.as_deref().unwrap_or_default();
        let suffix = format!("-{index}-");
        let prefix = job.get(..LONGEST_PREFIX - suffix.len()).unwrap_or(job);
        pod.metadata.generate_name = Some(format!("{prefix}{suffix}"));
        pod.metadata.labels.get_or_insert_default().insert(INDEX.into(), index.to_string());
        pod.spec.get_or_insert_default().hostname = Some(format!("{job}-{index}"));
        let annotations = pod.metadata.annotations.get_or_insert_default();
        annotations.insert(INDEX.into(), index.to_string());
        if self.picture.spec.backoff_limit_per_index.is_some() {
            let (failures, ignored) = self.failures(replaced);
            annotations.insert(FAILURE_COUNT.into(), failures.to_string());
            if ignored > 0 {
                annotations.insert(IGNORED_FAILURE_COUNT.into(), ignored.to_string());
            }
        }
        pod
    }

    fn failures(&self, replaced: Option<&Pod>) -> (usize, usize) {
        let Some(pod) = replaced else { return (0, 0) };
        let (failures, ignored) = (failures_before(pod), ignored_failures_before(pod));
        match self.picture.failure(pod) {
            Failure::Ignore => (failures, ignored + 1),
            _ => (failures + 1, ignored),
        }
    }
}

fn tell_index(container: &mut Container) {
    let variables = container.env.get_or_insert_default();
    if variables.iter().any(|variable| variable.name == INDEX_VARIABLE) {
        return;
    }
    let field = ObjectFieldSelector {
        field_path: format!("metadata.labels['{INDEX}']"),
        ..ObjectFieldSelector::default()
    };
    variables.push(EnvVar {
        name: INDEX_VARIABLE.into(),
        value_from: Some(EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() }),
        ..EnvVar::default()
    });
}
