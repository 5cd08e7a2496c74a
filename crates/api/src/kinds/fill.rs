//! Setting what is absent, and reading what is there, in objects held as JSON.
//!
//! The vocabulary of every strategy's defaults and Table cells.

use serde_json::{Map, Value};

pub type Object = Map<String, Value>;

/// Sets a field that is absent.
pub fn set(object: &mut Object, field: &str, value: impl Into<Value>) {
    if !object.contains_key(field) {
        object.insert(field.to_owned(), value.into());
    }
}

/// Sets a field that cannot tell empty from absent: one that is absent, no text or 0.
pub fn set_if_empty(object: &mut Object, field: &str, value: impl Into<Value>) {
    let empty = match object.get(field) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Number(number)) => number.as_i64() == Some(0),
        Some(_) => false,
    };
    if empty {
        object.insert(field.to_owned(), value.into());
    }
}

/// The object in a field, if it is there.
pub fn object<'a>(parent: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    parent.get_mut(field)?.as_object_mut()
}

/// The object at a JSON pointer, if it is there.
pub fn object_at<'a>(root: &'a mut Value, pointer: &str) -> Option<&'a mut Object> {
    root.pointer_mut(pointer)?.as_object_mut()
}

/// The object in a field, made if absent.
pub fn made<'a>(parent: &'a mut Object, field: &str) -> Option<&'a mut Object> {
    parent.entry(field).or_insert_with(|| Value::Object(Map::new())).as_object_mut()
}

/// The object at a JSON pointer, made if absent together with all above it.
pub fn made_at<'a>(root: &'a mut Value, pointer: &str) -> Option<&'a mut Object> {
    let mut steps = pointer.split('/').skip(1);
    steps.try_fold(root.as_object_mut()?, |parent, step| made(parent, step))
}

/// Every object of the list in a field.
pub fn each<'a>(parent: &'a mut Object, field: &str) -> impl Iterator<Item = &'a mut Object> {
    let list = parent.get_mut(field).and_then(Value::as_array_mut);
    list.into_iter().flatten().filter_map(Value::as_object_mut)
}

/// The text at a JSON pointer, empty if it is absent.
pub fn text<'a>(root: &'a Value, pointer: &str) -> &'a str {
    root.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The number at a JSON pointer.
pub fn int(root: &Value, pointer: &str) -> Option<i64> {
    root.pointer(pointer).and_then(Value::as_i64)
}

pub fn flag(root: &Value, pointer: &str) -> bool {
    root.pointer(pointer).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at a JSON pointer, empty if it is absent.
pub fn list<'a>(root: &'a Value, pointer: &str) -> &'a [Value] {
    root.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// How many members the map or list at a JSON pointer has.
pub fn count(root: &Value, pointer: &str) -> usize {
    match root.pointer(pointer) {
        Some(Value::Object(map)) => map.len(),
        Some(Value::Array(list)) => list.len(),
        _ => 0,
    }
}

/// Puts an empty object at a field of the root that an encoder always writes.
pub fn status(root: &mut Value) -> Option<&mut Object> {
    made(root.as_object_mut()?, "status")
}
