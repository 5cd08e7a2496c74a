//! Server-side apply, and the tracking of who set which field that it needs on every write.
//!
//! Live object + new object (or applied configuration) + manager -> object with `managedFields`, or
//! a conflict. Counterpart: `apimachinery/pkg/util/managedfields`. Differs from upstream: sets of
//! managers at another version of a kind are taken as they are, as every converted kind here keeps
//! its paths.

mod last_applied;
mod managed;
mod set;
mod typed;

use serde_json::{Map, Value, json};

pub use typed::{atomics, check, is_in_whole_list, merge};

use crate::codec::{self, Decoded, Target};
use crate::kind::KindDef;
use crate::kinds::legacy;
use crate::meta::{meta, meta_mut};
use crate::schema;
use crate::status::{Cause, Details, Reason, Status};

use managed::{Conflicts, Managed, Operation, Owner};
use set::Set;
use typed::Comparison;

const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// Who writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manager {
    pub name: String,
    /// The version the request speaks.
    pub api_version: String,
    /// `status` and so on; empty for the object itself.
    pub subresource: String,
    /// RFC 3339; empty leaves the time out.
    pub time: String,
}

/// Records a create (`old` is `None`), update or patch in the object's `managedFields`. To be called
/// with the object decoded and defaulted, before admission changes it.
pub fn track(kind: &KindDef, old: Option<&Value>, new: &mut Value, manager: &Manager) {
    let mut managed = claimed(kind, old, new, manager);
    clear(new);
    if managed.is_empty() && old.is_some() {
        return;
    }
    let changes = match old {
        Some(old) => changes(kind, old, new, manager),
        None => changes(kind, &blank(kind), new, manager),
    };
    // Upstream cannot tell the owners of an object with an entry that no key leads to, and then tells none.
    if changes.has_unkeyed() {
        return;
    }
    managed.record_update(changes, manager);
    managed.cap_updaters();
    store(new, managed);
}

/// Applies a configuration to a live object, or to nothing. The result still needs defaults.
/// Of what was decoded nothing is strict: a configuration is held to its schema before.
pub fn apply(
    kind: &KindDef,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Decoded, Status> {
    acceptable(kind, config)?;
    let applied = match apply_once(kind, live, config, manager, force) {
        Err(Conflicted(conflicts)) if last_applied::allows(kind, live, manager, &conflicts) => {
            apply_once(kind, live, config, manager, true)
        }
        other => other,
    };
    let mut object = applied.map_err(|Conflicted(conflicts)| conflict_status(conflicts))?;
    last_applied::follow(&mut object, config, manager);
    codec::decode_value(object, &Target::of(kind))
        .map_err(|fault| unconvertible(config, &fault.to_string()))
}

/// A configuration whose values do not fit into the kind.
fn unconvertible(config: &Value, fault: &str) -> Status {
    let (meta, of) = (meta(config), described_type(config));
    // Numbers are told about in other words here than where JSON is read.
    let fault = match fault.rsplit_once(" of type ") {
        Some((what, of)) if what.starts_with("json: cannot unmarshal number") => {
            format!("cannot convert float64 to {of}")
        }
        _ => fault.to_owned(),
    };
    let message = format!(
        "failed to convert new object ({}/{}; {of}) to proper version: unable to convert unstructured object to {of}: {fault}",
        meta.namespace(),
        meta.name()
    );
    Status::new(500, Reason::Unknown, message)
}

/// Reads the body of an apply request: JSON or YAML of exactly this kind, and the keys it repeats.
pub fn decode_config(body: &[u8], kind: &KindDef) -> Result<(Value, Vec<String>), Status> {
    let fault = |text: String| Status::bad_request(format!("error decoding YAML: {text}"));
    let (node, repeated) = codec::parse_yaml(body)
        .map_err(|error| fault(format!("error converting YAML to JSON: {error}")))?;
    let config = match node {
        codec::Node::Null => json!({}),
        codec::Node::Map(_) => node.into_value(),
        other => {
            let name = other.type_name();
            return Err(fault(format!(
                "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {name} into Go value of type map[string]interface {{}}"
            )));
        }
    };
    let text = |field| config.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("kind") != kind.kind || text("apiVersion") != kind.api_version() {
        let message = format!("invalid object type: {}", described_type(&config));
        return Err(Status::bad_request(message));
    }
    Ok((config, repeated))
}

/// What an object holds that a kind's schema does not declare, in the words of an apply that meets it.
pub fn undeclared(object: &Value, kind: &KindDef) -> Option<String> {
    joined(&typed::check(object, &kind.schema))
}

fn joined(faults: &[String]) -> Option<String> {
    match faults {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("errors:\n  {}", many.join("\n  "))),
    }
}

