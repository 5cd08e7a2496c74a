//! Entries of sets and keyed lists may not repeat.
//!
//! Counterpart: `schema/listtype`. Every value that repeats is reported once, at its second appearance.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::Rule;
use crate::field::{ErrorList, Path};

/// What repeats in the fields of an object.
pub fn validate(rule: &Rule, value: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                match (rule.properties.get(name), &rule.additional) {
                    (Some(rule), _) => rule.validate_lists(value, &at.child(name), errors),
                    (None, Some(rule)) => rule.validate_lists(value, &at.key(name), errors),
                    (None, None) => {}
                }
            }
        }
        Value::Array(items) => {
            match rule.list_type.as_str() {
                "set" => repeated(items.iter().cloned(), at, errors),
                "map" => keyed(rule, items, at, errors),
                _ => {}
            }
            if let Some(rule) = &rule.items {
                for (index, item) in items.iter().enumerate() {
                    rule.validate_lists(item, &at.index(index), errors);
                }
            }
        }
        _ => {}
    }
}

fn keyed(rule: &Rule, items: &[Value], at: &Path<'_>, errors: &mut ErrorList) {
    let stray = items.iter().position(|item| !item.is_object() && !item.is_null());
    if let Some(index) = stray {
        let detail = "must be an object for an array of list-type map";
        return errors.invalid(&at.index(index), items[index].clone(), detail);
    }
    let identity = |item: &Value| -> Value {
        let keys = rule.list_keys.iter();
        let found = keys.filter_map(|key| Some((key.clone(), item.get(key)?.clone())));
        Value::Object(found.collect::<Map<String, Value>>())
    };
    repeated(items.iter().map(identity), at, errors);
}

fn repeated(identities: impl Iterator<Item = Value>, at: &Path<'_>, errors: &mut ErrorList) {
    let mut seen: HashMap<String, usize> = HashMap::new();
    for (index, identity) in identities.enumerate() {
        let times = seen.entry(identity.to_string()).or_default();
        *times += 1;
        if *times == 2 {
            errors.duplicate(&at.index(index), identity);
        }
    }
}
