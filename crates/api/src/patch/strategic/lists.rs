//! How the lists of a strategic merge patch merge, and in which order their entries end up.
//!
//! Invariant: an entry that both sides have stays one entry, found by its merge key or, for scalars, by its value.

use serde_json::Value;

use super::{
    DIRECTIVE, ELEMENT_ORDER, Level, Object, merge_map, unknown_directive, without_directives,
};
use crate::patch::{PatchError, go_syntax, go_type};

pub fn merge_list_field(
    original: Vec<Value>,
    patch: Vec<Value>,
    level: Level<'_>,
    key: &str,
) -> Result<Vec<Value>, PatchError> {
    match level.list_strategy(key) {
        Some(strategy) => merge_list(original, patch, strategy.key.as_deref(), level.items(key)),
        None => Ok(patch),
    }
}

/// Merges by key, or as a set of scalars; then puts both sides in order.
fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    key: Option<&str>,
    items: Level<'_>,
) -> Result<Vec<Value>, PatchError> {
    check_elements(&original, &patch)?;
    let Some(first) = original.first().or(patch.first()) else { return Ok(original) };
    if !first.is_object() {
        let mut merged: Vec<Value> = Vec::new();
        for value in original.iter().chain(&patch) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return Ok(in_order(merged, &patch, &original, None));
    }
    let Some(key) = key else {
        return Err(PatchError::Unusable("cannot merge lists without merge key".to_owned()));
    };
    let (original, patch) = list_directives(original, patch, key)?;
    let order: Vec<Value> = original.clone();
    let mut merged = original;
    for entry in &patch {
        let Value::Object(entry) = entry else { continue };
        let wanted = entry.get(key).ok_or_else(|| no_merge_key(entry, key))?;
        let found = merged.iter().position(|item| item.get(key) == Some(wanted));
        match found {
            Some(at) => {
                let Value::Object(old) = merged[at].take() else { continue };
                merged[at] = Value::Object(merge_map(old, entry.clone(), items)?);
            }
            None => merged.push(without_directives(Value::Object(entry.clone()))),
        }
    }
    Ok(in_order(merged, &patch, &order, Some(key)))
}

/// Carries out the entries that hold `$patch`; returns what is left of both lists.
fn list_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>), PatchError> {
    let mut plain = Vec::new();
    let mut replace = false;
    for entry in patch {
        let Value::Object(map) = &entry else { continue };
        match map.get(DIRECTIVE).map(|directive| directive.as_str().unwrap_or_default()) {
            None => plain.push(entry),
            Some("delete") => {
                let wanted = map.get(key).ok_or_else(|| no_merge_key(map, key))?;
                original.retain(|item| item.get(key) != Some(wanted));
            }
            Some("replace") => replace = true,
            Some("merge") => {
                let text = "merging lists cannot yet be specified in the patch";
                return Err(PatchError::Unusable(text.to_owned()));
            }
            Some(_) => return Err(unknown_directive(map)),
        }
    }
    match replace {
        true => Ok((plain, Vec::new())),
        false => Ok((original, plain)),
    }
}

/// Lists that come with `$setElementOrder`: merged, then ordered as it says.
pub fn ordered_lists(
    original: &mut Object,
    patch: &mut Object,
    level: Level<'_>,
) -> Result<(), PatchError> {
    let directives: Vec<String> =
        patch.keys().filter(|key| key.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let name = &directive[ELEMENT_ORDER.len()..];
        if let Level::Struct(of) = level
            && of.field(name).is_none()
        {
            let of = of.name.rsplit('.').next().unwrap_or_default();
            return Err(PatchError::Unusable(format!(
                "unable to find api field in struct {of} for the json field {name:?}"
            )));
        }
        let order = expect_list(patch.remove(&directive).unwrap_or_default())?;
        let old = list_in(original, name)?;
        let new = list_in(patch, name)?;
        let key = level.list_strategy(name).and_then(|strategy| strategy.key.as_deref());
        check_order(&order, key)?;
        follows_order(new.as_deref().unwrap_or_default(), &order, key)?;
        let server_order = old.clone().unwrap_or_default();
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => match without_directives(Value::Array(new)) {
                Value::Array(items) => items,
                _ => unreachable!("a list stays a list"),
            },
            (Some(old), Some(new)) => merge_list_field(old, new, level, name)?,
        };
        original.insert(name.to_owned(), in_order(merged, &order, &server_order, key).into());
        patch.remove(name);
    }
    Ok(())
}

