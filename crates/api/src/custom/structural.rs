//! A structural schema as the graph that decoding, defaulting and apply walk.

use std::sync::Arc;

use serde_json::Value;

use super::{list, text, texts};
use crate::schema::{
    AnyForm, Field, ListSchema, ListType, MapSchema, PatchStrategy, Schema, StructRef,
    StructSchema, struct_ref,
};

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

/// The schema of a whole object; type and metadata are implied.
pub fn root(node: &Value, kind: &str) -> StructSchema {
    let mut schema = structure(node, Open(false));
    imply_object(&mut schema);
    schema.name = kind.to_owned();
    schema
}

/// Whether a place above lets in fields that are not declared.
#[derive(Clone, Copy)]
struct Open(bool);

fn schema(node: &Value, above: Open) -> Schema {
    if flag(node, "x-kubernetes-int-or-string") {
        return Schema::IntOrString;
    }
    match text(node, "type") {
        "object" => object(node, above),
        "array" => array(node, above),
        "string" => Schema::String,
        "integer" => Schema::Int64,
        "number" => Schema::Double,
        "boolean" => Schema::Bool,
        _ => Schema::Any(AnyForm::Unknown),
    }
}

fn object(node: &Value, above: Open) -> Schema {
    let here = opened(node, above);
    let values = match node.get("additionalProperties") {
        Some(values @ Value::Object(_)) => Some(schema(values, here)),
        Some(Value::Bool(true)) => Some(Schema::Any(AnyForm::Unknown)),
        _ => None,
    };
    match values {
        Some(values) => {
            let nullable = match node.get("additionalProperties") {
                Some(of @ Value::Object(_)) => flag(of, "nullable"),
                _ => true,
            };
            Schema::Map(Arc::new(MapSchema { values, atomic: is_atomic(node), nullable }))
        }
        None => Schema::Struct(StructRef::Custom(Arc::new(structure(node, above)))),
    }
}

fn structure(node: &Value, above: Open) -> StructSchema {
    let here = opened(node, above);
    let required = texts(node, "required");
    let properties = node.get("properties").and_then(Value::as_object);
    let mut fields: Vec<Field> = properties
        .into_iter()
        .flatten()
        .map(|(name, node)| field(name, node, required.contains(name), here))
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let mut schema = StructSchema {
        fields,
        atomic: is_atomic(node),
        preserve_unknown: flag(node, PRESERVE),
        apply_unknown: here.0,
        embedded_resource: flag(node, "x-kubernetes-embedded-resource"),
        ..StructSchema::default()
    };
    if schema.embedded_resource {
        imply_object(&mut schema);
    }
    schema
}

fn opened(node: &Value, above: Open) -> Open {
    Open(above.0 || flag(node, PRESERVE))
}

fn field(name: &str, node: &Value, required: bool, above: Open) -> Field {
    Field {
        name: name.to_owned(),
        schema: schema(node, above),
        required,
        pointer: true,
        always: false,
        default: node.get("default").cloned(),
        nullable: flag(node, "nullable"),
        granular: false,
        proto: None,
        patch: PatchStrategy::default(),
    }
}

fn array(node: &Value, above: Open) -> Schema {
    let here = opened(node, above);
    let items = node.get("items").map_or(Schema::Any(AnyForm::Unknown), |it| schema(it, here));
    let topology = match text(node, "x-kubernetes-list-type") {
        "set" => ListType::Set,
        "map" => ListType::Map(texts(node, "x-kubernetes-list-map-keys")),
        _ => ListType::Atomic,
    };
    Schema::List(Arc::new(ListSchema { items, topology }))
}

/// `apiVersion`, `kind` and `metadata` of an object, whatever the schema says about them.
fn imply_object(schema: &mut StructSchema) {
    let meta = struct_ref("meta.v1.ObjectMeta").expect("the facts hold ObjectMeta");
    let implied = [
        ("apiVersion", Schema::String),
        ("kind", Schema::String),
        ("metadata", Schema::Struct(meta)),
    ];
    for (name, of) in implied {
        schema.fields.retain(|field| field.name != name);
        schema.fields.push(Field { schema: of, ..field(name, &Value::Null, false, Open(false)) });
    }
    schema.fields.sort_by(|a, b| a.name.cmp(&b.name));
}

fn is_atomic(node: &Value) -> bool {
    text(node, "x-kubernetes-map-type") == "atomic"
}

pub(super) fn flag(node: &Value, field: &str) -> bool {
    node.get(field) == Some(&Value::Bool(true))
}

/// The names of all schemas directly below a node, with their place as the definition prints it.
pub(super) fn children(node: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for (name, child) in node.get("properties").and_then(Value::as_object).into_iter().flatten() {
        found.push((format!("properties[{name}]"), child));
    }
    for field in ["items", "additionalProperties"] {
        if let Some(child) = node.get(field).filter(|child| child.is_object()) {
            found.push((field.to_owned(), child));
        }
    }
    found
}

/// The schemas of `allOf`, `anyOf`, `oneOf` and `not`.
pub(super) fn junctors(node: &Value) -> Vec<(String, &Value)> {
    let mut found = Vec::new();
    for field in ["allOf", "anyOf", "oneOf"] {
        let each = list(node, field).iter().enumerate();
        found.extend(each.map(|(at, child)| (format!("{field}[{at}]"), child)));
    }
    found.extend(node.get("not").map(|child| ("not".to_owned(), child)));
    found
}
