//! Whether an applied configuration is one that owners can be told of: known fields, right types, keys that tell entries apart.
//!
//! Counterpart: `structured-merge-diff/typed/validate.go`, whose words these are.

use serde_json::Value;

use super::{Shape, keys_of};
use crate::apply::set::{field_step, key_step, printed, value_step};
use crate::schema::{Schema, StructSchema};

// === check ===

const NUMERIC: &str = "numeric (int or float)";

/// Faults of an applied configuration, each with its path, as upstream's typed validation prints them.
pub fn check(config: &Value, schema: &StructSchema) -> Vec<String> {
    let mut faults = Vec::new();
    check_struct(config, schema, "", &mut faults);
    faults
}

fn check_struct(value: &Value, schema: &StructSchema, at: &str, faults: &mut Vec<String>) {
    let Value::Object(map) = value else {
        if !value.is_null() {
            faults.push(expected(at, "map", value));
        }
        return;
    };
    for (name, value) in map {
        let at = format!("{at}{}", printed(&field_step(name)));
        match schema.field(name) {
            Some(field) => check_value(value, &field.schema, &at, faults),
            None if schema.apply_unknown => {}
            None => faults.push(format!("{at}: field not declared in schema")),
        }
    }
}

fn check_value(value: &Value, schema: &Schema, at: &str, faults: &mut Vec<String>) {
    if value.is_null() {
        return;
    }
    match (schema, value) {
        (Schema::Struct(of), value) => check_struct(value, of, at, faults),
        (Schema::Map(of), Value::Object(map)) => {
            for (name, value) in map {
                check_value(value, &of.values, &format!("{at}.{name}"), faults);
            }
        }
        (Schema::Map(_), other) => faults.push(expected(at, "map", other)),
        (Schema::List(list), Value::Array(items)) => {
            check_list(items, schema, &list.items, at, faults);
        }
        (Schema::List(_), other) => faults.push(expected(at, "list", other)),
        (Schema::String | Schema::Time | Schema::MicroTime | Schema::Bytes, other)
            if !other.is_string() =>
        {
            faults.push(expected(at, "string", other));
        }
        (Schema::Bool, other) if !other.is_boolean() => faults.push(expected(at, "boolean", other)),
        (Schema::Int32 | Schema::Int64 | Schema::Double, other) if !other.is_number() => {
            faults.push(expected(at, NUMERIC, other));
        }
        _ => {}
    }
}

fn check_list(list: &[Value], schema: &Schema, items: &Schema, at: &str, faults: &mut Vec<String>) {
    let shape = Shape::of(schema);
    let mut seen: Vec<String> = Vec::new();
    for (index, item) in list.iter().enumerate() {
        let step = match shape {
            Shape::KeyedList(keys, of) => keyed_item(item, keys, of),
            Shape::SetList => set_item(item).map_err(str::to_owned),
            _ => Ok(format!("i:{index}")),
        };
        let step = match step {
            Ok(step) => step,
            // Without a step there is no saying where, so the rest of the list goes unchecked.
            Err(why) => return faults.push(format!("{at}: element {index}: {why}")),
        };
        let place = format!("{at}{}", printed(&step));
        if seen.contains(&step) {
            faults.push(format!("{at}: duplicate entries for key {}", printed(&step)));
        }
        check_value(item, items, &place, faults);
        seen.push(step);
    }
}

/// The step to an entry that is known by its keys, of which it must have one at least.
fn keyed_item(item: &Value, keys: &[String], items: &Schema) -> Result<String, String> {
    match item {
        Value::Null => Err("associative list with keys may not have a null element".to_owned()),
        Value::Object(_) => match keys_of(item, keys, items) {
            found if found.is_empty() => {
                let names: Vec<String> = keys.iter().map(|key| format!("{key:?}")).collect();
                Err(format!(
                    "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
                    names.join(" ")
                ))
            }
            found => Ok(key_step(found)),
        },
        _ => Err("associative list with keys may not have non-map elements".to_owned()),
    }
}

/// The step to an entry that is known by its value.
fn set_item(item: &Value) -> Result<String, &'static str> {
    match item {
        Value::Null => Err("associative list without keys has an element that's an explicit null"),
        Value::Object(_) => Err("associative list without keys has an element that's a map type"),
        Value::Array(_) => Err("not supported: associative list with lists as elements"),
        scalar => Ok(value_step(scalar)),
    }
}

/// The value is shown as the reference implementation shows it: each type in a way of its own.
fn expected(at: &str, wanted: &str, found: &Value) -> String {
    let shown = crate::patch::go_syntax(found);
    match wanted {
        "string" => {
            format!("{at}: expected string, got &value.valueUnstructured{{Value:{shown}}}")
        }
        NUMERIC => format!("{at}: expected {NUMERIC}, got {}", crate::patch::go_type(found)),
        _ => format!("{at}: expected {wanted}, got &{{{shown}}}"),
    }
}
