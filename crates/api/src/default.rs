//! Fills in what an object leaves open: the static defaults of its schema, then its kind's own.
//!
//! Object + kind -> object. Counterpart: the generated `SetObjectDefaults_*` functions.
//! Invariant: idempotent; a second run changes nothing.

use serde_json::{Map, Value};

use crate::codec::complete;
use crate::kind::KindDef;
use crate::quantity::Quantity;
use crate::schema::{Schema, StructSchema};

/// Defaults a whole object of a kind, and completes it as [`complete`] says.
pub fn apply(object: &mut Value, kind: &KindDef) {
    add_spec(object, kind);
    statics(object, &kind.schema);
    kind.strategy.default(object);
    complete(object, &kind.schema);
}

/// A spec that is no pointer is there even if nothing is said of it, and has its defaults.
fn add_spec(object: &mut Value, kind: &KindDef) {
    let spec = kind.schema.field("spec").filter(|spec| !spec.pointer && !kind.custom);
    let is_struct = spec.is_some_and(|spec| matches!(spec.schema, Schema::Struct(_)));
    if let Some(object) = object.as_object_mut().filter(|_| is_struct) {
        object.entry("spec").or_insert_with(|| Value::Object(Map::new()));
    }
}

/// The static defaults of a schema. A structural schema's nulls give way to a default unless the
/// field is nullable.
pub fn statics(object: &mut Value, schema: &StructSchema) {
    let Value::Object(map) = object else { return };
    for field in &schema.fields {
        if let Some(default) = &field.default {
            let open = match map.get(&field.name) {
                None => true,
                Some(Value::Null) => !field.nullable,
                Some(_) => false,
            };
            if open {
                map.insert(field.name.clone(), default.clone());
            }
        }
        if let Some(value) = map.get_mut(&field.name) {
            below(value, &field.schema);
        }
    }
}

fn below(value: &mut Value, schema: &Schema) {
    match (schema, value) {
        (Schema::Struct(of), value @ Value::Object(_)) => statics(value, of),
        (Schema::List(list), Value::Array(items)) => {
            items.iter_mut().for_each(|item| below(item, &list.items));
        }
        (Schema::Map(of), Value::Object(entries)) if matches!(of.values, Schema::Quantity) => {
            entries.values_mut().for_each(round_to_milli);
        }
        (Schema::Map(of), Value::Object(entries)) => {
            entries.values_mut().for_each(|value| below(value, &of.values));
        }
        _ => {}
    }
}

/// Amounts of resources are kept in thousandths: what is less is rounded up.
fn round_to_milli(amount: &mut Value) {
    let quantity = amount.as_str().and_then(|text| text.parse::<Quantity>().ok());
    if let Some(rounded) = quantity.and_then(Quantity::rounded_to_milli) {
        *amount = rounded.to_string().into();
    }
}

/// The default of a key field, which tells list entries apart even where an object leaves it out.
/// A plain field of a built-in type is Go's zero value then, if it is written even so.
pub(crate) fn of_key(items: &StructSchema, key: &str) -> Option<Value> {
    let field = items.field(key)?;
    let plain = items.proto.is_some() && !field.pointer;
    let zero = || match field.schema {
        Schema::String if plain && (field.always || NAMELESS.contains(&&*items.name)) => {
            Some("".into())
        }
        Schema::Int32 | Schema::Int64 if plain && field.always => Some(0.into()),
        _ => None,
    };
    field.default.clone().or_else(zero)
}

/// Types whose name may be left out and then is the empty one.
const NAMELESS: [&str; 2] = ["core.v1.EphemeralContainer", "core.v1.LocalObjectReference"];

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::kinds;

    #[test]
    fn a_spec_that_is_left_out_has_its_defaults() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "persistentvolumeclaims").expect("served");
        let mut claim = json!({"metadata": {"name": "c"}});
        apply(&mut claim, kind);
        assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
    }

    #[test]
    fn static_defaults_reach_into_lists_and_run_once() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "services").expect("served");
        let mut object =
            json!({"spec": {"ports": [{"port": 80}, {"port": 81, "protocol": "UDP"}]}});
        apply(&mut object, kind);
        assert_eq!(object["spec"]["ports"][0]["protocol"], "TCP");
        assert_eq!(object["spec"]["ports"][1]["protocol"], "UDP");
        assert_eq!(object["status"], json!({"loadBalancer": {}}));
        let once = object.clone();
        apply(&mut object, kind);
        assert_eq!(object, once);
    }
}
