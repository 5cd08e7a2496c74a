//! Job: Pods that run to completion. The server picks selector and labels unless told not to.

use serde_json::{Value, json};

use super::job_change::validate_change;
use super::job_spec::{INDEXED, validate_spec};
use super::job_status::{is_true, validate_status};
use crate::age;
use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{
    Object, each, flag, int, made, object, object_at, set, set_if_empty, text,
};
use crate::kinds::pod_spec::default_template;
use crate::kinds::pod_spec::validate::validate_selected;
use crate::kinds::selectors::validate_label_selector;
use crate::kinds::workload::{template_warnings, warn_name, workload_cell};
use crate::meta::{meta, meta_mut};
use crate::selector::Labels;
use crate::validation::dns_label;

pub struct Job;

impl Strategy for Job {
    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/template/spec")
    }

    fn default(&self, root: &mut Value) {
        default_template(root, "/spec/template/spec");
        if let Some(spec) = object_at(root, "/spec") {
            default_spec(spec);
        }
        label_as_template(root);
    }

    fn prepare_for_create(&self, _kind: &KindDef, root: &mut Value) {
        if let Some(map) = root.as_object_mut() {
            map.insert("status".into(), json!({}));
        }
        let labels = root.pointer("/spec/template/metadata/labels");
        let shared = labels.is_some() && labels == root.pointer("/metadata/labels");
        if !flag(root, "/spec/manualSelector") {
            let (uid, name) = (meta(root).uid().to_owned(), meta(root).name().to_owned());
            select_by_uid(root, &uid, &name);
        }
        if shared && let Some(meta) = meta_mut(root) {
            meta.remove("labels");
            label_as_template(root);
        }
    }

    /// Labels of the server's own count as the Job's once they have been found good.
    fn canonicalize(&self, root: &mut Value) {
        label_as_template(root);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_job(object, true, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let had = |key: &str| {
            old.pointer("/spec/template/metadata/labels")
                .and_then(|labels| labels.get(key))
                .is_some()
        };
        validate_job(object, had(JOB_NAME) && had(CONTROLLER_UID), errors);
        validate_change(object, old, errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_status(object, old, errors);
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("status.successful", "/status/succeeded")]
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        let mut warnings = Vec::new();
        if old.is_none() {
            warn_name(meta(object).name(), &mut warnings);
        }
        if old.is_none_or(|old| old["spec"] != object["spec"]) {
            warn_spec(&object["spec"], "spec", &mut warnings);
        }
        warnings.extend(template_warnings(object, old, "/spec/template"));
        warnings
    }

    fn cell(&self, object: &Value, column: &str, now: i64) -> Value {
        match column {
            "Status" => status_text(object).into(),
            "Completions" => completions(object).into(),
            "Duration" => duration(object, now).into(),
            _ => workload_cell(object, column),
        }
    }
}

fn default_spec(spec: &mut Object) {
    let unset = |field: &str| !spec.contains_key(field);
    if unset("completions") && unset("parallelism") {
        set(spec, "completions", 1);
        set(spec, "parallelism", 1);
    }
    set(spec, "parallelism", 1);
    let per_index = spec.contains_key("backoffLimitPerIndex");
    set(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
    set(spec, "completionMode", "NonIndexed");
    set(spec, "suspend", false);
    set(spec, "manualSelector", false);
    let failed_only = spec.contains_key("podFailurePolicy");
    set(spec, "podReplacementPolicy", if failed_only { "Failed" } else { "TerminatingOrFailed" });
    default_failure_policy(spec);
}

pub(super) fn default_failure_policy(spec: &mut Object) {
    let Some(policy) = object(spec, "podFailurePolicy") else { return };
    for rule in each(policy, "rules") {
        for pattern in each(rule, "onPodConditions") {
            set_if_empty(pattern, "status", "True");
        }
    }
}

/// Labels of the template are the Job's own unless it has some.
fn label_as_template(root: &mut Value) {
    let labels = root.pointer("/spec/template/metadata/labels").cloned();
    let labels = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()));
    if let (Some(labels), Some(meta)) = (labels, meta_mut(root)) {
        set(meta, "labels", labels);
    }
}

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
const OLD_CONTROLLER_UID: &str = "controller-uid";
const OLD_JOB_NAME: &str = "job-name";

/// Labels the Pods with whose they are, and selects them by it. What the client set stays, to be
/// found wrong later.
fn select_by_uid(job: &mut Value, uid: &str, name: &str) {
    let Some(spec) = object_at(job, "/spec") else { return };
    let labels = made(spec, "template")
        .and_then(|template| made(template, "metadata"))
        .and_then(|meta| made(meta, "labels"));
    if let Some(labels) = labels {
        for (key, value) in [
            (CONTROLLER_UID, uid),
            (JOB_NAME, name),
            (OLD_CONTROLLER_UID, uid),
            (OLD_JOB_NAME, name),
        ] {
            set(labels, key, value);
        }
    }
    let matched = made(spec, "selector").and_then(|selector| made(selector, "matchLabels"));
    if let Some(matched) = matched {
        set(matched, CONTROLLER_UID, uid);
    }
}

// === cells ===

fn status_text(job: &Value) -> &'static str {
    match () {
        _ if is_true(job, "Complete") => "Complete",
        _ if is_true(job, "Failed") => "Failed",
        _ if meta(job).deletion_timestamp().is_some() => "Terminating",
        _ if is_true(job, "Suspended") => "Suspended",
        _ if is_true(job, "FailureTarget") => "FailureTarget",
        _ if is_true(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        _ => "Running",
    }
}

