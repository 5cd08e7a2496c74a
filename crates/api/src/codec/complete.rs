//! Adds what Go writes even when it is empty.
//!
//! Object + schema -> the object as upstream's encoder spells it out. Invariant: idempotent; fields
//! that are there already are only walked.

use serde_json::{Map, Value};

use crate::schema::{AnyForm, Field, Schema, StructSchema};

/// Adds structs that are no pointers, zero times, and fields without `omitempty`.
pub fn complete(object: &mut Value, schema: &StructSchema) {
    fill(object, schema, Empty::Kept);
}

/// Completes an object, and forgets what protobuf, in which upstream stores, cannot tell from
/// nothing: a list or map that is written even when empty is null once it was stored.
pub fn settle(object: &mut Value, schema: &StructSchema) {
    fill(object, schema, Empty::Forgotten);
}

/// What becomes of an empty list or map.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Empty {
    Kept,
    Forgotten,
}

fn fill(object: &mut Value, schema: &StructSchema, empty: Empty) {
    let Value::Object(map) = object else { return };
    for field in &schema.fields {
        match map.get_mut(&field.name) {
            Some(value) if empty == Empty::Forgotten && forgets(field, value) => {
                *value = Value::Null;
            }
            Some(value) => fill_below(value, &field.schema, empty),
            None => {
                if let Some(mut value) = written_when_absent(field, schema) {
                    fill_below(&mut value, &field.schema, empty);
                    map.insert(field.name.clone(), value);
                }
            }
        }
    }
}

fn forgets(field: &Field, value: &Value) -> bool {
    match (&field.schema, value) {
        (Schema::List(_), Value::Array(items)) => items.is_empty(),
        (Schema::Map(_), Value::Object(entries)) => entries.is_empty(),
        _ => false,
    }
}

fn fill_below(value: &mut Value, schema: &Schema, empty: Empty) {
    match (schema, value) {
        (Schema::Struct(of), value @ Value::Object(_)) => fill(value, of, empty),
        (Schema::List(list), Value::Array(items)) if holds_structs(&list.items) => {
            items.iter_mut().for_each(|item| fill_below(item, &list.items, empty));
        }
        (Schema::Map(of), Value::Object(entries)) if holds_structs(&of.values) => {
            entries.values_mut().for_each(|value| fill_below(value, &of.values, empty));
        }
        _ => {}
    }
}

fn holds_structs(schema: &Schema) -> bool {
    matches!(schema, Schema::Struct(_) | Schema::List(_) | Schema::Map(_))
}

/// What an absent field is written as, if it is written at all.
fn written_when_absent(field: &Field, of: &StructSchema) -> Option<Value> {
    of.proto.as_ref()?;
    if field.pointer {
        return field.always.then_some(Value::Null);
    }
    match &field.schema {
        Schema::Struct(_) => Some(Value::Object(Map::new())),
        Schema::Time | Schema::MicroTime if field.name == "creationTimestamp" => None,
        Schema::Time | Schema::MicroTime => Some(Value::Null),
        Schema::Quantity => Some("0".into()),
        Schema::Any(AnyForm::Raw) => Some(Value::Null),
        _ if !field.always => None,
        Schema::String => Some("".into()),
        Schema::Bool => Some(false.into()),
        Schema::Int32 | Schema::Int64 | Schema::Double | Schema::IntOrString => Some(0.into()),
        _ => Some(Value::Null),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::struct_named;

    #[test]
    fn an_empty_list_is_kept_until_it_was_stored() {
        let schema = struct_named("storage.v1.CSINode").expect("known");
        let mut object = json!({"metadata": {"name": "n"}, "spec": {"drivers": []}});
        complete(&mut object, schema);
        assert_eq!(object["spec"]["drivers"], json!([]));
        settle(&mut object, schema);
        assert_eq!(object["spec"]["drivers"], Value::Null);
    }
}
