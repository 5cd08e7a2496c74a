//! ReplicationController: ReplicaSet's elder, with a plain map as its selector.

use serde_json::Value;

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{int, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{pairs, template_cell};

pub struct ReplicationController;

impl Strategy for ReplicationController {
    fn default(&self, object: &mut Value) {
        default_template(object, "/spec/template/spec");
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
        object["status"] = serde_json::json!({ "replicas": 0 });
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
