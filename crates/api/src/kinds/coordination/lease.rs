//! Lease: a lock with a heartbeat.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{object_at, text};

pub struct Lease;

impl Strategy for Lease {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    /// Fields of a feature that is not served are dropped, as upstream does.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            spec.retain(|field, _| field != "strategy" && field != "preferredHolder");
        }
    }

    fn prepare_for_update(&self, kind: &KindDef, object: &mut Value, _old: &Value) {
        self.prepare_for_create(kind, object);
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let duration = spec.child("leaseDurationSeconds");
        if duration.is_set() && duration.int() <= 0 {
            duration.invalid(errors, "must be greater than 0");
        }
        spec.child("leaseTransitions").not_negative(errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Holder" => text(object, "/spec/holderIdentity").into(),
            _ => Value::Null,
        }
    }
}
