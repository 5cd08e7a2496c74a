//! Defaults of a schema: each must be valid by its own schema, and hold nothing that would be pruned.
//!
//! Counterpart: `schema/defaulting.ValidateDefaults`.

use serde_json::Value;

use super::super::cel::Rules;
use super::super::rules::{Before, Rule};
use super::super::structural::flag;
use crate::field::{ErrorList, Path};

/// Faults of the defaults of a schema and everything below it. Defaults inside of maps are refused elsewhere.
pub fn validate(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    if let Some(default) = schema.get("default").filter(|default| !default.is_null()) {
        one(default, schema, &at.child("default"), errors);
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        validate(items, &at.child("items"), errors);
    }
    let place = at.child("properties");
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        validate(child, &place.key(name), errors);
    }
}

fn one(default: &Value, schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    if has_unknown_fields(default, schema) {
        errors.invalid(at, default.clone(), "must not have unknown fields");
    }
    let Ok(rule) = Rule::compile(schema) else { return };
    let before = errors.0.len();
    rule.validate_embedded(default, at, errors);
    if errors.0.len() == before {
        rule.validate(default, None, at, errors);
    }
    let Some(rules) = Rules::read(schema, false).filter(|_| errors.0.len() == before) else {
        return;
    };
    // As an update that changes nothing, then as a value that is new.
    rules.validate(default, Some(Before { value: default, rule: &rule }), false, at, errors);
    if errors.0.len() == before {
        rules.validate(default, None, false, at, errors);
    }
}

fn has_unknown_fields(value: &Value, schema: &Value) -> bool {
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let is_implied = |name: &str| embedded && matches!(name, "apiVersion" | "kind" | "metadata");
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| {
            let declared = schema.pointer("/properties").and_then(|all| all.get(name));
            match declared.or(schema.get("additionalProperties")) {
                _ if is_implied(name) => false,
                Some(Value::Bool(true)) => false,
                Some(child) => has_unknown_fields(value, child),
                None => !preserves,
            }
        }),
        Value::Array(items) => items.iter().any(|item| has_unknown_fields(item, &schema["items"])),
        _ => false,
    }
}
