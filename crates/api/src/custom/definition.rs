//! The CustomResourceDefinition object itself: its defaults and what can be wrong with it.
//!
//! Counterpart: `apiextensions/validation`. Differs from upstream: bad values are shown as the JSON
//! the client sent, not as the reference implementation's internal structs.

use serde_json::{Value, json};

use super::rules::Rule;
use super::structural::{children, flag, junctors};
use super::{list, text};
use crate::field::{ErrorList, Path};
use crate::kind::{KindDef, Strategy};
use crate::meta::meta;
use crate::validation::{dns_1035_label, dns_subdomain};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];

/// The strategy of the CustomResourceDefinition kind.
pub struct Definition;

impl Strategy for Definition {
    fn default(&self, object: &mut Value) {
        let names = |object: &Value, field: &str| text(&object["spec"]["names"], field).to_owned();
        let kind = names(object, "kind");
        let filled = [("singular", kind.to_lowercase()), ("listKind", format!("{kind}List"))];
        let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
        spec.entry("conversion").or_insert_with(|| json!({"strategy": "None"}));
        if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
            for (field, value) in filled {
                if !kind.is_empty() && !names.contains_key(field) {
                    names.insert(field.to_owned(), value.into());
                }
            }
        }
    }

    /// The stored versions are known from the start; everything else of the status is the server's.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        let stored: Vec<Value> = list(&object["spec"], "versions")
            .iter()
            .filter(|version| version["storage"] == true)
            .map(|version| version["name"].clone())
            .collect();
        object["status"] = json!({"conditions": null, "acceptedNames": {"plural": "", "kind": ""},
            "storedVersions": if stored.is_empty() { Value::Null } else { stored.into() }});
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate(object, errors);
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let at = Path::new("spec");
        for (pointer, names) in [("/spec/group", &["group"][..]), ("/spec/scope", &["scope"])] {
            if object.pointer(pointer) != old.pointer(pointer) {
                let value = object.pointer(pointer).cloned().unwrap_or_default();
                errors.invalid(&at.child(names[0]), value, "field is immutable");
            }
        }
    }
}

/// Faults of a definition, apart from its metadata.
fn validate(object: &Value, errors: &mut ErrorList) {
    let spec = &object["spec"];
    let at = Path::new("spec");
    let expected = format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group"));
    if meta(object).name() != expected {
        let detail = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&Path::new("metadata").child("name"), meta(object).name(), detail);
    }
    group(object, spec, &at, errors);
    if !matches!(text(spec, "scope"), "Cluster" | "Namespaced") {
        errors.not_supported(&at.child("scope"), text(spec, "scope"), &["Cluster", "Namespaced"]);
    }
    if flag(spec, "preserveUnknownFields") {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.invalid(&at.child("preserveUnknownFields"), true, detail);
    }
    versions(spec, &at, errors);
    names(&spec["names"], &at.child("names"), errors);
    conversion(&spec["conversion"], &at.child("conversion"), errors);
}

fn group(object: &Value, spec: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let group = text(spec, "group");
    let place = at.child("group");
    if group.is_empty() {
        return errors.required(&place, "");
    }
    dns_subdomain(group).into_iter().for_each(|fault| errors.invalid(&place, group, fault));
    if !group.contains('.') {
        errors.invalid(&place, group, "should be a domain with at least one dot");
    }
    let protected = group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io");
    let approval = "api-approved.kubernetes.io";
    if protected && meta(object).annotation(approval).is_none_or(str::is_empty) {
        let detail = format!(
            "protected groups must have approval annotation {approval:?}, see https://github.com/kubernetes/enhancements/pull/1111"
        );
        let annotations = Path::new("metadata");
        errors.required(&annotations.child("annotations").key(approval), detail);
    }
}

fn versions(spec: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let versions = list(spec, "versions");
    let place = at.child("versions");
    let mut seen = Vec::new();
    for (index, version) in versions.iter().enumerate() {
        let name = text(version, "name");
        let faults = dns_1035_label(name).into_iter();
        faults.for_each(|fault| errors.invalid(&place.index(index).child("name"), name, fault));
        if seen.contains(&name) {
            errors.invalid(&place, versions.to_vec(), "must contain unique version names");
        }
        seen.push(name);
    }
    let stored = versions.iter().filter(|version| flag(version, "storage")).count();
    if stored != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.invalid(&place, versions.to_vec(), detail);
    }
    let several = versions.len() > 1;
    for (index, version) in versions.iter().enumerate() {
        let own = place.index(index);
        // What all versions share is reported where older releases had it.
        let at = if several { own } else { *at };
        version_parts(version, &at, &own, several, errors);
    }
    if stored == 0 {
        let status = Path::new("status");
        let detail = "must have at least one stored version";
        errors.invalid(&status.child("storedVersions"), Value::Null, detail);
    }
}