/// A write that changes nothing but the times of managers keeps the old times, so that the store
/// sees no change at all.
pub fn keep_times_if_unchanged(new: &mut Value, old: &Value) {
    if equal_but_for_managed(new, old) && without_times(entries(new)) == without_times(entries(old))
    {
        let kept = Value::Array(entries(old).to_vec());
        if let Some(meta) = meta_mut(new).filter(|meta| meta.contains_key("managedFields")) {
            meta.insert("managedFields".to_owned(), kept);
        }
    }
}

// === applying ===

/// Fields of others that an apply would take without force.
struct Conflicted(Vec<(Owner, Set)>);

/// What can be refused without looking at the live object.
fn acceptable(kind: &KindDef, config: &Value) -> Result<(), Status> {
    if config.pointer("/metadata/managedFields").is_some_and(|fields| !fields.is_null()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let Some(faults) = undeclared(config, kind) else { return Ok(()) };
    let (meta, of) = (meta(config), described_type(config));
    let message = format!(
        "failed to create typed patch object ({}/{}; {of}): {faults}",
        meta.namespace(),
        meta.name()
    );
    Err(Status::new(500, Reason::Unknown, message))
}

fn apply_once(
    kind: &KindDef,
    live: Option<&Value>,
    config: &Value,
    manager: &Manager,
    force: bool,
) -> Result<Value, Conflicted> {
    let mut live = live.cloned().unwrap_or_else(|| blank(kind));
    let mut managed = Managed::decode(entries(&live)).unwrap_or_default();
    clear(&mut live);
    if managed.is_empty() {
        let before = Manager { name: BEFORE_FIRST_APPLY.to_owned(), ..manager.clone() };
        managed.record_update(changes(kind, &blank(kind), &live, &before), &before);
    }
    let merged = typed::merge(&live, config, &kind.schema);
    let last = managed.find(manager, Operation::Apply).map(|owner| owner.set.clone());
    let ours = typed::fields(config, &kind.schema).without(&reset_fields(kind, manager));
    managed.set(manager, Operation::Apply, ours);
    let object = prune(merged, &managed, last.unwrap_or_default(), kind);

    let changes = changes(kind, &live, &object, manager);
    let keeps = |owner: &Owner| owner.is(manager, Operation::Apply);
    let conflicts = managed.conflicts(&changes, keeps);
    if !force && !conflicts.is_empty() {
        let owned = |Conflicts { owner, set }| (Owner::clone(owner), set);
        return Err(Conflicted(conflicts.into_iter().map(owned).collect()));
    }
    managed.take_away(&changes, keeps);
    if object != live {
        managed.touch(manager, Operation::Apply);
    }
    let mut object = object;
    store(&mut object, managed);
    Ok(object)
}

/// Removes what the manager applied last time, does not apply now, and nobody else owns.
fn prune(merged: Value, managed: &Managed, last: Set, kind: &KindDef) -> Value {
    if last.is_empty() {
        return merged;
    }
    let schema = &kind.schema;
    let named = |set: Set| typed::with_fields_on_the_way(set, schema);
    let without = |set: &Set| {
        let mut object = merged.clone();
        typed::remove(&mut object, set, schema);
        object
    };
    let last = named(last);
    let all = named(typed::fields(&merged, schema));
    let pruned = without(&last);
    let owned = managed.0.iter().fold(Set::default(), |sum, owner| sum.union(owner.set.clone()));
    let kept = named(typed::fields(&pruned, schema)).union(named(owned));
    let pruned = without(&all.clone().difference(&kept));
    // What was removed along without ever having been the manager's comes back.
    let gone = all.difference(&named(typed::fields(&pruned, schema)));
    without(&gone.intersection(&last))
}

fn conflict_status(conflicts: Vec<(Owner, Set)>) -> Status {
    let mut by_owner: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(owner, set)| (owner.described(), set.paths())).collect();
    by_owner.sort();
    let count: usize = by_owner.iter().map(|(_, paths)| paths.len()).sum();
    let message = match by_owner.as_slice() {
        [(owner, paths)] if count == 1 => {
            format!("Apply failed with 1 conflict: conflict with {owner}: {}", paths[0])
        }
        many => {
            let list = |(owner, paths): &(String, Vec<String>)| {
                format!("conflicts with {owner}:\n- {}", paths.join("\n- "))
            };
            let lists: Vec<String> = many.iter().map(list).collect();
            format!("Apply failed with {count} conflicts: {}", lists.join("\n"))
        }
    };
    let cause = |owner: &str, path: String| Cause {
        reason: "FieldManagerConflict".to_owned(),
        message: format!("conflict with {owner}"),
        field: path,
    };
    let causes = by_owner
        .into_iter()
        .flat_map(|(owner, paths)| paths.into_iter().map(move |path| cause(&owner, path)));
    let details = Details { causes: causes.collect(), ..Details::default() };
    Status::new(409, Reason::Conflict, message).with_details(details)
}

