//! When values are equal, and which comes first.
//!
//! Equality never fails: values of different kinds are different, numbers are compared by what
//! they amount to. Order exists between numbers and within each other ordered kind.
//! Counterpart: `Equal` and `Compare` of cel-go's types, and of Kubernetes' set and map lists.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value as Json;

use super::{Evaluated, Key, List, Map, Value};
use crate::decl::{DeclKind, DeclType, ListEquality};
use crate::error::EvalError;

impl<'a> Value<'a> {
    pub fn equals(&self, other: &Value<'a>) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::String(a), Value::String(b)) => **a == **b,
            (Value::Bytes(a), Value::Bytes(b)) => a == b,
            (Value::Duration(a), Value::Duration(b)) => a == b,
            (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
            (Value::List(a), Value::List(b)) => lists_equal(a, b),
            (Value::Map(a), Value::Map(b)) => maps_equal(a, b),
            (Value::Object(a), Value::Object(b)) => {
                a.type_name == b.type_name
                    && a.fields.len() == b.fields.len()
                    && a.fields
                        .iter()
                        .all(|(name, value)| b.fields.get(name).is_some_and(|o| value.equals(o)))
            }
            (Value::Optional(a), Value::Optional(b)) => match (a, b) {
                (Some(a), Some(b)) => a.equals(b),
                (a, b) => a.is_none() && b.is_none(),
            },
            (Value::Type(a), Value::Type(b)) => a.name() == b.name(),
            (Value::Opaque(a), Value::Opaque(b)) => a.equals(&**b),
            (a, b) => matches!(numbers(a, b), Some(Ok(Ordering::Equal))),
        }
    }

    /// Whether asking if the two are equal is a mistake: what is declared as a list or map is
    /// compared with nothing else, `null` aside.
    pub(crate) fn is_incomparable_with(&self, other: &Value<'a>) -> bool {
        match self {
            Value::List(List::Json(_, Some(_))) => !matches!(other, Value::List(_) | Value::Null),
            Value::Map(Map::Json(_, Some(_))) => !matches!(other, Value::Map(_) | Value::Null),
            _ => false,
        }
    }

    /// How the two are ordered; values that have no order are no such overload.
    pub fn compare(&self, other: &Value<'a>) -> Result<Ordering, EvalError> {
        Ok(match (self, other) {
            (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
            (Value::String(a), Value::String(b)) => (**a).cmp(&**b),
            (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
            (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
            (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
            (a, b) => numbers(a, b).unwrap_or(Err(EvalError::NoSuchOverload))?,
        })
    }
}

/// The order of two numbers; `None` if one is none. Next to a double, an integer is the double
/// nearest to it.
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Result<Ordering, EvalError>> {
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Some(Ok(a.cmp(&b)));
    }
    Some(double(a)?.partial_cmp(&double(b)?).ok_or(EvalError::NanOrder))
}

fn whole(value: &Value<'_>) -> Option<i128> {
    match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    }
}

fn double(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(value) => Some(*value),
        other => whole(other).map(|value| value as f64),
    }
}

/// How the elements of a list are told apart, as it is declared.
pub(crate) fn list_equality<'d>(list: &List<'d>) -> &'d ListEquality {
    match list {
        List::Json(_, Some(DeclType { kind: DeclKind::List { equality, .. }, .. })) => equality,
        _ => &ListEquality::Atomic,
    }
}

fn lists_equal<'a>(a: &List<'a>, b: &List<'a>) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let same =
        |a: Evaluated<'a>, b: Evaluated<'a>| matches!((a, b), (Ok(a), Ok(b)) if a.equals(&b));
    // The left side decides how the two are compared.
    match list_equality(a) {
        ListEquality::Atomic => a.iter().zip(b.iter()).all(|(a, b)| same(a, b)),
        // Sets hold scalars and map lists are told apart by scalars: neither repeats an element,
        // so that every element of one being in the other is enough.
        ListEquality::Set => b.iter().all(|b| a.iter().any(|a| same(a, b.clone()))),
        ListEquality::Map(keys) => b.iter().all(|b| {
            let b_keys = b.as_ref().ok().map(|b| key_values(b, keys));
            let found = a.iter().find(|a| {
                let keys_of_a = a.as_ref().ok().map(|a| key_values(a, keys));
                keys_of_a.is_some() && keys_of_a == b_keys
            });
            found.is_some_and(|a| same(a, b))
        }),
    }
}

