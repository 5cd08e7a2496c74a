//! Lease: a lock with a heartbeat.

use serde_json::Value;

use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::text;
use crate::validation::qualified_name;

pub struct Lease;

impl Strategy for Lease {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let duration = spec.child("leaseDurationSeconds");
        if duration.is_set() && duration.int() <= 0 {
            duration.invalid(errors, "must be greater than 0");
        }
        spec.child("leaseTransitions").not_negative(errors);
        let strategy = spec.child("strategy");
        if strategy.is_set() && strategy.text() != "OldestEmulationVersion" {
            strategy.obeys(errors, qualified_name);
        }
        let holder = spec.child("holderIdentity");
        if holder.is_set() && holder.is_empty() {
            holder.invalid(errors, "must not be empty");
        }
        if spec.has("preferredHolder") && strategy.is_empty() {
            let detail = "may only be specified if `strategy` is defined";
            spec.child("preferredHolder").forbidden(errors, detail);
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Holder" => text(object, "/spec/holderIdentity").into(),
            _ => Value::Null,
        }
    }
}
