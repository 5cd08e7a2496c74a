//! StatefulSet: ordered Pods with names and claims of their own.

use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy};
use crate::kinds::fill::{each, int, made, object, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::workload_cell;

pub struct StatefulSet;

impl Strategy for StatefulSet {
    fn default(&self, root: &mut Value) {
        default_template(root, "/spec/template/spec");
        let Some(spec) = object_at(root, "/spec") else { return };
        set(spec, "podManagementPolicy", "OrderedReady");
        set(spec, "replicas", 1);
        set(spec, "revisionHistoryLimit", 10);
        if let Some(strategy) = made(spec, "updateStrategy") {
            set(strategy, "type", "RollingUpdate");
            if strategy["type"] == "RollingUpdate"
                && let Some(rolling) = made(strategy, "rollingUpdate")
            {
                set(rolling, "partition", 0);
            }
        }
        if let Some(policy) = made(spec, "persistentVolumeClaimRetentionPolicy") {
            set(policy, "whenDeleted", "Retain");
            set(policy, "whenScaled", "Retain");
        }
        for claim in each(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = object(claim, "spec") {
                set(spec, "volumeMode", "Filesystem");
            }
            if let Some(status) = made(claim, "status") {
                set(status, "phase", "Pending");
            }
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "replicas": 0, "availableReplicas": 0 });
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let number = |pointer| int(object, pointer).unwrap_or(0);
        match column {
            "Ready" => {
                let ready = number("/status/readyReplicas");
                format!("{ready}/{}", number("/spec/replicas")).into()
            }
            _ => workload_cell(object, column),
        }
    }
}
