//! Who owns a count that is written through the `scale` subresource.
//!
//! A Scale has owners of its own, made from those of the object and turned back into them. Upstream
//! loses some on the way, and so do we: an updater that keeps the count gets it in an entry by
//! itself, which the next scaling drops, and nobody is noted for a count that had no owner.
//! Counterpart: `managedfields.ScaleHandler`.

use serde_json::Value;

use super::managed::{Managed, Operation, Owner};
use super::set::{Set, field_step};
use super::{Manager, entries, store};

/// Moves the ownership of the count at `pointer` in an object that was `old` before the scaling.
pub fn track_scale(old: &Value, new: &mut Value, pointer: &str, manager: &Manager) {
    let Some(mut managed) = Managed::decode(entries(old)) else { return };
    let steps: Vec<String> = pointer.split('/').skip(1).map(field_step).collect();
    let count = Set::of_path(&steps.iter().map(String::as_str).collect::<Vec<_>>());
    let owns = |owner: &Owner| !owner.set.intersection(&count).is_empty();
    forget_doubles(&mut managed, owns);
    if managed.0.iter().any(owns) {
        let at = |object: &Value| object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        match at(new) {
            same if same == at(old) => split_updaters(&mut managed, owns, &count),
            replicas => {
                for owner in &mut managed.0 {
                    owner.set = owner.set.difference(&count);
                }
                // A Scale does not show a count of zero, so nobody owns that.
                if replicas != 0 {
                    let before = managed.find(manager, Operation::Update);
                    let before = before.map(|owner| owner.set.clone()).unwrap_or_default();
                    managed.set(manager, Operation::Update, before.union(count));
                    managed.touch(manager, Operation::Update);
                }
            }
        }
        managed.0.retain(|owner| !owner.set.is_empty());
    }
    store(new, managed);
}

/// Of two entries of one manager only the one without the count is seen.
fn forget_doubles(managed: &mut Managed, owns: impl Fn(&Owner) -> bool) {
    let all = managed.0.clone();
    let same = |a: &Owner, b: &Owner| {
        (&a.manager, a.operation, &a.subresource) == (&b.manager, b.operation, &b.subresource)
            && (a.operation == Operation::Apply || a.api_version == b.api_version)
    };
    managed.0.retain(|owner| {
        !owns(owner) || !all.iter().any(|other| same(owner, other) && !owns(other))
    });
}

fn split_updaters(managed: &mut Managed, owns: impl Fn(&Owner) -> bool, count: &Set) {
    let mut alone = Vec::new();
    for owner in &mut managed.0 {
        if owner.operation == Operation::Update && owns(owner) {
            alone.push(Owner { set: count.clone(), ..owner.clone() });
            owner.set = owner.set.difference(count);
        }
    }
    managed.0.append(&mut alone);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(replicas: i64, owners: &[(&str, &str, Value)]) -> Value {
        let managed: Vec<Value> = owners
            .iter()
            .map(|(manager, operation, fields)| {
                json!({"manager": manager, "operation": operation, "apiVersion": "apps/v1", "fieldsType": "FieldsV1", "fieldsV1": fields})
            })
            .collect();
        json!({"metadata": {"managedFields": managed}, "spec": {"replicas": replicas}})
    }

    fn scaled(old: &Value, replicas: i64) -> Vec<(String, bool)> {
        let mut new = old.clone();
        new["spec"]["replicas"] = replicas.into();
        let manager = Manager {
            name: "two".to_owned(),
            api_version: "apps/v1".to_owned(),
            subresource: "scale".to_owned(),
            time: String::new(),
        };
        track_scale(old, &mut new, "/spec/replicas", &manager);
        let owned = |entry: &Value| entry.pointer("/fieldsV1/f:spec/f:replicas").is_some();
        entries(&new)
            .iter()
            .map(|entry| (entry["manager"].as_str().unwrap_or("").to_owned(), owned(entry)))
            .collect()
    }

    #[test]
    fn a_changed_count_is_the_scalers_unless_it_is_zero() {
        let both = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let old = object(3, &[("one", "Update", both)]);
        let yes = |manager: &str, owns| (manager.to_owned(), owns);
        assert_eq!(scaled(&old, 5), [yes("one", false), yes("two", true)]);
        assert_eq!(scaled(&old, 0), [yes("one", false)]);
    }

    #[test]
    fn the_same_count_leaves_an_updater_with_two_entries_and_then_with_one() {
        let both = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let old = object(3, &[("one", "Update", both.clone())]);
        let yes = |manager: &str, owns| (manager.to_owned(), owns);
        assert_eq!(scaled(&old, 3), [yes("one", false), yes("one", true)]);
        let (rest, count) =
            (json!({"f:spec": {"f:paused": {}}}), json!({"f:spec": {"f:replicas": {}}}));
        let old = object(3, &[("one", "Update", rest), ("one", "Update", count)]);
        assert_eq!(scaled(&old, 5), [yes("one", false)]);
        let applied = object(3, &[("one", "Apply", both)]);
        assert_eq!(scaled(&applied, 3), [yes("one", true)]);
    }
}
