//! An OpenAPI schema as a definition may declare it.
//!
//! Structure and defaults first ([`structure`], [`defaults`]), then one walk over every node: unsupported keywords, map and
//! list types, and the form of CEL rules, which are compiled where nothing else is wrong. Counterpart:
//! `ValidateCustomResourceDefinitionOpenAPISchema`.

use serde_json::Value;

use super::super::structural::{children, flag, junctors};
use super::super::{list, text};
use super::rules::{self, Costs, Surroundings};
use super::{defaults, printed, structure, topology};
use crate::field::{ErrorList, Path};

const TYPES: &[&str] = &["array", "boolean", "integer", "number", "object", "string"];
const META: &[&str] = &["metadata", "kind", "apiVersion"];

/// What may stand at the root where status is a subresource, in upstream's words.
const AT_ROOT: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";
const NOT_AT_ROOT: &[&str] = &[
    "id",
    "$schema",
    "$ref",
    "nullable",
    "default",
    "enum",
    "maxProperties",
    "minProperties",
    "allOf",
    "oneOf",
    "anyOf",
    "not",
    "additionalProperties",
    "patternProperties",
    "dependencies",
    "additionalItems",
    "definitions",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
];

/// Faults of the schema of a version, whose holder is at `at`.
pub fn validate(
    schema: &Value,
    has_status: bool,
    unchanged: bool,
    at: &Path<'_>,
    errors: &mut ErrorList,
) {
    let before = errors.0.len();
    let place = at.child("openAPIV3Schema");
    if has_status {
        root_beside_status(schema, &place, errors);
    }
    if flag(schema, "nullable") {
        errors.forbidden(&place.child("nullable"), "nullable cannot be true at the root");
    }
    let unsupported = unsupported(schema);
    let mut compiles = false;
    if unsupported.is_none() {
        let mut faults = structure::faults(schema, &place);
        if faults.is_empty() {
            defaults::validate(schema, &place, &mut faults);
        }
        compiles = faults.is_empty();
        errors.0.extend(faults.0);
    }
    let mut walk = Walk { costs: Costs::new(unchanged) };
    let standing = Standing { rules: compiles.then(Surroundings::root), ..Standing::default() };
    let mut found = Found::default();
    walk.node(schema, &place, &standing, true, &mut found);
    errors.0.extend(found.schema.0);
    errors.0.extend(found.rules.0);
    walk.costs.check(&place, errors);
    if let Some(why) = unsupported.filter(|_| errors.0.len() == before) {
        errors.invalid(&place, "", why);
    }
}

/// Status is validated apart, so that nothing at the root may speak of it.
fn root_beside_status(schema: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let is_set =
        |name: &&&str| !matches!(schema.get(**name), None | Some(Value::Null | Value::Bool(false)));
    match text(schema, "type") {
        "object" | "" => {}
        of => {
            let detail = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
            return errors.invalid(&at.child("type"), of, detail);
        }
    }
    if NOT_AT_ROOT.iter().any(|name| is_set(&name)) {
        let detail = format!(
            "only {AT_ROOT} fields are allowed at the root of the schema if the status subresource is enabled"
        );
        errors.invalid(at, printed::internal(schema), detail);
    }
}

/// The first keyword without which a schema cannot be structural at all.
fn unsupported(node: &Value) -> Option<String> {
    let is_set = |name: &str| node.get(name).is_some_and(|value| !value.is_null() && value != "");
    let keywords = [
        "id",
        "$schema",
        "$ref",
        "patternProperties",
        "dependencies",
        "additionalItems",
        "definitions",
    ];
    if let Some(name) = keywords.into_iter().find(|name| is_set(name)) {
        let name = if name == "$schema" { "schema" } else { name };
        return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
    }
    if node.get("items").is_some_and(Value::is_array) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    if node.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        return Some(
            "internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined"
                .to_owned(),
        );
    }
    children(node).into_iter().chain(junctors(node)).find_map(|(_, child)| unsupported(child))
}

/// What the schemas around a node decide about it.
#[derive(Clone, Default)]
struct Standing {
    /// Why there may be no defaults.
    no_defaults: Option<String>,
    in_meta: bool,
    /// None where rules are not compiled.
    rules: Option<Surroundings>,
}

/// Faults of the schema and of its rules, which are reported after the others.
#[derive(Default)]
struct Found {
    schema: ErrorList,
    rules: ErrorList,
}

/// The walk over every node, adding up what rules cost.
struct Walk {
    costs: Costs,
}

// === impl Walk ===

