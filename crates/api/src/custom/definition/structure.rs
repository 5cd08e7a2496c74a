//! Whether a schema is structural: every field has a type, outside of the junctors that only restrict values.
//!
//! Schema -> faults, sorted by their text. Counterpart: `schema.ValidateStructural`.

use serde_json::Value;

use super::super::pattern::Pattern;
use super::super::structural::flag;
use super::super::{list, text};
use crate::field::{ErrorList, Path};

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

pub fn faults(schema: &Value, at: &Path<'_>) -> ErrorList {
    let mut errors = ErrorList::default();
    invariants(schema, Level::Root, at, &mut errors);
    completeness(schema, Some(schema), &at.to_string(), &at.to_string(), &mut errors);
    errors.0.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(schema: &Value, level: Level, at: &Path<'_>, errors: &mut ErrorList) {
    let items = schema.get("items").filter(|items| items.is_object());
    if text(schema, "type") == "array" && items.is_none() {
        errors.required(&at.child("items"), "must be specified");
    }
    if let Some(items) = items {
        invariants(items, Level::Item, &at.child("items"), errors);
    }
    let (place, properties) = (at.child("properties"), schema.get("properties"));
    for (name, child) in properties.and_then(Value::as_object).into_iter().flatten() {
        invariants(child, Level::Field, &place.key(name), errors);
    }
    if let Some(additional) = schema.get("additionalProperties").filter(|it| !it.is_null()) {
        let place = at.child("additionalProperties");
        if level == Level::Root {
            errors.forbidden(&place, "must not be used at the root");
        }
        if additional.is_object() {
            invariants(additional, Level::Field, &place, errors);
        }
    }
    int_or_string(schema, at, errors);
    let (skip_any_of, skip_first) = allowed_for_int_or_string(schema);
    restrictions(schema, skip_any_of, skip_first, at, errors);
    types(schema, level, at, errors);
    metadata(schema, level, at, errors);
}

fn int_or_string(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    for other in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if flag(schema, "x-kubernetes-int-or-string") && flag(schema, other) {
            let detail = "must be false if x-kubernetes-int-or-string is true";
            errors.invalid(&at.child(other), true, detail);
        }
    }
}

/// `anyOf: [{type: integer}, {type: string}]` may be spelt out, also as the first of `allOf`.
fn allowed_for_int_or_string(schema: &Value) -> (bool, bool) {
    let is_pattern = |node: &Value| {
        let any_of = list(node, "anyOf");
        any_of.len() == 2
            && any_of.iter().zip(["integer", "string"]).all(|(branch, of)| {
                branch.as_object().is_some_and(|map| map.len() == 1) && text(branch, "type") == of
            })
    };
    (is_pattern(schema), list(schema, "allOf").first().is_some_and(is_pattern))
}

fn types(schema: &Value, level: Level, at: &Path<'_>, errors: &mut ErrorList) {
    let (of, place) = (text(schema, "type"), at.child("type"));
    let embedded = flag(schema, "x-kubernetes-embedded-resource");
    let preserves = flag(schema, "x-kubernetes-preserve-unknown-fields");
    if embedded && of != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        match of {
            "" => errors.required(&place, detail),
            of => errors.invalid(&place, of, detail),
        }
    } else if of.is_empty() && !flag(schema, "x-kubernetes-int-or-string") && !preserves {
        errors.required(
            &place,
            match level {
                Level::Root => "must not be empty at the root",
                Level::Item => "must not be empty for specified array items",
                Level::Field => "must not be empty for specified object fields",
            },
        );
    }
    if embedded && schema.get("additionalProperties").is_some_and(|it| !it.is_null()) {
        let detail = "must not be used if x-kubernetes-embedded-resource is set";
        errors.forbidden(&at.child("additionalProperties"), detail);
    }
    if level == Level::Root && !of.is_empty() && of != "object" {
        errors.invalid(&place, of, "must be object at the root");
    }
    let has_properties =
        schema["properties"].as_object().is_some_and(|properties| !properties.is_empty());
    if embedded && !preserves && !has_properties {
        let detail = "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.required(&at.child("properties"), detail);
    }
}

/// Type and metadata of an object are implied: a schema may only restrict its names.
fn metadata(schema: &Value, level: Level, at: &Path<'_>, errors: &mut ErrorList) {
    let is_object = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let properties = at.child("properties");
    let mut must_be = |name: &str, wanted: &str| {
        if let Some(node) = schema["properties"].get(name).filter(|_| is_object) {
            let of = text(node, "type");
            if of != wanted {
                let place = properties.key(name);
                errors.invalid(&place.child("type"), of, format!("must be {wanted}"));
            }
        }
    };
    must_be("kind", "string");
    must_be("apiVersion", "string");
    must_be("metadata", "object");
    let Some(metadata) = schema["properties"].get("metadata").and_then(Value::as_object) else {
        return;
    };
    let only_names = |properties: &Value| {
        properties
            .as_object()
            .into_iter()
            .flatten()
            .all(|(name, _)| matches!(name.as_str(), "name" | "generateName"))
    };
    let says_more = metadata.iter().any(|(keyword, value)| match keyword.as_str() {
        "type" | "default" => false,
        "properties" => !only_names(value),
        _ => !matches!(value, Value::Null | Value::Bool(false)),
    });
    if level == Level::Root && says_more {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&properties.key("metadata"), detail);
    }
}

