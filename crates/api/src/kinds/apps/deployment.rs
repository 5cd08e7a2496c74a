//! Deployment: rolling update by quarters, ten old revisions, ten minutes to make progress.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::fill::{int, made, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{validate_selector_unchanged, workload_cell};

pub struct Deployment;

impl Strategy for Deployment {
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

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_selector_unchanged(object, old, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let number = |pointer| int(object, pointer).unwrap_or(0);
        match column {
            "Ready" => {
                let ready = number("/status/readyReplicas");
                json!(format!("{ready}/{}", number("/spec/replicas")))
            }
            "Up-to-date" => number("/status/updatedReplicas").to_string().into(),
            "Available" => number("/status/availableReplicas").to_string().into(),
            _ => workload_cell(object, column),
        }
    }
}
