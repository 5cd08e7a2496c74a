//! Declarations from OpenAPI schemas.
//!
//! A schema as JSON in (a CustomResourceDefinition's, or a built-in kind's with its references
//! resolved by the caller), a declaration out. Counterpart: `SchemaDeclType` of
//! `k8s.io/apiserver/pkg/cel/common`.
//! Invariant: what a schema does not tell the type of is not declared, so that no rule can rely on
//! it; estimated sizes are those upstream estimates.

use serde_json::Value as Json;

use crate::decl::{DeclType, ListEquality, MAX_REQUEST_SIZE, ObjectType};
use crate::types::Type;

/// Resolves the target of a `$ref`.
pub type Resolve<'r> = dyn Fn(&str) -> Option<&'r Json> + 'r;

/// How deep schemas are followed; references may lead back to where they came from.
const DEPTH_LIMIT: usize = 64;

impl DeclType {
    /// What a schema says about its values; `None` when rules cannot look at them.
    ///
    /// With `root`, the schema is that of a whole object, whose kind, version and name are always
    /// there. The declaration still has to be [`named`](DeclType::named).
    pub fn from_schema(schema: &Json, root: bool) -> Option<DeclType> {
        DeclType::from_schema_with(schema, root, &|_| None)
    }

    /// The same for schemas that refer to others.
    pub fn from_schema_with<'r>(
        schema: &'r Json,
        root: bool,
        resolve: &Resolve<'r>,
    ) -> Option<DeclType> {
        declare(schema, root, resolve, DEPTH_LIMIT)
    }
}

fn declare<'r>(
    schema: &'r Json,
    root: bool,
    resolve: &Resolve<'r>,
    depth: usize,
) -> Option<DeclType> {
    let depth = depth.checked_sub(1)?;
    let schema = target(schema, resolve);
    let flag = |name: &str| schema[name].as_bool() == Some(true);
    if flag("x-kubernetes-int-or-string") {
        let max_length = length(schema, "maxLength").map(|max| max.saturating_mul(4));
        let max = max_length.unwrap_or(MAX_REQUEST_SIZE - 2);
        return Some(DeclType::scalar(Type::Dyn, 1, max).with_nullable(flag("nullable")));
    }
    let root = root || flag("x-kubernetes-embedded-resource");
    let part = |schema: &'r Json| declare(schema, false, resolve, depth);
    let decl = match (schema["type"].as_str(), root) {
        (Some("object"), _) | (None, true) => object(schema, root, &part),
        (Some("array"), _) => {
            let element = part(schema.get("items")?)?;
            Some(
                DeclType::list(element, length(schema, "maxItems")).with_equality(equality(schema)),
            )
        }
        (Some("string"), _) => Some(string(schema)),
        (Some("boolean"), _) => Some(DeclType::bool()),
        (Some("number"), _) => Some(DeclType::double()),
        (Some("integer"), _) => Some(DeclType::int()),
        _ => None,
    };
    decl.map(|decl| decl.with_nullable(flag("nullable")))
}

/// Follows a reference, also one that stands alone in `allOf` next to a default or description.
fn target<'r>(schema: &'r Json, resolve: &Resolve<'r>) -> &'r Json {
    let reference = |schema: &'r Json| schema.get("$ref").and_then(Json::as_str);
    let all_of = schema.get("allOf").and_then(|all| all.get(0)).and_then(reference);
    match reference(schema).or(all_of).and_then(resolve) {
        Some(target) => target,
        None => schema,
    }
}

fn length(schema: &Json, name: &str) -> Option<u64> {
    schema.get(name)?.as_i64().map(|length| u64::try_from(length).unwrap_or(0))
}

fn equality(schema: &Json) -> ListEquality {
    match schema["x-kubernetes-list-type"].as_str() {
        Some("set") => ListEquality::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array();
            let keys = keys.into_iter().flatten().filter_map(Json::as_str);
            ListEquality::Map(keys.map(str::to_owned).collect())
        }
        _ => ListEquality::Atomic,
    }
}

