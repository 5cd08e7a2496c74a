//! PodDisruptionBudget: how many Pods of a set may be away at once.

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::conditions::validate_conditions;
use crate::kinds::fill::int;
use crate::kinds::rules::{validate_at_most_100_percent, validate_int_or_percent};
use crate::kinds::selectors::validate_label_selector;

pub struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({
            "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0,
        });
    }

    fn checks_metadata_last(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let (least, most) = (spec.child("minAvailable"), spec.child("maxUnavailable"));
        if least.is_set() && most.is_set() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            spec.invalid(errors, detail);
        }
        for limit in [least, most] {
            if limit.is_set() {
                validate_int_or_percent(&limit, errors);
                validate_at_most_100_percent(&limit, errors);
            }
        }
        validate_label_selector(&spec.child("selector"), errors);
        let policy = spec.child("unhealthyPodEvictionPolicy");
        policy.one_of_if_set(errors, &["AlwaysAllow", "IfHealthyBudget"]);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        const COUNTS: &[&str] =
            &["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        let root = At::root(object);
        let status = root.child("status");
        validate_conditions(&status.child("conditions"), errors);
        status.not_negative_each(errors, COUNTS);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Min Available" => limit(&object["spec"]["minAvailable"]).into(),
            "Max Unavailable" => limit(&object["spec"]["maxUnavailable"]).into(),
            "Allowed Disruptions" => int(object, "/status/disruptionsAllowed").unwrap_or(0).into(),
            _ => Value::Null,
        }
    }
}

fn limit(value: &Value) -> String {
    match value {
        Value::Null => "N/A".to_owned(),
        Value::String(percent) => percent.clone(),
        number => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check_status;

    #[test]
    fn conditions_of_a_budget_went_unseen() {
        check_status(
            "policy/v1/poddisruptionbudgets",
            "metadata: {name: x}",
            "metadata: {name: x}\nstatus: {conditions: [{type: A, status: Maybe, reason: R, lastTransitionTime: '2020-01-01T00:00:00Z'}]}",
            &[
                "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \"False\", \"True\", \"Unknown\"",
            ],
        );
    }
}