// === what both operations need ===

/// What a write changed, apart from what writes of this subresource cannot change.
fn changes(kind: &KindDef, old: &Value, new: &Value, manager: &Manager) -> Comparison {
    let found = typed::compare(old, new, &kind.schema);
    let reset = reset_fields(kind, manager);
    if reset.is_empty() {
        return found;
    }
    Comparison {
        added: found.added.without(&reset),
        modified: found.modified.without(&reset),
        removed: found.removed.without(&reset),
    }
}

/// Fields that a write of the subresource resets, and so never owns.
fn reset_fields(kind: &KindDef, manager: &Manager) -> Set {
    let paths = match manager.subresource.as_str() {
        "" => kind.strategy.resets(kind),
        "status" => kind.strategy.status_resets(),
        _ => &[],
    };
    paths.iter().fold(Set::default(), |set, path| set.union(Set::of_path(path)))
}

/// The object that a create starts from: what Go's zero value of the kind is written as.
fn blank(kind: &KindDef) -> Value {
    let mut object = json!({"apiVersion": kind.api_version(), "kind": kind.kind});
    match kind.custom {
        true => object["metadata"] = json!({}),
        false => codec::complete(&mut object, &kind.schema),
    }
    object
}

/// The entries a write starts from: those in the request, unless they are missing, malformed or not
/// the client's to set; `[]` and `[{}]` reset them.
fn claimed(kind: &KindDef, old: Option<&Value>, new: &Value, manager: &Manager) -> Managed {
    let live = || old.and_then(|old| Managed::decode(entries(old))).unwrap_or_default();
    if !manager.subresource.is_empty() {
        return live();
    }
    let given = new["metadata"]["managedFields"].as_array();
    match given.map(Vec::as_slice) {
        Some([]) => Managed::default(),
        Some([only]) if is_blank(only) => Managed::default(),
        Some(given) => match Managed::decode(given) {
            Some(mut managed) => {
                managed.0.retain(|owner| is_served(kind, &owner.api_version));
                managed
            }
            None => live(),
        },
        None => live(),
    }
}

/// Fields at a version that a built-in kind does not have belong to nobody.
fn is_served(kind: &KindDef, api_version: &str) -> bool {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    kind.custom
        || api_version == kind.api_version()
        || legacy::is_legacy(kind)
        || schema::resources().iter().any(|served| {
            served.group == group && served.version == version && served.kind == kind.kind
        })
}

fn is_blank(entry: &Value) -> bool {
    entry.as_object().is_some_and(Map::is_empty)
}

fn entries(object: &Value) -> &[Value] {
    object["metadata"]["managedFields"].as_array().map_or(&[], Vec::as_slice)
}

fn clear(object: &mut Value) {
    if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.remove("managedFields");
    }
}

fn store(object: &mut Value, managed: Managed) {
    if managed.is_empty() {
        return clear(object);
    }
    if let Some(meta) = meta_mut(object) {
        meta.insert("managedFields".to_owned(), managed.encode());
    }
}

fn equal_but_for_managed(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_object(), b.as_object()) else { return a == b };
    let same_meta = |a: &Value, b: &Value| {
        let own = |object: &Value| -> Option<Vec<(String, Value)>> {
            let fields = object.as_object()?.iter().filter(|(name, _)| *name != "managedFields");
            Some(fields.map(|(name, value)| (name.clone(), value.clone())).collect())
        };
        own(a) == own(b)
    };
    a.len() == b.len()
        && a.iter().all(|(name, value)| match (name.as_str(), b.get(name)) {
            (_, None) => false,
            ("metadata", Some(other)) => same_meta(value, other),
            (_, Some(other)) => value == other,
        })
}

fn without_times(entries: &[Value]) -> Vec<Value> {
    let mut entries = entries.to_vec();
    for entry in &mut entries {
        if let Some(map) = entry.as_object_mut() {
            map.remove("time");
        }
    }
    entries.sort_by_key(Value::to_string);
    entries
}

/// `apps/v1, Kind=Deployment`, and `/v1, Kind=Pod` for the core group.
fn described_type(object: &Value) -> String {
    let text = |field| object.get(field).and_then(Value::as_str).unwrap_or_default();
    let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
    format!("{group}/{version}, Kind={}", text("kind"))
}

#[cfg(test)]
mod tests;