fn version_parts(
    version: &Value,
    at: &Path<'_>,
    own: &Path<'_>,
    several: bool,
    errors: &mut ErrorList,
) {
    match version.pointer("/schema/openAPIV3Schema") {
        None | Some(Value::Null) => {
            errors.required(&own.child("schema").child("openAPIV3Schema"), "");
        }
        Some(schema) => {
            let holder = at.child(if several { "schema" } else { "validation" });
            root_schema(schema, &holder.child("openAPIV3Schema"), errors);
        }
    }
    for (index, column) in list(version, "additionalPrinterColumns").iter().enumerate() {
        let columns = at.child("additionalPrinterColumns");
        printer_column(column, &columns.index(index), errors);
    }
    if let Some(scale) = version.pointer("/subresources/scale").filter(|scale| scale.is_object()) {
        let subresources = at.child("subresources");
        scale_paths(scale, &subresources.child("scale"), errors);
    }
}

fn printer_column(column: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    if text(column, "name").is_empty() {
        errors.required(&at.child("name"), "");
    }
    match text(column, "type") {
        "" => {
            let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
            errors.required(&at.child("type"), detail);
        }
        of if !COLUMN_TYPES.contains(&of) => {
            let detail = format!("must be one of {}", COLUMN_TYPES.join(","));
            errors.invalid(&at.child("type"), of, detail);
        }
        _ => {}
    }
    match text(column, "jsonPath") {
        "" => errors.required(&at.child("JSONPath"), ""),
        path => {
            if let Err(error) = super::JsonPath::parse(path) {
                errors.invalid(&at.child("JSONPath"), path, error);
            }
        }
    }
}

fn scale_paths(scale: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    for (field, under, required) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ] {
        let (path, place) = (text(scale, field), at.child(field));
        match path {
            "" if required => errors.required(&place, ""),
            "" => {}
            path if !path.starts_with('.') => {
                errors.invalid(&place, path, "must be a simple json path starting with .");
            }
            path if !path.starts_with(under) => {
                let detail = format!("should be a json path under {}", under.trim_end_matches('.'));
                errors.invalid(&place, path, detail);
            }
            _ => {}
        }
    }
}

fn names(names: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let mut label = |field: &str, lower: bool, required: bool| {
        let (name, place) = (text(names, field), at.child(field));
        if name.is_empty() {
            if required {
                errors.required(&place, "");
            }
            return;
        }
        let checked = if lower { name.to_owned() } else { name.to_lowercase() };
        for fault in dns_1035_label(&checked) {
            let detail = match lower {
                true => fault,
                false => format!("may have mixed case, but should otherwise match: {fault}"),
            };
            errors.invalid(&place, name, detail);
        }
    };
    label("plural", true, true);
    label("singular", true, false);
    label("kind", false, true);
    label("listKind", false, false);
    for (field, lists) in
        [("shortNames", list(names, "shortNames")), ("categories", list(names, "categories"))]
    {
        for (index, name) in lists.iter().filter_map(Value::as_str).enumerate() {
            let place = at.child(field);
            dns_1035_label(name)
                .into_iter()
                .for_each(|fault| errors.invalid(&place.index(index), name, fault));
        }
    }
    if !text(names, "kind").is_empty() && text(names, "kind") == text(names, "listKind") {
        let detail = "kind and listKind may not be the same";
        errors.invalid(&at.child("listKind"), text(names, "listKind"), detail);
    }
}

fn conversion(conversion: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let webhook = conversion.get("webhook").filter(|webhook| webhook.is_object());
    match text(conversion, "strategy") {
        "Webhook" => {
            if webhook.and_then(|webhook| webhook.get("clientConfig")).is_none() {
                let detail = "required when strategy is set to Webhook";
                errors.required(&at.child("webhookClientConfig"), detail);
            }
            if webhook.is_none_or(|webhook| list(webhook, "conversionReviewVersions").is_empty()) {
                errors.required(&at.child("conversionReviewVersions"), "");
            }
        }
        "" | "None" => {
            if webhook.is_some() {
                let detail = "should not be set when strategy is not set to Webhook";
                errors.forbidden(&at.child("webhookClientConfig"), detail);
            }
        }
        other => errors.not_supported(&at.child("strategy"), other, &["None", "Webhook"]),
    }
}

// === structural schemas ===

fn root_schema(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    match text(schema, "type") {
        "object" => {}
        "" => errors.required(&at.child("type"), "must not be empty at the root"),
        of => errors.invalid(&at.child("type"), of, "must be object at the root"),
    }
    if text(schema, "type") == "object" {
        node(schema, at, true, errors);
        restricted_metadata(schema, at, errors);
    }
}

fn restricted_metadata(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let Some(metadata) = schema.pointer("/properties/metadata").and_then(Value::as_object) else {
        return;
    };
    let named = |properties: &Value| {
        let names = properties.as_object().into_iter().flatten();
        names.into_iter().all(|(name, _)| matches!(name.as_str(), "name" | "generateName"))
    };
    let only_names = metadata.iter().all(|(key, value)| match key.as_str() {
        "type" | "description" => true,
        "properties" => named(value),
        _ => false,
    });
    if !only_names {
        let detail = "must not specify anything other than name and generateName, but metadata is implicitly specified";
        errors.forbidden(&at.child("properties").key("metadata"), detail);
    }
}