fn completions(job: &Value) -> String {
    let done = int(job, "/status/succeeded").unwrap_or(0);
    match (int(job, "/spec/completions"), int(job, "/spec/parallelism").unwrap_or(0)) {
        (Some(wanted), _) => format!("{done}/{wanted}"),
        (None, parallel) if parallel > 1 => format!("{done}/1 of {parallel}"),
        _ => format!("{done}/1"),
    }
}

fn duration(job: &Value, now: i64) -> String {
    let seconds = |pointer| text(job, pointer).parse::<jiff::Timestamp>().ok();
    match (seconds("/status/startTime"), seconds("/status/completionTime")) {
        (None, _) => String::new(),
        (Some(start), Some(end)) => age::human(end.as_second() - start.as_second()),
        (Some(start), None) => age::human(now - start.as_second()),
    }
}

// === validation ===

fn validate_job(job: &Value, prefixed: bool, errors: &mut ErrorList) {
    let root = At::root(job);
    let spec = root.child("spec");
    generated_selector(job, &spec, prefixed, errors);
    validate_job_spec(&spec, errors);
    pod_hostname(job, &spec, errors);
}

/// The spec of a Job, which unlike that of a CronJob's template has a selector.
pub(super) fn validate_job_spec(spec: &At, errors: &mut ErrorList) {
    validate_spec(spec, errors);
    let selector = spec.child("selector");
    match selector.is_set() {
        true => validate_label_selector(&selector, errors),
        false => selector.required(errors, ""),
    }
    // A selector that is none has been reported by now.
    let _ = validate_selected(&spec.child("template"), &selector, errors);
}

/// Unless told otherwise the selector is the one that the server made, and so are the labels.
/// `prefixed`: the labels that carry a domain are asked for as well, which old Jobs lack.
fn generated_selector(job: &Value, spec: &At, prefixed: bool, errors: &mut ErrorList) {
    if spec.flag_of("manualSelector") || !spec.has("selector") {
        return;
    }
    let (uid, name) = (meta(job).uid(), meta(job).name());
    let mut expected = vec![(OLD_CONTROLLER_UID, uid), (OLD_JOB_NAME, name)];
    if prefixed {
        expected.extend([(CONTROLLER_UID, uid), (JOB_NAME, name)]);
    }
    let (template, selector) = (spec.child("template"), spec.child("selector"));
    let metadata = template.child("metadata");
    let labels = metadata.child("labels");
    for (key, value) in &expected {
        has_label(&labels, key, value, errors);
    }
    let expected: Object =
        expected.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect();
    if Labels::from_object(selector.value).is_ok_and(|wanted| !wanted.matches(Some(&expected))) {
        selector.invalid(errors, "`selector` not auto-generated");
    }
}

fn has_label(labels: &At, key: &str, value: &str, errors: &mut ErrorList) {
    let (place, detail) = (labels.path.key(key), format!("must be '{value}'"));
    match labels.value.get(key) {
        None => errors.required(&place, detail),
        Some(found) if found != value => errors.invalid(&place, labels.value.clone(), detail),
        Some(_) => {}
    }
}

/// Pods of an Indexed Job are called after it and their index.
fn pod_hostname(job: &Value, spec: &At, errors: &mut ErrorList) {
    let (name, completions) = (meta(job).name(), spec.child("completions").int());
    if spec.text_of("completionMode") != INDEXED || completions <= 0 {
        return;
    }
    let hostname = format!("{name}-{}", completions - 1);
    if !dns_label(&hostname).is_empty() {
        let root = At::root(job);
        let detail = format!("will not able to create pod with invalid DNS label: {hostname}");
        root.child("metadata").child("name").invalid_as(errors, name, detail);
    }
}

// === warnings ===

/// Indexes that are done are listed in the status, which has its limits.
pub(super) fn warn_spec(spec: &Value, path: &str, warnings: &mut Vec<String>) {
    let number = |pointer| int(spec, pointer).unwrap_or(0);
    let large = number("/completions") > 100_000 && number("/parallelism") > 10_000;
    if text(spec, "/completionMode") == INDEXED && large {
        warnings.push(format!(
            "{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
        ));
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check;

    const PATH: &str = "batch/v1/jobs";

    fn job(more: &str, pod: &str) -> String {
        format!(
            "spec: {{{more} template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i}}], {pod}}}}}}}"
        )
    }

    #[test]
    fn pods_of_a_job_must_end() {
        check(PATH, &job("", "restartPolicy: Never"), &[]);
        check(
            PATH,
            &job("", ""),
            &[
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ],
        );
    }

    #[test]
    fn labels_of_the_server_that_a_client_set_wrong_are_found() {
        let labels = "{controller-uid: other}";
        let job = job("", "restartPolicy: Never").replace("{a: b}", labels);
        check(
            PATH,
            &format!("metadata: {{name: job, uid: u}}\n{job}"),
            &[
                "spec.template.metadata.labels[controller-uid]: Invalid value: {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"job\",\"controller-uid\":\"other\",\"job-name\":\"job\"}: must be 'u'",
            ],
        );
    }

    #[test]
    fn indexed_pods_need_a_hostname() {
        let name = "n".repeat(62);
        let spec = job("completionMode: Indexed, completions: 2,", "restartPolicy: Never");
        check(
            PATH,
            &format!("metadata: {{name: {name}, uid: u}}\n{spec}"),
            &[&format!(
                "metadata.name: Invalid value: \"{name}\": will not able to create pod with invalid DNS label: {name}-1"
            )],
        );
    }
}
