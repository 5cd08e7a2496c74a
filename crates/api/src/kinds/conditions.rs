//! `status.conditions` as `metav1.Condition` has them.
//!
//! Counterpart: `ValidateConditions` of `apimachinery`.

use std::collections::HashSet;

use super::at::At;
use super::rules::label_name;
use crate::field::ErrorList;

const STATUSES: &[&str] = &["False", "True", "Unknown"];
const REASON_MAX: usize = 1024;
const MESSAGE_MAX: usize = 32 * 1024;

pub fn validate_conditions(conditions: &At, errors: &mut ErrorList) {
    let mut types = HashSet::new();
    for condition in conditions.items() {
        if !types.insert(condition.text_of("type")) {
            let of = condition.child("type");
            of.duplicate(errors);
        }
        validate_condition(&condition, errors);
    }
}

fn validate_condition(condition: &At, errors: &mut ErrorList) {
    condition.child("type").obeys(errors, label_name);
    condition.child("status").one_of(errors, STATUSES);
    let generation = condition.child("observedGeneration");
    if generation.int() < 0 {
        generation.invalid(errors, "must be greater than or equal to zero");
    }
    condition.child("lastTransitionTime").needed(errors);
    let reason = condition.child("reason");
    if reason.needed(errors) {
        reason.obeys(errors, condition_reason);
        if reason.text().len() > REASON_MAX {
            errors.too_long(&reason.path, REASON_MAX);
        }
    }
    if condition.text_of("message").len() > MESSAGE_MAX {
        errors.too_long(&condition.child("message").path, MESSAGE_MAX);
    }
}

fn condition_reason(text: &str) -> Vec<String> {
    const FORMAT: &str = "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ',' | ':');
    let fine = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && text.chars().all(inside);
    match fine {
        true => Vec::new(),
        false => vec![FORMAT.to_owned()],
    }
}
