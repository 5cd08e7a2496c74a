//! Lays one object over another.
//!
//! Counterpart: `structured-merge-diff/typed/merge.go`. Invariant: what is owned whole is replaced whole.

use serde_json::Value;

use super::{Shape, View, find, indexed};
use crate::schema::{ListType, Schema, StructSchema};

// === merge ===

/// Lays a configuration over an object; what the configuration does not speak of stays.
pub fn merge(live: &Value, config: &Value, schema: &StructSchema) -> Value {
    merge_at(live, config, Shape::Struct(schema))
}

fn merge_at(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    match (shape.view(live), shape.view(config)) {
        (View::Map(old), View::Map(new)) => {
            let mut out = old.clone();
            for (name, value) in new {
                let merged = match old.get(name) {
                    Some(old) => merge_at(old, value, shape.child(name).unwrap_or(Shape::Deduced)),
                    None => value.clone(),
                };
                out.insert(name.clone(), merged);
            }
            Value::Object(out)
        }
        (View::List(old), View::List(new)) => Value::Array(merge_lists(old, new, shape)),
        // Nothing in particular is said of what is there.
        (View::Map(old), View::Null) if !old.is_empty() => live.clone(),
        (View::List(old), View::Null) if !old.is_empty() => live.clone(),
        _ => config.clone(),
    }
}

/// Where an object has lists, maps or structs that are owned whole.
pub fn atomics(object: &Value, schema: &StructSchema) -> Vec<String> {
    let mut found = Vec::new();
    atomic_fields(object, schema, "", &mut found);
    found
}

fn atomic_fields(object: &Value, schema: &StructSchema, at: &str, found: &mut Vec<String>) {
    for (name, value) in object.as_object().into_iter().flatten() {
        if let Some(field) = schema.field(name) {
            atomics_at(value, &field.schema, &format!("{at}.{name}"), found);
        }
    }
}

fn atomics_at(value: &Value, schema: &Schema, at: &str, found: &mut Vec<String>) {
    match (schema, value) {
        (Schema::Struct(of), Value::Object(_)) => {
            found.extend(of.atomic.then(|| at.to_owned()));
            atomic_fields(value, of, at, found);
        }
        (Schema::Map(of), Value::Object(entries)) => {
            found.extend(of.atomic.then(|| at.to_owned()));
            for (key, value) in entries {
                atomics_at(value, &of.values, &format!("{at}.{key}"), found);
            }
        }
        (Schema::List(of), Value::Array(items)) => {
            found.extend((of.topology == ListType::Atomic).then(|| at.to_owned()));
            for (index, item) in items.iter().enumerate() {
                atomics_at(item, &of.items, &format!("{at}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// The order of the configuration holds among what both have; what only the object has keeps its
/// place between them.
fn merge_lists(old: &[Value], new: &[Value], shape: Shape<'_>) -> Vec<Value> {
    let before = indexed(old, shape);
    let after = indexed(new, shape);
    let mut shared: Vec<&str> = after
        .iter()
        .filter(|(step, _)| find(&before, step).is_some())
        .map(|(step, _)| step.as_str())
        .rev()
        .collect();
    let mut merged: Vec<&str> = Vec::new();
    let mut out = Vec::with_capacity(old.len() + new.len());
    let (mut left, mut right) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let take_left = match (left.peek(), right.peek()) {
            (None, None) => return out,
            (Some((step, _)), Some((other, _))) if step == other => {
                left.next();
                false
            }
            (Some((step, _)), Some(_)) if find(&after, step).is_some() => {
                // Shared: out of turn it is skipped, as it comes where the configuration puts it.
                if merged.contains(&step.as_str()) || shared.last() != Some(&step.as_str()) {
                    left.next();
                    continue;
                }
                false
            }
            (Some((step, _)), None) if find(&after, step).is_some() => {
                left.next();
                continue;
            }
            (Some(_), _) => true,
            (None, Some(_)) => false,
        };
        if take_left {
            if let Some((_, items)) = left.next() {
                out.extend(items.iter().map(|item| (*item).clone()));
            }
        } else if let Some((step, items)) = right.next() {
            merged.push(step);
            if shared.last() == Some(&step.as_str()) {
                shared.pop();
            }
            let Some(item) = items.last() else { continue };
            out.push(match find(&before, step).and_then(<[_]>::first) {
                Some(live) => merge_at(live, item, shape.items()),
                None => (*item).clone(),
            });
        }
    }
}
