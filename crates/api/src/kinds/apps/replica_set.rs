//! ReplicaSet: a number of equal Pods.

use crate::kinds::at::At;
use crate::kinds::pod_spec::validate::validate_controlled_template;
use crate::kinds::workload::named_template_warnings;
use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{int, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{
    validate_replica_counts, validate_selector_unchanged, validate_workload_selector, workload_cell,
};

pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/template/spec")
    }

    fn default(&self, object: &mut Value) {
        default_template(object, "/spec/template/spec");
        if let Some(spec) = object_at(object, "/spec") {
            set(spec, "replicas", 1);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "replicas": 0 });
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        spec.not_negative_each(errors, &["replicas", "minReadySeconds"]);
        validate_workload_selector(&spec, "deployment", errors);
        let template = spec.child("template");
        validate_controlled_template(&template, &spec.child("selector"), "ReplicaSet", errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        validate_replica_counts(&At::root(object).child("status"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        validate_selector_unchanged(object, old, errors);
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        named_template_warnings(object, old)
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let number = |pointer| int(object, pointer).unwrap_or(0).into();
        match column {
            "Desired" => number("/spec/replicas"),
            "Current" => number("/status/replicas"),
            "Ready" => number("/status/readyReplicas"),
            _ => workload_cell(object, column),
        }
    }
}
