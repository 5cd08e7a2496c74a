//! JSON as values, one step at a time, and values as JSON.
//!
//! With a declaration JSON becomes what is declared (a `date-time` is a timestamp, a whole number
//! a double where `number` is declared); without one, what it looks like.
//! Counterpart: `UnstructuredToVal` of `k8s.io/apiserver/pkg/cel/common`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map as JsonMap, Value as Json};

use super::{Evaluated, Key, List, Map, Text, Timestamp, Value};
use crate::decl::{DeclKind, DeclType};
use crate::duration;
use crate::error::EvalError;
use crate::library::time;
use crate::types::Type;

// === impl Value ===

impl<'a> From<&'a Json> for Value<'a> {
    fn from(json: &'a Json) -> Value<'a> {
        match json {
            Json::Null => Value::Null,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(int), _) => Value::Int(int),
                (None, double) => Value::Double(double.unwrap_or(f64::NAN)),
            },
            Json::String(text) => Value::text(text),
            Json::Array(elements) => Value::List(List::Json(elements, None)),
            Json::Object(fields) => Value::Map(Map::Json(fields, None)),
        }
    }
}

impl<'a> Value<'a> {
    /// JSON as what it is declared to be. JSON of another shape is an error.
    pub fn declared(json: &'a Json, decl: &'a DeclType) -> Evaluated<'a> {
        if json.is_null() {
            return match decl.nullable || matches!(decl.kind, DeclKind::Scalar(Type::Dyn)) {
                true => Ok(Value::Null),
                false => {
                    Err(EvalError::other("invalid data, got null for schema with nullable=false"))
                }
            };
        }
        match (&decl.kind, json) {
            (DeclKind::Scalar(Type::Dyn), json) => Ok(Value::from(json)),
            (DeclKind::Scalar(kind), json) => scalar(json, kind),
            (DeclKind::List { .. }, Json::Array(elements)) => {
                Ok(Value::List(List::Json(elements, Some(decl))))
            }
            (DeclKind::Map { .. } | DeclKind::Object(_), Json::Object(fields)) => {
                Ok(Value::Map(Map::Json(fields, Some(decl))))
            }
            (DeclKind::List { .. }, _) => Err(EvalError::other(
                "invalid data, expected an array for the provided schema with type=array",
            )),
            (DeclKind::Map { .. } | DeclKind::Object(_), _) => Err(EvalError::other(
                "invalid data, expected a map for the provided schema with type=object",
            )),
        }
    }

    pub(super) fn typed(json: &'a Json, decl: Option<&'a DeclType>) -> Evaluated<'a> {
        match decl {
            Some(decl) => Value::declared(json, decl),
            None => Ok(Value::from(json)),
        }
    }

    /// The value as JSON; `None` for what JSON has no form for.
    pub fn to_json(&self) -> Option<Json> {
        Some(match self {
            Value::Null => Json::Null,
            Value::Bool(value) => Json::from(*value),
            Value::Int(value) => Json::from(*value),
            Value::Uint(value) => Json::from(*value),
            Value::Double(value) => Json::Number(serde_json::Number::from_f64(*value)?),
            Value::String(text) => Json::from(&**text),
            Value::Bytes(bytes) => Json::from(STANDARD.encode(bytes)),
            Value::Duration(nanos) => Json::from(time::format_duration(*nanos)),
            Value::Timestamp(at) => Json::from(at.to_string()),
            Value::List(List::Json(elements, _)) => Json::from(elements.to_vec()),
            Value::List(List::Made(elements)) => {
                Json::Array(elements.iter().map(Value::to_json).collect::<Option<_>>()?)
            }
            Value::Map(Map::Json(fields, _)) => Json::Object((*fields).clone()),
            Value::Map(Map::Made(entries) | Map::Open(entries)) => {
                let entry =
                    |(key, value): (&Key, &Value)| Some((key.to_string(), value.to_json()?));
                Json::Object(entries.iter().map(entry).collect::<Option<_>>()?)
            }
            Value::Object(object) => {
                let field =
                    |(name, value): (&String, &Value)| Some((name.clone(), value.to_json()?));
                Json::Object(object.fields.iter().map(field).collect::<Option<_>>()?)
            }
            Value::Optional(inner) => inner.as_ref()?.to_json()?,
            Value::Type(_) | Value::Opaque(_) => return None,
        })
    }
}

