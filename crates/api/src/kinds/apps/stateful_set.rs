//! StatefulSet: ordered Pods with names and claims of their own.

use crate::field::ErrorList;
use crate::kinds::at::{At, Internal};
use crate::kinds::core::persistent_volume_claim::validate_claim_spec;
use crate::kinds::pod_spec::validate::validate_controlled_template;
use crate::kinds::workload::template_warnings;
use serde_json::{Value, json};

use crate::kind::{KindDef, NameRule, Strategy};
use crate::kinds::fill::{each, int, made, object, object_at, set};
use crate::kinds::pod_spec::default_template;
use crate::kinds::workload::{validate_counts, validate_workload_selector, workload_cell};

/// What a StatefulSet's Pods and claims are made of stays as it was.
const ONLY_THESE_CHANGE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";

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
                // A feature that is not served: dropped, as upstream does.
                rolling.remove("maxUnavailable");
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

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        template_warnings(object, old, "/spec/template")
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let management = spec.child("podManagementPolicy");
        if management.needed(errors) && !["OrderedReady", "Parallel"].contains(&management.text()) {
            management.invalid(errors, "must be 'OrderedReady' or 'Parallel'");
        }
        validate_strategy(&spec.child("updateStrategy"), errors);
        let retention = spec.child("persistentVolumeClaimRetentionPolicy");
        for when in ["whenDeleted", "whenScaled"] {
            retention.child(when).one_of_if_set(errors, &["Retain", "Delete"]);
        }
        for claim in spec.child("volumeClaimTemplates").items() {
            validate_claim_spec(&claim.child("spec"), errors);
        }
        spec.not_negative_each(errors, &["replicas", "minReadySeconds"]);
        spec.child("ordinals").child("start").not_negative(errors);
        validate_workload_selector(&spec, "statefulset", errors);
        let template = spec.child("template");
        validate_controlled_template(&template, &spec.child("selector"), "StatefulSet", errors);
        spec.child("revisionHistoryLimit").not_negative(errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        const FIXED: &[&str] =
            &["podManagementPolicy", "selector", "serviceName", "volumeClaimTemplates"];
        if FIXED.iter().any(|field| spec.child(field).value != was.child(field).value) {
            spec.forbidden(errors, ONLY_THESE_CHANGE);
        }
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        const CAPPED: &[&str] =
            &["readyReplicas", "currentReplicas", "updatedReplicas", "availableReplicas"];
        const COUNTS: &[&str] = &[
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "availableReplicas",
            "observedGeneration",
            "collisionCount",
        ];
        validate_counts(&At::root(object).child("status"), COUNTS, CAPPED, errors);
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
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

const STRATEGY: Internal = &[("Type", "type", "\"\""), ("RollingUpdate", "rollingUpdate", "null")];
const ROLLING: Internal =
    &[("Partition", "partition", "null"), ("MaxUnavailable", "maxUnavailable", "null")];

fn validate_strategy(strategy: &At, errors: &mut ErrorList) {
    let rolling = strategy.child("rollingUpdate");
    match strategy.text_of("type") {
        "" => strategy.required(errors, ""),
        "OnDelete" if rolling.is_set() => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            rolling.invalid_internal(errors, ROLLING, detail);
        }
        "OnDelete" => {}
        "RollingUpdate" => rolling.child("partition").not_negative(errors),
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            strategy.invalid_internal(errors, STRATEGY, detail);
        }
    }
}
