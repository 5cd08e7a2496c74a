//! DaemonSet: one Pod on every node that fits.

use crate::kinds::at::At;
use crate::kinds::pod_spec::validate::{
    validate_running_always, validate_selected, validate_template,
};
use crate::kinds::rules::{int_or_percent, validate_at_most_100_percent, validate_int_or_percent};
use crate::kinds::selectors::{is_everything, validate_label_selector};
use crate::kinds::workload::template_warnings;
use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy, keep, keep_all_but_status};
use crate::kinds::fill::{int, made, object as object_in, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{
    pairs, validate_collision_count, validate_selector_unchanged, workload_cell,
};
use crate::meta::{meta, meta_mut};

pub struct DaemonSet;

/// Once a field of the spec.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

impl Strategy for DaemonSet {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/template/spec")
    }

    fn default(&self, object: &mut Value) {
        // Counted from 0 until the object is stored, so that its writer owns the annotation.
        if meta(object).annotation(TEMPLATE_GENERATION).is_none() {
            set_template_generation(object, "0");
        }
        default_template(object, "/spec/template/spec");
        let Some(spec) = object_at(object, "/spec") else { return };
        set(spec, "revisionHistoryLimit", 10);
        let Some(strategy) = made(spec, "updateStrategy") else { return };
        set(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = made(strategy, "rollingUpdate")
        {
            set(rolling, "maxUnavailable", 1);
            set(rolling, "maxSurge", 0);
        } else if let Some(rolling) = object_in(strategy, "rollingUpdate") {
            // Upstream's internal type cannot leave them out.
            set(rolling, "maxUnavailable", 0);
            set(rolling, "maxSurge", 0);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({
            "currentNumberScheduled": 0,
            "desiredNumberScheduled": 0,
            "numberMisscheduled": 0,
            "numberReady": 0,
        });
        set_template_generation(object, "1");
    }

    /// The annotation counts changes of the template; nobody else may set it.
    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "status");
        let before: Option<i64> =
            meta(old).annotation(TEMPLATE_GENERATION).and_then(|text| text.parse().ok());
        let template = |object: &Value| object.pointer("/spec/template").cloned();
        let changed = template(object) != template(old);
        let count = before.unwrap_or(0) + i64::from(changed);
        set_template_generation(object, &count.to_string());
    }

    /// The annotation is a field of the spec to upstream, and goes with it.
    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        if let Some(count) = meta(old).annotation(TEMPLATE_GENERATION) {
            set_template_generation(object, count);
        }
    }

    fn metadata_hides(&self) -> &'static [&'static str] {
        &[TEMPLATE_GENERATION]
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let (selector, template) = (spec.child("selector"), spec.child("template"));
        validate_label_selector(&selector, errors);
        // A selector that is none has been reported by now.
        let _ = validate_selected(&template, &selector, errors);
        if is_everything(&selector) {
            selector.invalid(errors, "empty selector is invalid for daemonset");
        }
        validate_template(&template, errors);
        validate_running_always(&template, "DaemonSet", errors);
        spec.child("minReadySeconds").not_negative(errors);
        validate_strategy(&spec.child("updateStrategy"), errors);
        spec.child("revisionHistoryLimit").not_negative(errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        const COUNTS: &[&str] = &[
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        At::root(object).child("status").not_negative_each(errors, COUNTS);
        validate_collision_count(object, old, errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_selector_unchanged(object, old, errors);
        self.validate(object, errors);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(object, old, "/spec/template")
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let number = |pointer| int(object, pointer).unwrap_or(0).into();
        match column {
            "Desired" => number("/status/desiredNumberScheduled"),
            "Current" => number("/status/currentNumberScheduled"),
            "Ready" => number("/status/numberReady"),
            "Up-to-date" => number("/status/updatedNumberScheduled"),
            "Available" => number("/status/numberAvailable"),
            "Node Selector" => pairs(object.pointer("/spec/template/spec/nodeSelector")).into(),
            _ => workload_cell(object, column),
        }
    }
}

fn set_template_generation(object: &mut Value, count: &str) {
    let annotations = meta_mut(object).and_then(|meta| made(meta, "annotations"));
    if let Some(annotations) = annotations {
        annotations.insert(TEMPLATE_GENERATION.into(), count.into());
    }
}

fn validate_strategy(strategy: &At, errors: &mut ErrorList) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.text_of("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_set() => validate_rolling_update(&rolling, errors),
        "RollingUpdate" => rolling.required(errors, ""),
        _ => {
            strategy.not_supported(errors, &["RollingUpdate", "OnDelete"]);
        }
    }
}

/// Exactly one of the two: a node has either one Pod less for a while, or one more.
fn validate_rolling_update(rolling: &At, errors: &mut ErrorList) {
    let (unavailable, surge) = (rolling.child("maxUnavailable"), rolling.child("maxSurge"));
    for limit in [&unavailable, &surge] {
        validate_int_or_percent(limit, errors);
        validate_at_most_100_percent(limit, errors);
    }
    match (int_or_percent(unavailable.value) != 0, int_or_percent(surge.value) != 0) {
        (true, true) => {
            surge.invalid(errors, "may not be set when maxUnavailable is non-zero");
        }
        (false, false) => unavailable.required(errors, "cannot be 0 when maxSurge is 0"),
        _ => {}
    }
}