// === junctors ===

/// What restricts values at a node.
fn restrictions(
    schema: &Value,
    skip_any_of: bool,
    skip_first_all_of: bool,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    for junctor in ["anyOf", "allOf", "oneOf"] {
        let place = at.child(junctor);
        for (index, branch) in list(schema, junctor).iter().enumerate() {
            let skip = junctor == "allOf" && index == 0 && skip_first_all_of;
            if !(junctor == "anyOf" && skip_any_of) {
                nested(branch, skip, &place.index(index), errors);
            }
        }
    }
    if let Some(not) = schema.get("not").filter(|not| not.is_object()) {
        nested(not, false, &at.child("not"), errors);
    }
    let pattern = text(schema, "pattern");
    if let Some(why) =
        Some(pattern).filter(|it| !it.is_empty()).and_then(|it| Pattern::parse(it).err())
    {
        let detail = format!("must be a valid regular expression, but isn't: {why}");
        errors.invalid(&at.child("pattern"), pattern, detail);
    }
}

/// A schema inside of a junctor may not say what a value is.
fn nested(schema: &Value, skip_any_of: bool, at: &Path<'_>, errors: &mut ErrorList) {
    restrictions(schema, skip_any_of, false, at, errors);
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        nested(items, false, &at.child("items"), errors);
    }
    let properties = at.child("properties");
    for (name, child) in schema["properties"].as_object().into_iter().flatten() {
        nested(child, false, &properties.key(name), errors);
    }
    for (keyword, must) in [
        ("type", "empty"),
        ("additionalProperties", "undefined"),
        ("default", "undefined"),
        ("title", "empty"),
        ("description", "empty"),
        ("nullable", "false"),
        ("x-kubernetes-preserve-unknown-fields", "false"),
        ("x-kubernetes-embedded-resource", "false"),
        ("x-kubernetes-int-or-string", "false"),
        ("x-kubernetes-list-map-keys", "empty"),
        ("x-kubernetes-list-type", "undefined"),
        ("x-kubernetes-map-type", "undefined"),
        ("x-kubernetes-validations", "empty"),
    ] {
        let is_set = match schema.get(keyword) {
            None | Some(Value::Null | Value::Bool(false)) => false,
            Some(Value::String(text)) => !text.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if is_set {
            errors.forbidden(&at.child(keyword), format!("must be {must} to be structural"));
        }
    }
    if schema["properties"].get("metadata").is_some() {
        errors.forbidden(&properties.key("metadata"), "must not be specified in a nested context");
    }
}

/// Every field that a junctor speaks of must be specified outside of it.
fn completeness(
    restricting: &Value,
    specified: Option<&Value>,
    at: &str,
    restricted_at: &str,
    errors: &mut ErrorList,
) {
    let junctors = ["allOf", "anyOf", "oneOf"].into_iter().flat_map(|junctor| {
        let each = list(restricting, junctor).iter().enumerate();
        each.map(move |(index, branch)| (format!("{junctor}[{index}]"), branch))
    });
    let not = restricting.get("not").filter(|not| not.is_object());
    for (place, branch) in not.map(|not| ("not".to_owned(), not)).into_iter().chain(junctors) {
        specified_below(branch, specified, at, &format!("{restricted_at}.{place}"), errors);
    }
}

fn specified_below(
    restricting: &Value,
    specified: Option<&Value>,
    at: &str,
    restricted_at: &str,
    errors: &mut ErrorList,
) {
    let Some(specified) = specified else {
        let detail = format!("because it is defined in {restricted_at}");
        return errors.required(&Path::new(at), detail);
    };
    completeness(restricting, Some(specified), at, restricted_at, errors);
    if let Some(items) = restricting.get("items").filter(|items| items.is_object()) {
        let (at, restricted_at) = (format!("{at}.items"), format!("{restricted_at}.items"));
        specified_below(items, specified.get("items"), &at, &restricted_at, errors);
    }
    for (name, child) in restricting["properties"].as_object().into_iter().flatten() {
        let at = format!("{at}.properties[{name}]");
        let restricted_at = format!("{restricted_at}.properties[{name}]");
        specified_below(child, specified["properties"].get(name), &at, &restricted_at, errors);
    }
}
