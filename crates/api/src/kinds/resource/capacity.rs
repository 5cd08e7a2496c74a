//! How much of a device's capacity one request may take, where several claims share the device.
//!
//! Counterpart: `validateRequestPolicy`. Amounts are parsed when they are decoded, so every text here is one.

use serde_json::Value;

use super::rules;
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::quantity::Quantity;

const OPTIONS_MAX: usize = 10;
const UNSORTED: &str = "values must be sorted in ascending order";
const NO_DEFAULT: &str = "default value is not valid according to the requestPolicy";

/// `shared`: whether the device may be allocated more than once.
pub fn validate_capacity(capacity: &At, shared: bool, errors: &mut ErrorList) {
    let policy = capacity.child("requestPolicy");
    if !policy.is_set() {
        return;
    }
    if !shared {
        return policy.forbidden(errors, "allowMultipleAllocations must be true");
    }
    let total = amount(&capacity.child("value"));
    let (values, range, default) =
        (policy.child("validValues"), policy.child("validRange"), policy.child("default"));
    let (by, bounds) = match (values.is_empty(), range.is_set()) {
        (true, false) => return,
        (false, true) => {
            let detail = r#"exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time"#;
            return policy.forbidden(errors, detail);
        }
        (false, false) => ("validValues", &values),
        (true, true) => ("validRange", &range),
    };
    if !default.is_set() {
        return default.required(errors, &format!("required when {by} is defined"));
    }
    match by {
        "validValues" => validate_values(bounds, amount(&default), total, errors),
        _ => validate_range(bounds, amount(&default), total, errors),
    }
}

fn amount(at: &At) -> Quantity {
    parsed(at.value)
}

fn parsed(value: &Value) -> Quantity {
    match value {
        Value::String(text) => text.parse().unwrap_or_default(),
        other => other.to_string().parse().unwrap_or_default(),
    }
}

fn validate_values(values: &At, default: Quantity, total: Quantity, errors: &mut ErrorList) {
    let mut before: Option<Quantity> = None;
    for value in values.items() {
        let now = amount(&value);
        if before.is_some_and(|before| before > now) {
            value.invalid_as(errors, now.to_string(), UNSORTED);
        }
        before = Some(now);
    }
    let mut found = false;
    let whole = |value: &Value| parsed(value).units().to_string();
    rules::set(values, OPTIONS_MAX, whole, errors, |value, errors| {
        let option = amount(value);
        if option > total {
            let detail = format!("option is larger than capacity value: {total}");
            value.invalid_as(errors, option.to_string(), detail);
        }
        found |= option == default;
    });
    if !found {
        values.invalid_as(errors, default.to_string(), NO_DEFAULT);
    }
}

fn validate_range(range: &At, default: Quantity, total: Quantity, errors: &mut ErrorList) {
    let (min, max, step) = (range.child("min"), range.child("max"), range.child("step"));
    if !min.is_set() {
        return min.required(errors, "required when validRange is defined");
    }
    let least = amount(&min);
    let mut unless = |at: &At, fine: bool, shown: Quantity, what: &str, bound: Quantity| {
        if !fine {
            at.invalid_as(errors, shown.to_string(), format!("{what}: {bound}"));
        }
    };
    unless(&min, least <= total, least, "min is larger than capacity value", total);
    unless(&min, default >= least, default, "default is less than min", least);
    if max.is_set() {
        let most = amount(&max);
        unless(&max, least <= most, least, "min is larger than max", most);
        unless(&max, most <= total, most, "max is larger than capacity value", total);
        unless(&max, default <= most, default, "default is more than max", most);
    }
    if step.is_set() {
        let first = least + amount(&step);
        let what = format!("one step {first} is larger than capacity value");
        unless(&step, first <= total, amount(&step), &what, total);
        on_step(&step, default, least, errors);
        if max.is_set() {
            on_step(&step, amount(&max), least, errors);
        }
    }
}

/// Whether whole steps lead from the least amount to a value.
fn on_step(step: &At, value: Quantity, least: Quantity, errors: &mut ErrorList) {
    let size = amount(step);
    let apart = value.units().wrapping_sub(least.units());
    if apart.checked_rem(size.units()).is_some_and(|rest| rest != 0) {
        let detail = format!("value is not a multiple of a given step ({size}) from ({least})");
        step.invalid_as(errors, value.to_string(), detail);
    }
}
