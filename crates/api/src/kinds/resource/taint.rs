//! Taints that keep claims away from devices, and tolerations that let them near.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::label_name;
use crate::validation::label_value;

const EFFECTS: &[&str] = &["NoExecute", "NoSchedule", "None"];

pub fn validate_taint(taint: &At, errors: &mut ErrorList) {
    taint.child("key").obeys(errors, label_name);
    taint.child("value").obeys_if_set(errors, label_value);
    taint.child("effect").needed_one_of(errors, EFFECTS);
}

pub fn validate_toleration(toleration: &At, errors: &mut ErrorList) {
    toleration.child("key").obeys_if_set(errors, label_name);
    let (operator, value) = (toleration.child("operator"), toleration.child("value"));
    match operator.text() {
        "" => operator.required(errors, ""),
        "Exists" if !value.is_empty() => {
            value.invalid(errors, "must be empty for operator `Exists`");
        }
        "Exists" => {}
        "Equal" => value.obeys(errors, label_value),
        _ => operator.not_supported(errors, &["Equal", "Exists"]),
    }
    let effect = toleration.child("effect");
    if !effect.is_empty() {
        effect.one_of(errors, EFFECTS);
    }
}
