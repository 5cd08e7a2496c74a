//! Job: Pods that run to completion. The server picks selector and labels unless told not to.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::pod_spec::validate::{validate_selected, validate_template};
use crate::kinds::rules::domain_prefixed_path;
use crate::kinds::selectors::validate_label_selector;
use crate::kinds::workload::template_warnings;
use crate::kinds::workload::validate_unchanged;
use serde_json::{Value, json};

use crate::age;
use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{Object, flag, int, list, made, object, object_at, set, text};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::workload_cell;
use crate::meta::{meta, meta_mut};

pub struct Job;

impl Strategy for Job {
    fn default(&self, root: &mut Value) {
        default_template(root, "/spec/template/spec");
        if let Some(spec) = object_at(root, "/spec") {
            default_spec(spec);
        }
        label_as_template(root);
    }

    fn prepare_for_create(&self, _kind: &KindDef, root: &mut Value) {
        let (uid, name) = (meta(root).uid().to_owned(), meta(root).name().to_owned());
        if let Some(map) = root.as_object_mut() {
            map.insert("status".into(), json!({}));
        }
        if !flag(root, "/spec/manualSelector") {
            select_by_uid(root, &uid, &name);
        }
        label_as_template(root);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        generated_selector(object, &spec, errors);
        validate_spec(&spec, true, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        // Upstream validates the spec once more before it looks at what changed.
        validate_spec(&At::root(object).child("spec"), true, errors);
        validate_change(object, old, errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        const COUNTS: &[&str] = &["active", "succeeded", "failed", "ready", "terminating"];
        At::root(object).child("status").not_negative_each(errors, COUNTS);
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("status.successful", "/status/succeeded")]
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(object, old, "/spec/template")
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
}

/// Labels of the template are the Job's own unless it has some.
fn label_as_template(root: &mut Value) {
    let labels = root.pointer("/spec/template/metadata/labels").cloned();
    let labels = labels.filter(|labels| labels.as_object().is_some_and(|map| !map.is_empty()));
    if let (Some(labels), Some(meta)) = (labels, meta_mut(root)) {
        set(meta, "labels", labels);
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

// === validation ===

/// The most an Indexed Job may run at once.
const PARALLELISM_MAX: i64 = 100_000;
const INDEXED: &str = "Indexed";

/// Unless told otherwise the selector is the one that the server made.
fn generated_selector(job: &Value, spec: &At, errors: &mut ErrorList) {
    if spec.flag_of("manualSelector") || !spec.has("selector") {
        return;
    }
    let uid = meta(job).uid();
    let expected = json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}});
    let older = json!({"matchLabels": {"controller-uid": uid}});
    let selector = spec.child("selector");
    if *selector.value != expected && *selector.value != older {
        selector.invalid(errors, "`selector` not auto-generated");
    }
}

/// `of_job`: the spec of a Job, which has a selector, and not of a CronJob's template.
pub(super) fn validate_spec(spec: &At, of_job: bool, errors: &mut ErrorList) {
    const NUMBERS: &[&str] = &[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    spec.not_negative_each(errors, NUMBERS);
    completion(spec, errors);
    spec.child("managedBy").obeys_if_set(errors, domain_prefixed_path);
    failure_policy(spec, errors);
    let success = spec.child("successPolicy");
    if success.is_set() && spec.text_of("completionMode") != INDEXED {
        success.invalid(errors, "requires indexed completion mode");
    }
    let replacement = spec.child("podReplacementPolicy");
    replacement.one_of_if_set(errors, &["Failed", "TerminatingOrFailed"]);
    if of_job {
        let selector = spec.child("selector");
        match selector.is_set() {
            true => validate_label_selector(&selector, errors),
            false => selector.required(errors, ""),
        }
        validate_selected(&spec.child("template"), &selector, errors);
    }
    let template = spec.child("template");
    validate_template(&template, errors);
    restart_policy(spec, &template.child("spec"), errors);
}

fn completion(spec: &At, errors: &mut ErrorList) {
    let mode = spec.child("completionMode");
    mode.one_of_if_set(errors, &["NonIndexed", INDEXED]);
    if mode.text() == INDEXED {
        if !spec.has("completions") {
            let detail = "when completion mode is Indexed";
            spec.child("completions").required(errors, detail);
        }
        let parallelism = spec.child("parallelism");
        if parallelism.int() > PARALLELISM_MAX {
            let detail = format!(
                "must be less than or equal to {PARALLELISM_MAX} when completion mode is Indexed"
            );
            parallelism.invalid(errors, detail);
        }
        return;
    }
    for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
        if spec.has(field) {
            spec.child(field).invalid(errors, "requires indexed completion mode");
        }
    }
}

fn restart_policy(spec: &At, pod: &At, errors: &mut ErrorList) {
    let policy = pod.child("restartPolicy");
    match policy.text() {
        "" | "Always" => policy.required(errors, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            policy.invalid(errors, detail);
        }
        "OnFailure" | "Never" => {}
        _ => policy.not_supported(errors, &["OnFailure", "Never"]),
    }
}

// === failure policy ===

const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];

