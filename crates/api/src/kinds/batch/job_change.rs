//! What an update of a Job may change: a Job runs what it was made with, and only how much of it
//! at once may change; while it is suspended also where its Pods run and what they may use.
//!
//! Counterpart: `ValidateJobSpecUpdate`.

use serde_json::Value;

use super::job::validate_job_spec;
use super::job_spec::INDEXED;
use super::job_status::is_true;
use crate::field::ErrorList;
use crate::kinds::at::{At, IMMUTABLE};
use crate::kinds::fill::{Object, flag, int, object_at};
use crate::kinds::workload::validate_unchanged;

pub fn validate_change(job: &Value, old: &Value, errors: &mut ErrorList) {
    let (root, was_root) = (At::root(job), At::root(old));
    let (spec, was) = (root.child("spec"), was_root.child("spec"));
    // Upstream validates the spec once more before it looks at what changed.
    validate_job_spec(&spec, errors);
    completions_change(&spec, &was, errors);
    validate_unchanged(job, old, &["selector"], errors);
    template_change(&spec, old, errors);
    const FIXED: &[&str] = &[
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ];
    validate_unchanged(job, old, FIXED, errors);
}

/// An Indexed Job may be resized: completions and parallelism together.
fn completions_change(spec: &At, old: &At, errors: &mut ErrorList) {
    let (now, was) = (spec.child("completions"), old.child("completions"));
    if spec.text_of("completionMode") != INDEXED {
        now.unchanged(errors, &was);
    } else if now.is_set() && now.value != was.value && now.value != spec.child("parallelism").value
    {
        now.invalid(errors, "can only be modified in tandem with spec.parallelism");
    }
}

fn template_change(spec: &At, old: &Value, errors: &mut ErrorList) {
    let template = spec.child("template");
    let was = &old["spec"]["template"];
    if !may_be_placed_anew(old) {
        if template.value != was {
            template.invalid(errors, IMMUTABLE);
        }
        return;
    }
    let (mut pod, mut was) = (template.value["spec"].clone(), was["spec"].clone());
    for pod in [&mut pod, &mut was] {
        forget_placement(pod);
    }
    for field in ["containers", "initContainers"] {
        forget_resources(&mut pod, &mut was, field);
    }
    if pod != was {
        template.child("spec").invalid(errors, IMMUTABLE);
    }
}

/// A Job that is suspended and has no Pods left.
fn may_be_placed_anew(job: &Value) -> bool {
    let started = job.pointer("/status/startTime").is_some_and(|time| !time.is_null());
    flag(job, "/spec/suspend")
        && (!started || is_true(job, "Suspended"))
        && int(job, "/status/active").unwrap_or(0) == 0
}

fn forget_placement(pod: &mut Value) {
    let affinity = object_at(pod, "/affinity").map(|affinity| {
        affinity.remove("nodeAffinity");
        affinity.is_empty()
    });
    let Some(pod) = pod.as_object_mut() else { return };
    if affinity == Some(true) {
        pod.remove("affinity");
    }
    for field in ["nodeSelector", "tolerations", "schedulingGates"] {
        pod.remove(field);
    }
}

/// Drops the resources of containers that stand in both lists at the same place.
fn forget_resources(pod: &mut Value, other: &mut Value, field: &str) {
    let (Some(ours), Some(theirs)) = (containers(pod, field), containers(other, field)) else {
        return;
    };
    if ours.len() != theirs.len() {
        return;
    }
    for (one, other) in ours.into_iter().zip(theirs) {
        if one.get("name") == other.get("name") {
            one.remove("resources");
            other.remove("resources");
        }
    }
}

fn containers<'a>(pod: &'a mut Value, field: &str) -> Option<Vec<&'a mut Object>> {
    let list = pod.get_mut(field)?.as_array_mut()?;
    Some(list.iter_mut().filter_map(Value::as_object_mut).collect())
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check_update;

    const PATH: &str = "batch/v1/jobs";

    fn job(more: &str, pod: &str) -> String {
        format!(
            "spec: {{{more} manualSelector: true, selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {{restartPolicy: Never, containers: [{{name: c, image: i, {pod}}}]}}}}}}"
        )
    }

    #[test]
    fn completions_are_fixed_unless_indexed() {
        check_update(
            PATH,
            &job("completions: 1,", ""),
            &job("completions: 2,", ""),
            &["spec.completions: Invalid value: 2: field is immutable"],
        );
        let indexed = |size: &str| job(&format!("completionMode: Indexed, {size},"), "");
        let old = indexed("completions: 1, parallelism: 1");
        check_update(PATH, &old, &indexed("completions: 2, parallelism: 2"), &[]);
        check_update(
            PATH,
            &old,
            &indexed("completions: 2, parallelism: 1"),
            &[
                "spec.completions: Invalid value: 2: can only be modified in tandem with spec.parallelism",
            ],
        );
    }

    #[test]
    fn resources_of_a_suspended_job_may_change() {
        let (old, new) = ("resources: {requests: {cpu: 1}}", "resources: {requests: {cpu: 2}}");
        check_update(PATH, &job("suspend: true,", old), &job("suspend: true,", new), &[]);
    }
}
