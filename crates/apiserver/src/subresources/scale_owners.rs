//! Who owns the replica count, when it is written through `scale`.
//!
//! Owners of the object -> owners of the Scale, who may lose the count to the writer -> owners of the object. Counterpart:
//! `managedfields.ScaleHandler`. An update through `scale` carries no time, and a plain owner of the count is always
//! written anew; an applier that keeps it stays as it was.

use serde_json::{Map, Value, json};
use skiff_api::apply::{self, Manager};
use skiff_api::schema::struct_ref;
use skiff_api::{KindDef, Status};

use crate::verbs::write::set;

const SCALE: &str = "autoscaling/v1";

/// Settles the owners of `object`, whose Scale was `old` and becomes `new`.
pub fn settle(
    kind: &KindDef,
    object: &mut Value,
    pointer: &str,
    old: &Value,
    new: &Value,
    manager: Manager,
) {
    let entries = seen(entries(object), pointer);
    let (mut old, mut new) = (old.clone(), new.clone());
    set(&mut old, "managedFields", of_scale(&entries, pointer).into());
    let manager = Manager { api_version: SCALE.to_owned(), ..manager };
    apply::track(&scale_of(kind), Some(&old), &mut new, &manager);
    put_back(kind, object, pointer, &entries, &new);
}

/// Applies a configuration to the Scale of `object`, which was `old`; the new Scale, or the conflicts over the count.
pub fn apply(
    kind: &KindDef,
    object: &mut Value,
    pointer: &str,
    old: &Value,
    config: &Value,
    (manager, force): (Manager, bool),
) -> Result<Value, Status> {
    let entries = seen(entries(object), pointer);
    let mut old = old.clone();
    set(&mut old, "managedFields", of_scale(&entries, pointer).into());
    let manager = Manager { api_version: SCALE.to_owned(), ..manager };
    let new = apply::apply(&scale_of(kind), Some(&old), config, &manager, force)?.object;
    put_back(kind, object, pointer, &entries, &new);
    Ok(new)
}

/// The Scale of a kind, as a kind.
pub fn scale_of(kind: &KindDef) -> KindDef {
    let schema = struct_ref("autoscaling.v1.Scale").expect("the Scale is among the facts");
    KindDef {
        group: "autoscaling".to_owned(),
        version: "v1".to_owned(),
        kind: "Scale".to_owned(),
        custom: false,
        schema,
        subresources: Vec::new(),
        ..kind.clone()
    }
}

fn put_back(kind: &KindDef, object: &mut Value, pointer: &str, entries: &[Value], scale: &Value) {
    let settled = of_object(entries, self::entries(scale), pointer, &kind.api_version());
    match settled.is_empty() {
        true => crate::verbs::write::remove(object, "managedFields"),
        false => set(object, "managedFields", settled.into()),
    }
}