impl Walk {
    fn node(
        &mut self,
        schema: &Value,
        at: &Path<'_>,
        standing: &Standing,
        is_root: bool,
        found: &mut Found,
    ) {
        if !schema.is_object() {
            return;
        }
        let mut own = Found::default();
        keywords(schema, at, standing, &mut own.schema);
        self.below(schema, at, standing, is_root, &mut own);
        topology::validate(schema, at, &mut own.schema);
        let rules = at.child("x-kubernetes-validations");
        for (index, rule) in list(schema, "x-kubernetes-validations").iter().enumerate() {
            rules::form(rule, schema, &rules.index(index), &mut own.schema);
        }
        // A schema that is wrong makes no sense to rules.
        if let Some(around) = standing.rules.as_ref().filter(|_| own.schema.is_empty()) {
            let is_object = is_root || flag(schema, "x-kubernetes-embedded-resource");
            rules::check(schema, is_object, around, &mut self.costs, at, &mut own.rules);
        }
        found.schema.0.extend(own.schema.0);
        found.rules.0.extend(own.rules.0);
    }
    /// Every schema directly below, in upstream's order.
    fn below(
        &mut self,
        schema: &Value,
        at: &Path<'_>,
        standing: &Standing,
        is_root: bool,
        found: &mut Found,
    ) {
        let properties = schema.get("properties").and_then(Value::as_object);
        let additional = schema.get("additionalProperties").filter(|value| !value.is_null());
        if let Some(additional) = additional {
            let place = at.child("additionalProperties");
            let both = properties.is_some_and(|properties| !properties.is_empty());
            if both && additional != &Value::Bool(true) {
                let detail = "additionalProperties and properties are mutual exclusive";
                found.schema.forbidden(&place, detail);
            }
            let mut inner = standing.clone();
            inner.rules = inner.rules.map(|around| around.below(schema));
            if standing.in_meta {
                let why = "inside additionalProperties applying to object metadata";
                inner.no_defaults = Some(why.to_owned());
            }
            self.node(additional, &place, &inner, false, found);
        }
        let is_object = is_root || flag(schema, "x-kubernetes-embedded-resource");
        let place = at.child("properties");
        for (name, child) in properties.into_iter().flatten() {
            let mut inner = standing.clone();
            inner.rules = inner.rules.map(|around| around.below(schema));
            if is_object && META.contains(&name.as_str()) {
                inner.in_meta = true;
                if is_root {
                    inner.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            self.node(child, &place.key(name), &inner, false, found);
        }
        let restricting = Standing { rules: None, ..standing.clone() };
        if let Some(not) = schema.get("not") {
            self.node(not, &at.child("not"), &restricting, false, found);
        }
        for junctor in ["allOf", "oneOf", "anyOf"] {
            let place = at.child(junctor);
            for (index, branch) in list(schema, junctor).iter().enumerate() {
                self.node(branch, &place.index(index), &restricting, false, found);
            }
        }
        self.by_name(schema, "definitions", at, &restricting, found);
        if let Some(items) = schema.get("items") {
            let mut inner = standing.clone();
            inner.rules = inner.rules.map(|around| around.items(schema, at));
            self.node(items, &at.child("items"), &inner, false, found);
        }
        self.by_name(schema, "dependencies", at, &restricting, found);
    }

    /// Schemas that are refused as such, and looked into all the same.
    fn by_name(
        &mut self,
        schema: &Value,
        keyword: &str,
        at: &Path<'_>,
        standing: &Standing,
        found: &mut Found,
    ) {
        let place = at.child(keyword);
        let schemas = schema.get(keyword).and_then(Value::as_object);
        for (name, child) in schemas.into_iter().flatten() {
            self.node(child, &place.key(name), standing, false, found);
        }
    }
}

fn keywords(schema: &Value, at: &Path<'_>, standing: &Standing, errors: &mut ErrorList) {
    let is_set = |name: &str| schema.get(name).is_some_and(|value| !value.is_null() && value != "");
    let of = text(schema, "type");
    if !of.is_empty() && !TYPES.contains(&of) {
        errors.not_supported(&at.child("type"), of, TYPES);
    }
    if let Some(why) = standing.no_defaults.as_ref().filter(|_| is_set("default")) {
        errors.forbidden(&at.child("default"), format!("must not be set {why}"));
    }
    for name in
        ["id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref"]
    {
        if is_set(name) {
            errors.forbidden(&at.child(name), format!("{name} is not supported"));
        }
    }
    if of == "null" {
        let detail = "type cannot be set to null, use nullable as an alternative";
        errors.forbidden(&at.child("type"), detail);
    }
    if schema.get("items").is_some_and(Value::is_array) {
        errors.forbidden(&at.child("items"), "items must be a schema object and not an array");
    }
    if standing.in_meta && flag(schema, "x-kubernetes-embedded-resource") {
        let place = at.child("x-kubernetes-embedded-resource");
        errors.forbidden(&place, "must not be used inside of resource meta");
    }
    if flag(schema, "uniqueItems") {
        let detail =
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.forbidden(&at.child("uniqueItems"), detail);
    }
    if schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let place = at.child("x-kubernetes-preserve-unknown-fields");
        errors.invalid(&place, false, "must be true or undefined");
    }
}
