//! Parts of values: fields, elements, entries.

use std::sync::Arc;

use crate::error::EvalError;
use crate::value::{Evaluated, Key, Value};

/// The field, if the value has it.
pub(super) fn find<'a>(value: &Value<'a>, field: &str) -> Option<Evaluated<'a>> {
    match value {
        Value::Map(map) => map.field(field),
        Value::Object(object) => object.fields.get(field).cloned().map(Ok),
        Value::Optional(inner) => find(inner.as_ref()?, field),
        Value::List(_) => {
            let message = "unsupported index type 'string' in list";
            Some(Err(EvalError::other(message)))
        }
        _ => None,
    }
}

pub(super) fn select<'a>(value: Value<'a>, field: &str) -> Evaluated<'a> {
    match (&value, find(&value, field)) {
        (Value::Optional(_), found) => Ok(Value::Optional(found.transpose()?.map(Arc::new))),
        (_, Some(found)) => found,
        (_, None) => Err(EvalError::NoSuchKey(field.to_owned())),
    }
}

/// What is at an index or under a key, if anything is.
pub(super) fn at_index<'a>(
    value: &Value<'a>,
    index: &Value<'a>,
) -> Result<Option<Evaluated<'a>>, EvalError> {
    match value {
        Value::List(list) => {
            let place = match index {
                Value::Int(place) => usize::try_from(*place).ok(),
                Value::Uint(place) => usize::try_from(*place).ok(),
                Value::Double(place) if place.fract() == 0.0 && *place >= 0.0 => {
                    Some(*place as usize)
                }
                Value::Double(place) => {
                    let message = format!("unsupported index value {place} in list");
                    return Err(EvalError::other(message));
                }
                other => {
                    let kind = other.cel_type();
                    let message = format!("unsupported index type '{}' in list", kind.name());
                    return Err(EvalError::other(message));
                }
            };
            Ok(place.and_then(|place| list.get(place)))
        }
        Value::Map(map) => Ok(Key::of(index).and_then(|key| map.get(&key))),
        Value::Object(object) => match index {
            Value::String(field) => Ok(object.fields.get(&**field).cloned().map(Ok)),
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

pub(super) fn missing(value: &Value<'_>, index: &Value<'_>) -> EvalError {
    match (value, index) {
        (Value::List(_), Value::Int(place)) => EvalError::IndexOutOfBounds(*place),
        (Value::List(_), Value::Uint(place)) => EvalError::IndexOutOfBounds(*place as i64),
        (Value::List(_), Value::Double(place)) => EvalError::IndexOutOfBounds(*place as i64),
        (_, key) => EvalError::NoSuchKey(Key::of(key).map_or_else(String::new, |k| k.to_string())),
    }
}