fn entries(object: &Value) -> &[Value] {
    object.pointer("/metadata/managedFields").and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Of two entries of one manager only the one without the count is seen.
fn seen(entries: &[Value], pointer: &str) -> Vec<Value> {
    let owns = |entry: &Value| has(&entry["fieldsV1"], pointer);
    let same = |a: &Value, b: &Value| {
        ["manager", "operation", "apiVersion", "subresource"]
            .iter()
            .all(|field| a[*field] == b[*field])
    };
    let hidden = |entry: &Value| {
        owns(entry) && entries.iter().any(|other| same(entry, other) && !owns(other))
    };
    entries.iter().filter(|entry| !hidden(entry)).cloned().collect()
}

/// The entries that own the count, as entries of a Scale.
fn of_scale(entries: &[Value], pointer: &str) -> Vec<Value> {
    let owns = |entry: &&Value| has(&entry["fieldsV1"], pointer);
    let turned = |entry: &Value| {
        let mut entry = entry.clone();
        entry["apiVersion"] = SCALE.into();
        entry["fieldsV1"] = fields("/spec/replicas");
        entry
    };
    entries.iter().filter(owns).map(turned).collect()
}

fn of_object(entries: &[Value], scale: &[Value], pointer: &str, api_version: &str) -> Vec<Value> {
    let mut left: Vec<&Value> =
        scale.iter().filter(|entry| has(&entry["fieldsV1"], "/spec/replicas")).collect();
    let mut settled = Vec::new();
    for entry in entries {
        if !has(&entry["fieldsV1"], pointer) {
            settled.push(entry.clone());
            continue;
        }
        let is_same = |other: &&Value| {
            ["manager", "operation", "subresource"].iter().all(|of| other[*of] == entry[*of])
        };
        let applied = entry["operation"] == "Apply";
        match left.iter().position(is_same).filter(|_| applied) {
            Some(at) => {
                left.remove(at);
                settled.push(entry.clone());
            }
            None => settled.extend(without_count(entry, pointer)),
        }
    }
    let turned = |entry: &Value| {
        let mut entry = entry.clone();
        entry["apiVersion"] = api_version.into();
        entry["fieldsV1"] = fields(pointer);
        if let Some(map) = entry.as_object_mut() {
            map.remove("time");
        }
        entry
    };
    settled.extend(left.into_iter().map(turned));
    settled
}

/// The entry without the count; none if it owned nothing else.
fn without_count(entry: &Value, pointer: &str) -> Option<Value> {
    let mut entry = entry.clone();
    let steps: Vec<String> = pointer.split('/').skip(1).map(|name| format!("f:{name}")).collect();
    remove(entry["fieldsV1"].as_object_mut()?, &steps);
    entry["fieldsV1"].as_object().is_some_and(|fields| !fields.is_empty()).then_some(entry)
}

fn remove(fields: &mut Map<String, Value>, steps: &[String]) {
    let [first, rest @ ..] = steps else { return };
    if rest.is_empty() {
        fields.remove(first);
        return;
    }
    let Some(below) = fields.get_mut(first).and_then(Value::as_object_mut) else { return };
    remove(below, rest);
    match below.is_empty() {
        true => drop(fields.remove(first)),
        // A struct of which nothing else is owned is written short.
        false if below.len() == 1 && below.contains_key(".") => {
            fields.insert(first.clone(), json!({}));
        }
        false => {}
    }
}

fn has(fields: &Value, pointer: &str) -> bool {
    let mut steps = pointer.split('/').skip(1).map(|name| format!("f:{name}"));
    steps.try_fold(fields, |fields, step| fields.get(&step)).is_some()
}

/// A field set of one path.
fn fields(pointer: &str) -> Value {
    let steps = pointer.split('/').skip(1).collect::<Vec<_>>().into_iter().rev();
    steps.fold(json!({}), |below, name| json!({ (format!("f:{name}")): below }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(entries: Value, old: i64, new: i64) -> Value {
        let kinds = skiff_api::kinds::builtin();
        let kind = kinds.get("apps", "v1", "deployments").expect("served");
        let mut object = json!({ "metadata": { "managedFields": entries } });
        let scale = |replicas: i64| json!({ "metadata": {}, "spec": { "replicas": replicas } });
        let manager = Manager {
            name: "s".into(),
            subresource: "scale".into(),
            time: "now".into(),
            ..Manager::default()
        };
        settle(kind, &mut object, "/spec/replicas", &scale(old), &scale(new), manager);
        object["metadata"]["managedFields"].take()
    }

    fn entry(manager: &str, operation: &str, fields: Value) -> Value {
        json!({ "manager": manager, "operation": operation, "apiVersion": "apps/v1", "time": "then",
            "fieldsType": "FieldsV1", "fieldsV1": fields })
    }

    #[test]
    fn the_writer_takes_the_count_and_leaves_no_time() {
        let before = json!([entry(
            "a",
            "Update",
            json!({ "f:spec": { ".": {}, "f:replicas": {}, "f:x": {} } })
        )]);
        let after = settled(before, 1, 2);
        assert_eq!(after[0]["fieldsV1"], json!({ "f:spec": { ".": {}, "f:x": {} } }));
        assert_eq!(
            after[1],
            json!({ "manager": "s", "operation": "Update", "subresource": "scale", "apiVersion": "apps/v1",
            "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:replicas": {} } } })
        );
    }

    #[test]
    fn a_count_that_nobody_owns_stays_so() {
        let before = json!([entry("a", "Update", json!({ "f:spec": {} }))]);
        assert_eq!(settled(before.clone(), 1, 2), before);
    }

    #[test]
    fn an_applier_that_loses_nothing_is_not_touched() {
        let before = json!([entry("a", "Apply", json!({ "f:spec": { "f:replicas": {} } }))]);
        assert_eq!(settled(before.clone(), 2, 2), before);
    }
}