fn node(schema: &Value, at: &Path<'_>, is_root: bool, errors: &mut ErrorList) {
    forbidden_parts(schema, at, errors);
    if let Err(error) = compiled_pattern(text(schema, "pattern")) {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.invalid(&at.child("pattern"), text(schema, "pattern"), detail);
    }
    for (place, child) in junctors(schema) {
        let at = at.child(&place);
        if !text(child, "type").is_empty() && !flag(schema, "x-kubernetes-int-or-string") {
            errors.forbidden(&at.child("type"), "must be empty to be structural");
        }
        for field in ["default", "nullable", "description", "title"] {
            if child.get(field).is_some() {
                errors.forbidden(&at.child(field), "must be undefined to be structural");
            }
        }
    }
    types(schema, at, errors);
    lists(schema, at, errors);
    if !is_root {
        default_value(schema, at, errors);
    }
    for (place, child) in children(schema) {
        let at = at.child(&place);
        node(child, &at, false, errors);
    }
}

fn forbidden_parts(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    for field in ["$ref", "definitions", "dependencies", "patternProperties", "additionalItems"] {
        if schema.get(field).is_some() {
            errors.forbidden(&at.child(field), format!("{field} is not supported"));
        }
    }
    if flag(schema, "uniqueItems") {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&at.child("uniqueItems"), detail);
    }
    let additional = schema.get("additionalProperties").filter(|value| !value.is_null());
    if additional == Some(&Value::Bool(false)) {
        let detail = "additionalProperties cannot be set to false";
        errors.forbidden(&at.child("additionalProperties"), detail);
    } else if additional.is_some() && schema.get("properties").is_some() {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.forbidden(&at.child("additionalProperties"), detail);
    }
}

fn types(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let free = flag(schema, "x-kubernetes-int-or-string")
        || flag(schema, "x-kubernetes-preserve-unknown-fields")
        || schema.get("$ref").is_some();
    match text(schema, "type") {
        "" if !free => {
            let detail = "must not be empty for specified object fields";
            errors.required(&at.child("type"), detail);
        }
        "" => {}
        "array" if schema.get("items").is_none() => {
            errors.required(&at.child("items"), "must be specified")
        }
        of if !TYPES.contains(&of) => errors.not_supported(&at.child("type"), of, TYPES),
        _ => {}
    }
}

fn lists(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let items = &schema["items"];
    match text(schema, "x-kubernetes-list-type") {
        "map" => {
            let keys = list(schema, "x-kubernetes-list-map-keys");
            let place = at.child("x-kubernetes-list-map-keys");
            let known =
                |key: &Value| items["properties"].get(key.as_str().unwrap_or_default()).is_some();
            if keys.is_empty() {
                errors.required(&place, "must not be empty if x-kubernetes-list-type is map");
            } else if !keys.iter().all(known) {
                let detail = "entries must all be names of item properties";
                errors.invalid(&place, keys.to_vec(), detail);
            }
        }
        "set" => {
            let atomic = text(items, "x-kubernetes-map-type") == "atomic";
            if text(items, "type") == "object" && !atomic {
                let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
                errors.invalid(
                    &at.child("items").child("x-kubernetes-map-type"),
                    Value::Null,
                    detail,
                );
            }
        }
        _ => {}
    }
}

/// A default must be valid by its own schema, and hold nothing that would be pruned.
fn default_value(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let Some(default) = schema.get("default") else { return };
    let place = at.child("default");
    let Ok(rule) = Rule::compile(schema) else { return };
    let mut found = ErrorList::default();
    rule.validate(default, &Path::ROOT, &mut found);
    for fault in found.0 {
        errors.invalid(&place, fault.bad_value.unwrap_or_default(), fault.detail);
    }
    if has_unknown_fields(default, schema) {
        errors.invalid(&place, default.clone(), "must not have unknown fields");
    }
}

fn has_unknown_fields(value: &Value, schema: &Value) -> bool {
    if flag(schema, "x-kubernetes-preserve-unknown-fields") {
        return false;
    }
    match value {
        Value::Object(map) => map.iter().any(|(name, value)| {
            let additional = schema.get("additionalProperties");
            match schema.pointer("/properties").and_then(|all| all.get(name)).or(additional) {
                Some(Value::Bool(true)) => false,
                Some(child) => has_unknown_fields(value, child),
                None => true,
            }
        }),
        Value::Array(items) => items.iter().any(|item| has_unknown_fields(item, &schema["items"])),
        _ => false,
    }
}

fn compiled_pattern(text: &str) -> Result<(), String> {
    let last_line =
        |error: regex::Error| error.to_string().lines().last().unwrap_or_default().to_owned();
    regex::Regex::new(text).map(drop).map_err(last_line)
}