fn failure_policy(spec: &At, errors: &mut ErrorList) {
    let policy = spec.child("podFailurePolicy");
    let rules = policy.child("rules");
    if rules.list().len() > 20 {
        errors.too_many(&rules.path, rules.list().len(), 20);
    }
    let pod = spec.child("template");
    let pod = pod.child("spec");
    let containers: Vec<&str> = ["containers", "initContainers"]
        .iter()
        .flat_map(|field| list(pod.value, &format!("/{field}")))
        .map(|container| text(container, "/name"))
        .collect();
    for rule in rules.items() {
        failure_rule(spec, &rule, &containers, errors);
    }
}

fn failure_rule(spec: &At, rule: &At, containers: &[&str], errors: &mut ErrorList) {
    let action = rule.child("action");
    if action.is_empty() {
        action.required(errors, &format!("valid values: {ACTIONS:?}"));
    } else {
        action.one_of(errors, ACTIONS);
    }
    if action.text() == "FailIndex" && !spec.has("backoffLimitPerIndex") {
        action.invalid(errors, "requires the backoffLimitPerIndex to be set");
    }
    let (codes, conditions) = (rule.child("onExitCodes"), rule.child("onPodConditions"));
    if codes.is_set() {
        exit_codes(&codes, containers, errors);
    }
    for condition in conditions.items() {
        condition.child("type").needed(errors);
        condition.child("status").needed_one_of(errors, &["False", "True", "Unknown"]);
    }
    let one = "specifying one of OnExitCodes and OnPodConditions is required";
    match (codes.is_set(), !conditions.is_empty()) {
        (true, true) => {
            let detail = "specifying both OnExitCodes and OnPodConditions is not supported";
            rule.invalid(errors, detail);
        }
        (false, false) => rule.invalid(errors, one),
        _ => {}
    }
}

fn exit_codes(codes: &At, containers: &[&str], errors: &mut ErrorList) {
    codes.child("operator").needed_one_of(errors, &["In", "NotIn"]);
    let name = codes.child("containerName");
    if name.is_set() && !containers.contains(&name.text()) {
        name.invalid(
            errors,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let values = codes.child("values");
    let numbers: Vec<i64> = values.list().iter().filter_map(Value::as_i64).collect();
    if numbers.is_empty() {
        return values.invalid(errors, "at least one value is required");
    }
    if numbers.len() > 255 {
        errors.too_many(&values.path, numbers.len(), 255);
    }
    for (index, value) in values.items().enumerate() {
        if value.int() == 0 && codes.text_of("operator") == "In" {
            value.invalid(errors, "must not be 0 for the In operator");
        } else if numbers[..index].contains(&value.int()) {
            value.duplicate(errors);
        }
    }
    if !numbers.is_sorted() {
        values.invalid(errors, "must be ordered");
    }
}

// === changes ===

/// A Job runs what it was made with; only how much of it at once may change.
fn validate_change(job: &Value, old: &Value, errors: &mut ErrorList) {
    let (root, was_root) = (At::root(job), At::root(old));
    let (spec, was) = (root.child("spec"), was_root.child("spec"));
    completions_change(&spec, &was, errors);
    validate_unchanged(job, old, &["selector"], errors);
    template_change(&spec, &was, errors);
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
    if now.value == was.value {
        return;
    }
    let elastic = old.text_of("completionMode") == INDEXED && was.is_set() && now.is_set();
    if !elastic {
        now.invalid(errors, "field is immutable");
    } else if now.value != spec.child("parallelism").value {
        let parallelism = spec.child("parallelism").int();
        let detail = format!(
            "can only be modified in tandem with {}",
            format_args!("spec.parallelism ({parallelism})")
        );
        now.invalid(errors, detail);
    }
}

/// While a Job is suspended and has not started, where its Pods may run can still be decided.
fn template_change(spec: &At, old: &At, errors: &mut ErrorList) {
    let (template, was) = (spec.child("template"), old.child("template"));
    let mut compared = template.value.clone();
    if old.flag_of("suspend") {
        for pointer in ["/metadata/labels", "/metadata/annotations"] {
            take_over(&mut compared, was.value, pointer);
        }
        for field in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            take_over(&mut compared, was.value, &format!("/spec/{field}"));
        }
    }
    if compared != *was.value {
        template.invalid(errors, "field is immutable");
    }
}

fn take_over(value: &mut Value, from: &Value, pointer: &str) {
    let Some((parent, field)) = pointer.rsplit_once('/') else { return };
    let Some(map) = value.pointer_mut(parent).and_then(Value::as_object_mut) else { return };
    match from.pointer(pointer) {
        Some(was) => map.insert(field.to_owned(), was.clone()),
        None => map.remove(field),
    };
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

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
    fn failure_policies() {
        let rule = "{action: FailJob, onExitCodes: {operator: In, values: [3, 1]}}";
        check(
            PATH,
            &job(&format!("podFailurePolicy: {{rules: [{rule}]}},"), "restartPolicy: Never"),
            &[
                "spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,1]: must be ordered",
            ],
        );
    }

    #[test]
    fn completions_are_fixed_unless_indexed() {
        let sized = |more: &str| job(more, "restartPolicy: Never");
        check_update(
            PATH,
            &sized("completions: 1, manualSelector: true, selector: {matchLabels: {a: b}},"),
            &sized("completions: 2, manualSelector: true, selector: {matchLabels: {a: b}},"),
            &["spec.completions: Invalid value: 2: field is immutable"],
        );
    }
}