fn list_in(object: &Object, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
    match object.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => expect_list(value.clone()).map(Some),
    }
}

/// The order of a keyed list names entries by their key.
fn check_order(order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let Some(key) = key else { return Ok(()) };
    for (at, entry) in order.iter().enumerate() {
        match entry {
            Value::Object(map) if map.contains_key(key) => {}
            Value::Object(map) => return Err(no_merge_key(map, key)),
            _ => return Err(PatchError::Unusable(format!("value for key {at} is not a map"))),
        }
    }
    Ok(())
}

/// Every entry of the patch (but deletions) must be in the order list, in the same order.
fn follows_order(patch: &[Value], order: &[Value], key: Option<&str>) -> Result<(), PatchError> {
    let mut rest = order.iter();
    for entry in patch.iter().filter(|entry| entry.get(DIRECTIVE).is_none()) {
        if !rest.any(|ordered| same(ordered, entry, key)) {
            let list = |items: &[Value]| go_syntax(&Value::Array(items.to_vec()));
            return Err(PatchError::Unusable(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                list(patch),
                list(order)
            )));
        }
    }
    Ok(())
}

/// Puts entries named by `patch_order` in that order among those that only the server has. An entry
/// the server did not have goes before whatever is left of the server's.
fn in_order(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let position =
        |order: &[Value], value: &Value| order.iter().position(|other| same(other, value, key));
    let named = |value: &Value| position(patch_order, value).is_some();
    let (mut ours, mut servers): (Vec<Value>, Vec<Value>) = merged.into_iter().partition(named);
    ours.sort_by_key(|value| position(patch_order, value));
    servers.sort_by_key(|value| position(server_order, value));
    let mut out = Vec::with_capacity(ours.len() + servers.len());
    let mut servers = servers.into_iter().peekable();
    for value in ours {
        if let Some(at) = position(server_order, &value) {
            let before =
                |other: &Value| position(server_order, other).is_some_and(|place| place < at);
            while let Some(other) = servers.next_if(before) {
                out.push(other);
            }
        }
        out.push(value);
    }
    out.extend(servers);
    out
}

/// Whether two entries are the same one: by key, or equal scalars.
fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) if a.is_object() => a.get(key).is_some() && a.get(key) == b.get(key),
        _ => a == b,
    }
}

pub fn delete_from(original: &mut Object, name: &str, value: Value) {
    let Value::Array(unwanted) = value else { return };
    if let Some(Value::Array(items)) = original.get_mut(name) {
        items.retain(|item| !unwanted.contains(item));
    }
}

/// Entries must all be objects or all be scalars; lists of lists cannot be merged.
fn check_elements(original: &[Value], patch: &[Value]) -> Result<(), PatchError> {
    let mut all = original.iter().chain(patch);
    let Some(first) = all.next() else { return Ok(()) };
    if first.is_array() {
        return Err(PatchError::Unusable("lists of lists are not supported".to_owned()));
    }
    match all.all(|value| go_kind(value) == go_kind(first)) {
        true => Ok(()),
        false => {
            let both = Value::from(vec![Value::from(original), Value::from(patch)]);
            let text = format!("list element types are not identical: {}", go_syntax(&both));
            Err(PatchError::Unusable(text))
        }
    }
}

/// The type of an entry as the refusal of a mixed list names it.
fn go_kind(value: &Value) -> &'static str {
    if value.is_null() { "nil" } else { go_type(value) }
}

/// The list that a value must be.
fn expect_list(value: Value) -> Result<Vec<Value>, PatchError> {
    match value {
        Value::Array(items) => Ok(items),
        other => Err(PatchError::Unusable(format!(
            "expected a []interface {{}}, but received a {}",
            go_kind(&other)
        ))),
    }
}

fn no_merge_key(entry: &Object, key: &str) -> PatchError {
    let shown = go_syntax(&Value::Object(entry.clone()));
    PatchError::Unusable(format!("map: {shown} does not contain declared merge key: {key}"))
}