fn scalar<'a>(json: &'a Json, kind: &Type) -> Evaluated<'a> {
    let expected = |what: &str| {
        let found = match json {
            Json::Null => "<nil>",
            Json::Bool(_) => "bool",
            Json::Number(number) if number.is_f64() => "float64",
            Json::Number(_) => "int64",
            Json::String(_) => "string",
            Json::Array(_) => "[]interface {}",
            Json::Object(_) => "map[string]interface {}",
        };
        EvalError::other(format!("invalid data, expected {what}, got {found}"))
    };
    match kind {
        Type::Bool => json.as_bool().map(Value::Bool).ok_or_else(|| expected("bool")),
        Type::Int => json.as_i64().map(Value::Int).ok_or_else(|| expected("int")),
        Type::Double => json.as_f64().map(Value::Double).ok_or_else(|| expected("float")),
        kind => text(json.as_str().ok_or_else(|| expected("string"))?, kind),
    }
}

fn text<'a>(text: &'a str, kind: &Type) -> Evaluated<'a> {
    let (value, what) = match kind {
        Type::Duration => (duration::parse_spelt(text).map(Value::Duration), "duration"),
        Type::Timestamp if text.len() == 10 => {
            (timestamp(&format!("{text}T00:00:00Z")), "date formatted string")
        }
        // Without a zone, it is the time in UTC.
        Type::Timestamp => {
            let at = timestamp(text).or_else(|| timestamp(&format!("{text}Z")));
            (at, "date-time formatted string")
        }
        Type::Bytes => {
            let bytes = STANDARD.decode(text).ok();
            (bytes.map(|bytes| Value::Bytes(bytes.into())), "byte formatted string")
        }
        _ => return Ok(Value::String(Text::Borrowed(text))),
    };
    value.ok_or_else(|| EvalError::other(format!("Invalid {what} {text}")))
}

fn timestamp<'a>(text: &str) -> Option<Value<'a>> {
    Timestamp::parse(text).map(Value::Timestamp)
}

// === parts ===

/// The declaration of a list's elements.
pub(super) fn element(list: Option<&DeclType>) -> Option<&DeclType> {
    match &list?.kind {
        DeclKind::List { element, .. } => Some(element),
        _ => None,
    }
}

/// The value of a field or under a key. A field of an object that is `null` is not there.
pub(super) fn field<'a>(
    fields: &'a JsonMap<String, Json>,
    decl: Option<&'a DeclType>,
    name: &str,
) -> Option<Evaluated<'a>> {
    let (json, decl) = match decl.map(|decl| &decl.kind) {
        Some(DeclKind::Object(object)) => {
            // What is no identifier can still be asked for by its name, as a key.
            let field = object.fields.get(name).or_else(|| Some(object.by_json_name(name)?.1))?;
            (fields.get(&field.json).filter(|json| !json.is_null())?, Some(&*field.decl))
        }
        Some(DeclKind::Map { value }) => (fields.get(name)?, Some(&**value)),
        _ => (fields.get(name)?, None),
    };
    Some(Value::typed(json, decl))
}

/// The keys expressions see: identifiers of declared fields, all keys of a map.
pub(super) fn keys(fields: &JsonMap<String, Json>, decl: Option<&DeclType>) -> Vec<Key> {
    match decl.and_then(DeclType::as_object) {
        Some(object) => {
            let known = fields.keys().filter_map(|json| object.by_json_name(json));
            known.map(|(identifier, _)| Key::from(identifier)).collect()
        }
        None => fields.keys().map(|key| Key::from(&**key)).collect(),
    }
}
