//! DaemonSet: one Pod on every node that fits.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{int, made, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{pairs, validate_selector_unchanged, workload_cell};

pub struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
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
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({
            "currentNumberScheduled": 0,
            "desiredNumberScheduled": 0,
            "numberMisscheduled": 0,
            "numberReady": 0,
        });
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_selector_unchanged(object, old, errors);
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
