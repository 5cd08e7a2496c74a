//! Job: Pods that run to completion. The server picks selector and labels unless told not to.

use serde_json::{Value, json};

use crate::age;
use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{Object, flag, int, list, made, object, object_at, set, text};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::workload_cell;
use crate::meta::meta;

pub struct Job;

impl Strategy for Job {
    fn default(&self, root: &mut Value) {
        let template = root.pointer("/spec/template/metadata/labels").cloned();
        default_template(root, "/spec/template/spec");
        if let Some(spec) = object_at(root, "/spec") {
            default_spec(spec);
        }
        // Labels of the template are the Job's own unless it has some.
        let labels = template.filter(|labels| labels.as_object().is_some_and(|m| !m.is_empty()));
        if let (Some(labels), Some(meta)) = (labels, object_at(root, "/metadata")) {
            set(meta, "labels", labels);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, root: &mut Value) {
        let (uid, name) = (meta(root).uid().to_owned(), meta(root).name().to_owned());
        if let Some(map) = root.as_object_mut() {
            map.insert("status".into(), json!({}));
        }
        if !flag(root, "/spec/manualSelector") {
            select_by_uid(root, &uid, &name);
        }
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("status.successful", "/status/succeeded")]
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

/// Shared with the template of a CronJob.
pub(super) fn default_spec(spec: &mut Object) {
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
    if let Some(policy) = object(spec, "podFailurePolicy") {
        for rule in crate::kinds::fill::each(policy, "rules") {
            for pattern in crate::kinds::fill::each(rule, "onPodConditions") {
                set(pattern, "status", "True");
            }
        }
    }
    // Written by the server only when a Job is made, so that an absent one stays absent.
    if spec.get("manualSelector") == Some(&Value::Bool(false)) {
        spec.remove("manualSelector");
    }
}

fn select_by_uid(job: &mut Value, uid: &str, name: &str) {
    let pairs = [
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
        ("controller-uid", uid),
        ("job-name", name),
    ];
    let Some(spec) = object_at(job, "/spec") else { return };
    let labels = made(spec, "template")
        .and_then(|template| made(template, "metadata"))
        .and_then(|meta| made(meta, "labels"));
    if let Some(labels) = labels {
        for (key, value) in pairs {
            labels.insert(key.into(), value.into());
        }
    }
    let matched = made(spec, "selector").and_then(|selector| made(selector, "matchLabels"));
    if let Some(matched) = matched {
        matched.insert(pairs[0].0.into(), uid.into());
    }
}

fn has(job: &Value, of: &str) -> bool {
    list(job, "/status/conditions")
        .iter()
        .any(|condition| text(condition, "/type") == of && text(condition, "/status") == "True")
}

fn status_text(job: &Value) -> &'static str {
    match () {
        _ if has(job, "Complete") => "Complete",
        _ if has(job, "Failed") => "Failed",
        _ if meta(job).deletion_timestamp().is_some() => "Terminating",
        _ if has(job, "Suspended") => "Suspended",
        _ if has(job, "FailureTarget") => "FailureTarget",
        _ if has(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
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
