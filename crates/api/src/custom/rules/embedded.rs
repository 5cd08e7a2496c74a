//! Objects inside of a custom object (`x-kubernetes-embedded-resource`): their type and metadata.
//!
//! Counterpart: `schema/objectmeta`. The outermost object's own metadata is validated with every kind's.

use serde_json::{Map, Value};

use super::Rule;
use crate::field::{ErrorList, Path};
use crate::validation::{dns_1035_label, validate_embedded_meta};

pub fn validate(rule: &Rule, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            if rule.embedded {
                object(map, value, at, errors);
            }
            for (name, value) in map {
                match (rule.properties.get(name), &rule.additional) {
                    (Some(rule), _) => rule.validate_embedded(value, &at.child(name), errors),
                    (None, Some(rule)) => rule.validate_embedded(value, &at.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                if let Some(rule) = &rule.items {
                    rule.validate_embedded(item, &at.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn object(map: &Map<String, Value>, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    for name in ["apiVersion", "kind"].into_iter().filter(|name| !map.contains_key(*name)) {
        errors.required(&at.child(name), "");
    }
    if let Some(version) = map.get("apiVersion") {
        api_version(version, &at.child("apiVersion"), errors);
    }
    if let Some(given) = map.get("kind") {
        kind(given, &at.child("kind"), errors);
    }
    if map.contains_key("metadata") {
        validate_embedded_meta(value, &at.child("metadata"), errors);
    }
}

fn api_version(version: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    match version.as_str() {
        None => errors.invalid(at, version.clone(), "must be a string"),
        Some("") => errors.invalid(at, "", "must not be empty"),
        Some(text) if text.matches('/').count() > 1 => {
            errors.invalid(at, text, format!("unexpected GroupVersion string: {text}"));
        }
        Some(_) => {}
    }
}

fn kind(kind: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    match kind.as_str() {
        None => errors.invalid(at, kind.clone(), "must be a string"),
        Some("") => errors.invalid(at, "", "must not be empty"),
        Some(text) => {
            let faults = dns_1035_label(&text.to_lowercase());
            if !faults.is_empty() {
                let faults = faults.join(",");
                let detail = format!("may have mixed case, but should otherwise match: {faults}");
                errors.invalid(at, text, detail);
            }
        }
    }
}
