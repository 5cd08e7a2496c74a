//! ResourceClaim and its template: a request for devices.

use serde_json::{Value, json};

use super::admin::{faults_of_requests, faults_of_results};
use super::claim_spec::{default_spec, validate_spec};
use super::claim_status::{drop_deallocated, validate_status};
use crate::field::ErrorList;
use crate::kind::{
    FieldPaths, KindDef, META_AND_SPEC, SETTLED_META, Strategy, keep_all_but_status, keep_meta,
};
use crate::kinds::at::At;
use crate::kinds::fill::{list, object_at};
use crate::kinds::workload::validate_template_meta;
use crate::meta::meta;

pub struct ResourceClaim;
pub struct ResourceClaimTemplate;

impl Strategy for ResourceClaim {
    fn status_resets(&self) -> FieldPaths {
        META_AND_SPEC
    }

    fn without_tables(&self) -> &'static [&'static str] {
        &["status"]
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            default_spec(spec);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_spec(&At::root(object).child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        root.child("spec").unchanged(errors, &old.child("spec"));
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        keep_meta(object, old, SETTLED_META);
        drop_deallocated(object, old);
    }

    fn admin_faults(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        match old {
            None => faults_of_requests(&object["spec"]),
            Some(old) => faults_of_results(object, old),
        }
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_status(object, old, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "State" => state(object).into(),
            _ => Value::Null,
        }
    }
}

impl Strategy for ResourceClaimTemplate {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec/spec") {
            default_spec(spec);
        }
    }

    fn admin_faults(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        match old {
            None => faults_of_requests(&object["spec"]["spec"]),
            Some(_) => ErrorList::default(),
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let template = root.child("spec");
        validate_template_meta(&template.child("metadata"), errors);
        validate_spec(&template.child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        root.child("spec").unchanged(errors, &old.child("spec"));
    }
}

/// `allocated,reserved`, `pending`, ...
fn state(claim: &Value) -> String {
    let mut states = Vec::new();
    if meta(claim).deletion_timestamp().is_some() {
        states.push("deleted");
    }
    match claim.pointer("/status/allocation") {
        None if states.is_empty() => states.push("pending"),
        None => {}
        Some(_) => {
            states.push("allocated");
            if !list(claim, "/status/reservedFor").is_empty() {
                states.push("reserved");
            }
        }
    }
    states.join(",")
}
