//! The names of a custom resource: `spec.names` and `status.acceptedNames`.

use serde_json::Value;

use super::super::{list, text};
use crate::field::{ErrorList, Path};
use crate::validation::dns_1035_label;

/// What must be there in the spec.
pub fn required(names: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    for field in ["plural", "singular", "kind", "listKind"] {
        if text(names, field).is_empty() {
            errors.required(&at.child(field), "");
        }
    }
}

pub fn validate(names: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    for (field, mixed_case) in
        [("plural", false), ("singular", false), ("kind", true), ("listKind", true)]
    {
        label(text(names, field), mixed_case, &at.child(field), errors);
    }
    labels(names, "shortNames", at, errors);
    let kind = text(names, "kind");
    if !kind.is_empty() && kind == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        errors.invalid(&at.child("listKind"), kind, detail);
    }
    labels(names, "categories", at, errors);
}

fn label(name: &str, mixed_case: bool, at: &Path<'_>, errors: &mut ErrorList) {
    let faults = match mixed_case {
        true => dns_1035_label(&name.to_lowercase()),
        false => dns_1035_label(name),
    };
    if name.is_empty() || faults.is_empty() {
        return;
    }
    let mixed = if mixed_case { "may have mixed case, but should otherwise match: " } else { "" };
    errors.invalid(at, name, format!("{mixed}{}", faults.join(",")));
}

fn labels(names: &Value, field: &str, at: &Path<'_>, errors: &mut ErrorList) {
    let place = at.child(field);
    for (index, name) in list(names, field).iter().filter_map(Value::as_str).enumerate() {
        let faults = dns_1035_label(name);
        if !faults.is_empty() {
            errors.invalid(&place.index(index), name, faults.join(","));
        }
    }
}
