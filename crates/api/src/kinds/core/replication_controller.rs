//! ReplicationController: ReplicaSet's elder, with a plain map as its selector.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::pod_spec::validate::validate_restarting_template;
use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{int, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{
    named_template_warnings, pairs, template_cell, validate_replica_counts,
};

pub struct ReplicationController;

impl Strategy for ReplicationController {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn pod_spec(&self) -> Option<&'static str> {
        Some("/spec/template/spec")
    }

    fn default(&self, object: &mut Value) {
        if object.pointer("/spec/template").is_some_and(|template| !template.is_null()) {
            default_template(object, "/spec/template/spec");
        }
        let labels = object.pointer("/spec/template/metadata/labels").cloned();
        let Some(spec) = object_at(object, "/spec") else { return };
        set(spec, "replicas", 1);
        if let Some(labels) = labels {
            set(spec, "selector", labels.clone());
            let root = object
                .as_object_mut()
                .and_then(|root| crate::kinds::fill::object(root, "metadata"));
            if let Some(meta) = root {
                set(meta, "labels", labels);
            }
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "replicas": 0 });
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        spec.child("minReadySeconds").not_negative(errors);
        let selector = spec.child("selector");
        selector.needed(errors);
        spec.child("replicas").not_negative(errors);
        let template = spec.child("template");
        if !template.is_set() {
            return template.required(errors, "");
        }
        // A map selects by equality, whatever its texts are.
        let meta = template.child("metadata");
        let labels = meta.child("labels");
        if selector.entries().any(|(key, value)| labels.child_key(key).value != value.value) {
            labels.invalid(errors, "`selector` does not match template `labels`");
        }
        validate_restarting_template(&template, "ReplicationController", errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        validate_replica_counts(&At::root(object).child("status"), errors);
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("status.replicas", "/status/replicas")]
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
            "Selector" => pairs(object.pointer("/spec/selector")).into(),
            _ => template_cell(object, "/spec/template", column),
        }
    }
}
