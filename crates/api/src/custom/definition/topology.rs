//! How maps and lists of a schema merge: `x-kubernetes-map-type`, `-list-type` and `-list-map-keys`.
//!
//! Schema node -> faults. What is declared must fit the node's type, and entries of sets and keyed lists must be
//! tellable apart.

use serde_json::Value;

use super::super::structural::flag;
use super::super::{text, texts};
use super::printed;
use crate::field::{ErrorList, Path};

pub fn validate(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    map_type(schema, at, errors);
    list_type(schema, at, errors);
    keyed_list(schema, at, errors);
    items_of_keyed(schema, at, errors);
}

fn map_type(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let Some(of) = schema.get("x-kubernetes-map-type").and_then(Value::as_str) else { return };
    needs_type(schema, "object", "x-kubernetes-map-type", at, errors);
    if !matches!(of, "atomic" | "granular") {
        errors.not_supported(&at.child("x-kubernetes-map-type"), of, &["atomic", "granular"]);
    }
}

fn needs_type(
    schema: &Value,
    wanted: &str,
    keyword: &str,
    at: &Path<'_>,
    errors: &mut ErrorList,
) -> bool {
    let detail = format!("must be {wanted} if {keyword} is specified");
    match text(schema, "type") {
        of if of == wanted => return true,
        "" => errors.required(&at.child("type"), detail),
        of => errors.invalid(&at.child("type"), of, detail),
    }
    false
}

fn list_type(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let keyword = "x-kubernetes-list-type";
    let Some(of) = schema.get(keyword).and_then(Value::as_str) else { return };
    if needs_type(schema, "array", keyword, at, errors) && of == "set" {
        atomic_items(&schema["items"], &at.child("items"), errors);
    }
    if !matches!(of, "atomic" | "set" | "map") {
        errors.not_supported(&at.child(keyword), of, &["atomic", "set", "map"]);
    }
}

/// The entries of a set are compared as a whole.
fn atomic_items(items: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let list_type = items.get("x-kubernetes-list-type").cloned().unwrap_or_default();
    let is = |keyword: &str| text(items, keyword);
    match text(items, "type") {
        "array" if !matches!(is("x-kubernetes-list-type"), "" | "atomic") => {
            errors.invalid(&at.child("x-kubernetes-list-type"), list_type, detail);
        }
        "object" if is("x-kubernetes-map-type") != "atomic" => {
            errors.invalid(&at.child("x-kubernetes-map-type"), list_type, detail);
        }
        _ => {}
    }
}

fn keyed_list(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let keys = texts(schema, "x-kubernetes-list-map-keys");
    let (of, place) = (text(schema, "x-kubernetes-list-type"), at.child("x-kubernetes-list-type"));
    let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
    match of {
        "" if !keys.is_empty() => errors.required(&place, detail),
        of if of != "map" && !keys.is_empty() => errors.invalid(&place, of, detail),
        _ => {}
    }
    if of != "map" {
        return;
    }
    let place = at.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.required(&place, "must not be empty if x-kubernetes-list-type is map");
    }
    let items = at.child("items");
    match schema.get("items") {
        None => errors.required(&items, "must have a schema if x-kubernetes-list-type is map"),
        Some(list @ Value::Array(_)) => {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            errors.invalid(&items, printed::internal(list), detail);
        }
        Some(schema) if text(schema, "type") != "object" => {
            let detail = "must be object if parent array's x-kubernetes-list-type is map";
            errors.invalid(&items.child("type"), text(schema, "type"), detail);
        }
        Some(schema) => list_keys(&keys, schema, &place, &items, errors),
    }
}

fn list_keys(
    keys: &[String],
    items: &Value,
    at: &Path<'_>,
    items_at: &Path<'_>,
    errors: &mut ErrorList,
) {
    let properties = items_at.child("properties");
    for (index, key) in keys.iter().enumerate() {
        match items["properties"].get(key) {
            Some(field) if matches!(text(field, "type"), "array" | "object") => {
                let detail =
                    "must be a scalar type if parent array's x-kubernetes-list-type is map";
                let place = properties.key(key);
                errors.invalid(&place.child("type"), text(items, "type"), detail);
            }
            Some(_) => {}
            None => {
                errors.invalid(at, keys.to_vec(), "entries must all be names of item properties");
            }
        }
        if keys[..index].contains(key) {
            errors.invalid(at, keys.to_vec(), "must not contain duplicate entries");
        }
    }
}

/// Neither entries nor their keys may be left open.
fn items_of_keyed(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let (of, items) = (text(schema, "x-kubernetes-list-type"), &schema["items"]);
    if !items.is_object() || !matches!(of, "set" | "map") {
        return;
    }
    let place = at.child("items");
    if flag(items, "nullable") {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {of}");
        errors.forbidden(&place.child("nullable"), detail);
    }
    if of == "set" {
        return;
    }
    let (properties, required) = (place.child("properties"), texts(items, "required"));
    for key in texts(schema, "x-kubernetes-list-map-keys") {
        let Some(field) = items["properties"].get(&key) else { continue };
        let place = properties.key(&key);
        if !required.contains(&key) && field.get("default").is_none_or(Value::is_null) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.required(&place.child("default"), detail);
        }
        if flag(field, "nullable") {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.forbidden(&place.child("nullable"), detail);
        }
    }
}
