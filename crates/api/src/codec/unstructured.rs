//! Why a tree of maps does not become an object without passing through JSON.
//!
//! A strategic merge patch makes such a tree, and what is wrong with it is told in other words than
//! Go's JSON decoder has. Counterpart: `runtime.DefaultUnstructuredConverter`, which walks fields in
//! the order of their declaration and stops at the first fault.

use serde_json::Value;

use super::conform::scalar;
use super::go_types;
use super::node::Node;
use super::place::Place;
use crate::schema::{Schema, StructSchema, declared};

/// The first fault of a tree that is to be an object with this schema.
pub fn fault(value: &Value, schema: &StructSchema) -> Option<String> {
    structure(value, schema, &Place::ROOT)
}

fn structure(value: &Value, schema: &StructSchema, at: &Place<'_>) -> Option<String> {
    let Value::Object(map) = value else {
        return Some(format!("cannot restore struct from: {}", kind_of(value)));
    };
    declared(&schema.name).iter().find_map(|declared| {
        let (field, value) = (schema.field(declared.name)?, map.get(declared.name)?);
        place(value, &field.schema, &at.field(declared.name, Some(schema)))
    })
}

fn place(value: &Value, schema: &Schema, at: &Place<'_>) -> Option<String> {
    match (schema, value) {
        (_, Value::Null) => None,
        (Schema::Struct(of), value) => structure(value, of, at),
        (Schema::List(list), Value::Array(items)) => items
            .iter()
            .enumerate()
            .find_map(|(index, item)| place(item, &list.items, &at.index(index))),
        (Schema::List(_), _) => Some(format!("cannot restore slice from {}", kind_of(value))),
        (Schema::Map(map), Value::Object(entries)) => {
            entries.iter().find_map(|(name, value)| place(value, &map.values, &at.key(name)))
        }
        (Schema::Map(_), _) => Some(format!("cannot restore map from {}", kind_of(value))),
        (Schema::Bytes, Value::String(_)) => {
            of_json(value, schema).map(|error| format!("error decoding from json: {error}"))
        }
        (Schema::Bytes, _) => Some(format!("cannot restore slice from {}", kind_of(value))),
        (Schema::String | Schema::Bool | Schema::Int32 | Schema::Int64 | Schema::Double, value) => {
            plain(value, schema, at)
        }
        (Schema::FieldsV1 | Schema::Any(_), _) => None,
        // These read themselves from JSON.
        (_, value) => of_json(value, schema),
    }
}

fn of_json(value: &Value, schema: &Schema) -> Option<String> {
    scalar(Node::from(value.clone()), schema, &Place::ROOT).err().map(|error| error.to_string())
}

/// Go converts between numbers, and would convert a number to text but for being told not to.
fn plain(value: &Value, schema: &Schema, at: &Place<'_>) -> Option<String> {
    let is_float = value.is_f64();
    let fits = match schema {
        Schema::String => value.is_string(),
        Schema::Bool => value.is_boolean(),
        Schema::Double => value.is_number(),
        _ => value.is_number() && !is_float,
    };
    let related = match schema {
        Schema::String => value.is_number() && !is_float,
        Schema::Int32 | Schema::Int64 => is_float,
        _ => false,
    };
    match (fits, related) {
        (true, _) => None,
        (_, true) => Some(format!("cannot convert {} to {}", kind_of(value), at.go_type(schema))),
        _ => Some(format!("unrecognized type: {}", go_types::of(schema))),
    }
}

/// Go's name of the kind of a value in such a tree.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::struct_named;

    #[test]
    fn the_first_declared_fault_is_told_in_the_converters_words() {
        let schema = struct_named("apps.v1.Deployment").expect("known");
        for (spec, told) in [
            (json!({"replicas": 2}), None),
            (json!({"replicas": "five"}), Some("unrecognized type: int32")),
            (json!({"replicas": 1.5}), Some("cannot convert float64 to int32")),
            (json!({"paused": 1, "replicas": []}), Some("unrecognized type: int32")),
            (json!([]), Some("cannot restore struct from: slice")),
            (
                json!({"template": {"spec": {"restartPolicy": 5}}}),
                Some("cannot convert int64 to v1.RestartPolicy"),
            ),
            (
                json!({"template": {"spec": {"containers": {}}}}),
                Some("cannot restore slice from map"),
            ),
            (
                json!({"strategy": {"rollingUpdate": {"maxSurge": true}}}),
                Some("json: cannot unmarshal bool into Go value of type int32"),
            ),
        ] {
            let found = fault(&json!({"spec": spec}), schema);
            assert_eq!(found.as_deref(), told, "{spec}");
        }
    }
}