/// What tells an element of a map list apart from the others.
pub(crate) fn key_values(element: &Value<'_>, keys: &[String]) -> Vec<Option<Json>> {
    let Value::Map(map) = element else { return Vec::new() };
    keys.iter()
        .map(|key| match map {
            Map::Json(fields, _) => fields.get(key).cloned(),
            made => made.field(key)?.ok()?.to_json(),
        })
        .collect()
}

fn maps_equal<'a>(a: &Map<'a>, b: &Map<'a>) -> bool {
    // What no rule can see still makes two objects different.
    if let (Map::Json(a, Some(decl)), Map::Json(b, _)) = (a, b)
        && let DeclKind::Object(_) = decl.kind
    {
        return a.len() == b.len()
            && a.iter().all(|(name, value)| {
                b.get(name).is_some_and(|other| {
                    let decl = decl.as_object().and_then(|o| Some(&*o.by_json_name(name)?.1.decl));
                    match (Value::typed(value, decl), Value::typed(other, decl)) {
                        (Ok(value), Ok(other)) => value.equals(&other),
                        _ => value == other,
                    }
                })
            });
    }
    a.len() == b.len()
        && a.iter().all(|(key, value)| match (value, b.get(&key)) {
            (Ok(value), Some(Ok(other))) => value.equals(&other),
            _ => false,
        })
}

/// Whether a list holds the element, or a map the key.
pub(crate) fn contains<'a>(collection: &Value<'a>, wanted: &Value<'a>) -> Result<bool, EvalError> {
    match collection {
        Value::List(list) => {
            for element in list.iter() {
                if element?.equals(wanted) {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => Ok(Key::of(wanted).is_some_and(|key| map.contains(&key))),
        _ => Err(EvalError::NoSuchOverload),
    }
}

/// One list after the other; sets and map lists are merged instead.
pub(crate) fn concat_lists<'a>(a: &List<'a>, b: &List<'a>) -> Result<List<'a>, EvalError> {
    let mut out = a.to_vec()?;
    for added in b.iter() {
        let added = added?;
        let same = match list_equality(a) {
            ListEquality::Atomic => None,
            ListEquality::Set => out.iter().position(|kept| kept.equals(&added)),
            ListEquality::Map(keys) => {
                let wanted = key_values(&added, keys);
                out.iter().position(|kept| key_values(kept, keys) == wanted)
            }
        };
        match same {
            Some(at) => out[at] = added,
            None => out.push(added),
        }
    }
    Ok(List::Made(Arc::new(out)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_equal_across_kinds() {
        assert!(Value::Int(1).equals(&Value::Double(1.0)));
        assert!(Value::Uint(1).equals(&Value::Int(1)));
        assert!(Value::Int(i64::MAX).equals(&Value::Double(2f64.powi(63))));
        assert!(!Value::Double(f64::NAN).equals(&Value::Double(f64::NAN)));
        assert_eq!(Value::Int(1).compare(&Value::Double(1.5)), Ok(Ordering::Less));
        assert_eq!(Value::Uint(u64::MAX).compare(&Value::Int(-1)), Ok(Ordering::Greater));
    }

    #[test]
    fn set_and_map_lists_are_equal_in_any_order() {
        let check = |decl: DeclType, a: Json, b: Json, expected: bool| {
            let (x, y) = (Value::declared(&a, &decl).unwrap(), Value::declared(&b, &decl).unwrap());
            assert_eq!(x.equals(&y), expected, "{a} {b}");
        };
        let strings = || DeclType::list(DeclType::string(), None);
        check(strings(), ["a", "b"].into(), ["b", "a"].into(), false);
        check(
            strings().with_equality(ListEquality::Set),
            ["a", "b"].into(),
            ["b", "a"].into(),
            true,
        );
        let object = crate::decl::ObjectType::new("o")
            .field("k", DeclType::string())
            .field("v", DeclType::int());
        let map = DeclType::list(DeclType::object(object, 2), None)
            .with_equality(ListEquality::Map(vec!["k".into()]));
        let list = |pairs: &[(&str, i64)]| {
            Json::Array(pairs.iter().map(|(k, v)| serde_json::json!({"k": k, "v": v})).collect())
        };
        check(map.clone(), list(&[("a", 1), ("b", 2)]), list(&[("b", 2), ("a", 1)]), true);
        check(map, list(&[("a", 1), ("b", 2)]), list(&[("b", 1), ("a", 2)]), false);
    }
}
