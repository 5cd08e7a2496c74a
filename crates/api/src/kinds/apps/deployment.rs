//! Deployment: rolling update by quarters, ten old revisions, ten minutes to make progress.

use crate::alike::alike;
use crate::kinds::at::At;
use crate::kinds::pod_spec::validate::validate_controlled_template;
use crate::kinds::rules::{int_or_percent, validate_at_most_100_percent, validate_int_or_percent};
use crate::kinds::workload::named_template_warnings;
use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{FieldPaths, KindDef, Strategy};
use crate::kinds::fill::{int, made, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{
    validate_collision_count, validate_counts, validate_selector_unchanged,
    validate_workload_selector, workload_cell,
};

pub struct Deployment;

impl Strategy for Deployment {
    fn status_resets(&self) -> FieldPaths {
        &[&["f:spec"], &["f:metadata", "f:labels"]]
    }

    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/template/spec")
    }

    fn default(&self, object: &mut Value) {
        default_template(object, "/spec/template/spec");
        let Some(spec) = object_at(object, "/spec") else { return };
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        set(spec, "progressDeadlineSeconds", 600);
        let Some(strategy) = made(spec, "strategy") else { return };
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = made(strategy, "rollingUpdate")
        {
            set(rolling, "maxUnavailable", "25%");
            set(rolling, "maxSurge", "25%");
        }
    }

    /// Annotations count as well: some of them are handed down to ReplicaSets.
    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        let annotations = |object: &Value| object["metadata"].get("annotations").cloned();
        !alike(&object["spec"], &old["spec"]) || annotations(object) != annotations(old)
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        spec.child("replicas").not_negative(errors);
        validate_workload_selector(&spec, "deployment", errors);
        let template = spec.child("template");
        validate_controlled_template(&template, &spec.child("selector"), "ReplicaSet", errors);
        validate_strategy(&spec.child("strategy"), errors);
        spec.not_negative_each(errors, &["minReadySeconds", "revisionHistoryLimit"]);
        let deadline = spec.child("progressDeadlineSeconds");
        deadline.not_negative(errors);
        if deadline.is_set() && deadline.int() <= spec.child("minReadySeconds").int() {
            deadline.invalid(errors, "must be greater than minReadySeconds");
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        validate_selector_unchanged(object, old, errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        const CAPPED: &[&str] = &["updatedReplicas", "readyReplicas", "availableReplicas"];
        const COUNTS: &[&str] = &[
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "terminatingReplicas",
            "collisionCount",
        ];
        let status = At::root(object);
        validate_counts(&status.child("status"), COUNTS, CAPPED, "readyReplicas", errors);
        validate_collision_count(object, old, errors);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        named_template_warnings(object, old)
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let number = |pointer| int(object, pointer).unwrap_or(0);
        match column {
            "Ready" => {
                let ready = number("/status/readyReplicas");
                json!(format!("{ready}/{}", number("/spec/replicas")))
            }
            "Up-to-date" => number("/status/updatedReplicas").into(),
            "Available" => number("/status/availableReplicas").into(),
            _ => workload_cell(object, column),
        }
    }
}

fn validate_strategy(strategy: &At, errors: &mut ErrorList) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.text_of("type") {
        "Recreate" if rolling.is_set() => {
            let detail = "may not be specified when strategy `type` is 'Recreate'";
            rolling.forbidden(errors, detail);
        }
        "Recreate" => {}
        "RollingUpdate" if !rolling.is_set() => {
            rolling.required(errors, "this should be defaulted and never be nil");
        }
        "RollingUpdate" => validate_rolling_update(&rolling, errors),
        _ => {
            strategy.not_supported(errors, &["Recreate", "RollingUpdate"]);
        }
    }
}

/// Nothing could ever change if neither one Pod less nor one more were allowed.
fn validate_rolling_update(rolling: &At, errors: &mut ErrorList) {
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    validate_int_or_percent(&unavailable, errors);
    validate_int_or_percent(&surge, errors);
    if int_or_percent(unavailable.value) == 0 && int_or_percent(surge.value) == 0 {
        unavailable.invalid(errors, "may not be 0 when `maxSurge` is 0");
    }
    validate_at_most_100_percent(&unavailable, errors);
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "apps/v1/deployments";
    const TEMPLATE: &str =
        "{metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: i}]}}";

    #[test]
    fn selector_and_template_belong_together() {
        let spec = |selector: &str| format!("spec: {{selector: {selector}, template: {TEMPLATE}}}");
        check(PATH, &spec("{matchLabels: {a: b}}"), &[]);
        check(
            PATH,
            &spec("{matchLabels: {a: x}}"),
            &[
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        );
        check(
            PATH,
            &spec("{}"),
            &["spec.selector: Invalid value: {}: empty selector is invalid for deployment"],
        );
    }

    #[test]
    fn a_rolling_update_must_be_able_to_move() {
        let spec = |unavailable: &str| {
            format!(
                "spec: {{selector: {{matchLabels: {{a: b}}}}, template: {TEMPLATE}, strategy: {{rollingUpdate: {{maxSurge: 0, maxUnavailable: {unavailable}}}}}}}"
            )
        };
        let at = "spec.strategy.rollingUpdate.maxUnavailable: Invalid value";
        check(PATH, &spec("0%"), &[&format!("{at}: \"0%\": may not be 0 when `maxSurge` is 0")]);
        check(PATH, &spec("101%"), &[&format!("{at}: \"101%\": must not be greater than 100%")]);
        check(PATH, &spec("1"), &[]);
    }

    #[test]
    fn the_selector_is_fixed() {
        let spec = |key: &str| {
            format!("spec: {{selector: {{matchLabels: {{{key}: b}}}}, template: {TEMPLATE}}}")
        };
        check_update(
            PATH,
            &spec("a"),
            &spec("z"),
            &[
                "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                "spec.selector: Invalid value: {\"matchLabels\":{\"z\":\"b\"}}: field is immutable",
            ],
        );
    }
}