fn object<'r>(
    schema: &'r Json,
    root: bool,
    part: &dyn Fn(&'r Json) -> Option<DeclType>,
) -> Option<DeclType> {
    let additional = schema.get("additionalProperties").filter(|schema| schema.is_object());
    if let (Some(values), false) = (additional, root) {
        return Some(DeclType::map(part(values)?, length(schema, "maxProperties")));
    }
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
    let meta = root && !describes_meta(schema);
    let mut object = ObjectType::new("object");
    let mut min_size = 2;
    let own = schema["properties"].as_object().into_iter().flatten();
    let own = own.filter(|(name, _)| !(meta && META.contains(&&name[..])));
    let own = own.filter_map(|(name, property)| {
        // What has a default is filled in, so that requests need not have it.
        Some((&name[..], part(property)?, property.get("default").is_none()))
    });
    let meta = META.into_iter().filter(|_| meta).map(|name| (name, meta_field(name), true));
    for (name, decl, sent) in own.chain(meta) {
        if sent && required.contains(&name) {
            min_size += name.len() as u64 + decl.min_size + 4;
        }
        object = object.field(name, decl);
    }
    Some(DeclType::object(object, min_size))
}

/// What is always there at the root of an object.
const META: [&str; 3] = ["apiVersion", "kind", "metadata"];

/// Whether a schema says everything about these itself.
fn describes_meta(schema: &Json) -> bool {
    let is = |schema: &Json, kind: &str| schema["type"] == kind;
    let properties = &schema["properties"];
    let metadata = &properties["metadata"];
    let names = &metadata["properties"];
    is(&properties["kind"], "string")
        && is(&properties["apiVersion"], "string")
        && is(metadata, "object")
        && is(&names["name"], "string")
        && is(&names["generateName"], "string")
}

fn meta_field(name: &str) -> DeclType {
    if name != "metadata" {
        return DeclType::string();
    }
    let metadata = ObjectType::new("object")
        .field("name", DeclType::string())
        .field("generateName", DeclType::string());
    DeclType::object(metadata, 2)
}

fn string(schema: &Json) -> DeclType {
    let max_length = length(schema, "maxLength");
    let format = schema["format"].as_str().unwrap_or_default();
    match format {
        "byte" => DeclType::scalar(Type::Bytes, 2, max_length.unwrap_or(MAX_REQUEST_SIZE - 2)),
        "duration" => DeclType::scalar(Type::Duration, 3, 32),
        "date" => DeclType::scalar(Type::Timestamp, 12, 12),
        "date-time" => DeclType::scalar(Type::Timestamp, 21, 32),
        _ => {
            let longest =
                schema["enum"].as_array().filter(|values| !values.is_empty()).map(|values| {
                    let lengths =
                        values.iter().filter_map(Json::as_str).map(|value| value.len() as u64);
                    lengths.max().unwrap_or(0)
                });
            // Lengths are in characters, of up to four bytes each.
            let max = max_length.map(|max| max.saturating_mul(4)).or(longest);
            DeclType::scalar(Type::String, 2, max.unwrap_or(MAX_REQUEST_SIZE - 2))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decl::DeclKind;
    use serde_json::json;

    #[test]
    fn sizes_follow_from_limits_or_from_what_fits_into_a_request() {
        let check = |schema: Json, expected: u64| {
            let decl = DeclType::from_schema(&schema, false).unwrap();
            assert_eq!(decl.max_elements, expected, "{schema}");
        };
        check(json!({"type": "string"}), 3 * 1024 * 1024 - 2);
        check(json!({"type": "string", "maxLength": 10}), 40);
        check(json!({"type": "string", "enum": ["a", "abc"]}), 3);
        check(json!({"type": "array", "maxItems": 5, "items": {"type": "string"}}), 5);
        check(json!({"type": "array", "items": {"type": "boolean"}}), (3 * 1024 * 1024 - 2) / 5);
        check(
            json!({"type": "object", "additionalProperties": {"type": "integer"}}),
            (3 * 1024 * 1024 - 2) / 7,
        );
    }

    #[test]
    fn what_has_no_type_is_out_of_reach() {
        let schema = json!({"type": "object", "properties": {
            "known": {"type": "string"},
            "unknown": {"x-kubernetes-preserve-unknown-fields": true},
        }});
        let decl = DeclType::from_schema(&schema, true).unwrap();
        let DeclKind::Object(object) = &decl.kind else { panic!("an object is declared") };
        let names: Vec<_> = object.fields.keys().map(String::as_str).collect();
        assert_eq!(names, ["apiVersion", "kind", "known", "metadata"]);
    }
}
