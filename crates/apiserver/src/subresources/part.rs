//! Subresources that let a client change one part of an object and nothing else.
//!
//! Table of (subresource, part): everything outside of the part stays as it was. Counterparts: `EphemeralContainersREST`,
//! `ResizeREST`, `ApprovalREST`, `FinalizeREST`. Invariant: a write through one of these never changes what the table
//! does not name.

use serde_json::Value;
use skiff_api::kind::keep;

/// Where the changeable part is.
enum Part {
    /// The value at a JSON pointer.
    At(&'static str),
    /// What a Pod and its containers ask for, and how they are resized.
    Resources,
}

const PARTS: &[(&str, Part)] = &[
    ("approval", Part::At("/status/conditions")),
    ("ephemeralcontainers", Part::At("/spec/ephemeralContainers")),
    ("finalize", Part::At("/spec/finalizers")),
    ("resize", Part::Resources),
];

/// Parts of Pods: these leave the metadata alone too.
const OF_PODS: &[&str] = &["ephemeralcontainers", "resize"];
const KEPT_META: &[&str] = &[
    "labels",
    "annotations",
    "finalizers",
    "ownerReferences",
    "generation",
    "deletionTimestamp",
    "selfLink",
];

/// Whether the subresource has such a rule.
pub fn is_part(subresource: &str) -> bool {
    PARTS.iter().any(|(name, _)| *name == subresource)
}

/// The old object with the part taken from the new one.
pub fn take(subresource: &str, object: &mut Value, old: &Value) {
    let Some((_, part)) = PARTS.iter().find(|(name, _)| *name == subresource) else { return };
    if matches!(part, Part::Resources) && !has_same_containers(object, old) {
        // Left as it is, for validation to say what is wrong.
        return;
    }
    let asked = std::mem::replace(object, old.clone());
    object["metadata"] = asked["metadata"].clone();
    if OF_PODS.contains(&subresource) {
        KEPT_META.iter().for_each(|field| keep(&mut object["metadata"], &old["metadata"], field));
    }
    match part {
        Part::At(pointer) => match asked.pointer(pointer) {
            Some(value) => super::scale::set_at(object, pointer, value.clone()),
            None => remove_at(object, pointer),
        },
        Part::Resources => take_resources(object, &asked),
    }
}

const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

fn has_same_containers(object: &Value, old: &Value) -> bool {
    let names = |pod: &Value, list: &str| -> Vec<Value> {
        let containers = pod["spec"][list].as_array().into_iter().flatten();
        containers.map(|container| container["name"].clone()).collect()
    };
    CONTAINERS.iter().all(|list| names(object, list) == names(old, list))
}

fn take_resources(object: &mut Value, asked: &Value) {
    keep(&mut object["spec"], &asked["spec"], "resources");
    for list in CONTAINERS {
        let wanted = asked["spec"][list].as_array().into_iter().flatten();
        let containers = object["spec"].get_mut(list).and_then(Value::as_array_mut);
        for (container, wanted) in containers.into_iter().flatten().zip(wanted) {
            ["resources", "resizePolicy"].iter().for_each(|field| keep(container, wanted, field));
        }
    }
}

fn remove_at(object: &mut Value, pointer: &str) {
    let Some((parent, field)) = pointer.rsplit_once('/') else { return };
    if let Some(map) = object.pointer_mut(parent).and_then(Value::as_object_mut) {
        map.remove(field);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_part_changes() {
        let old = json!({ "metadata": { "name": "x" }, "spec": { "a": 1, "finalizers": ["kubernetes"] } });
        let mut new = json!({ "metadata": { "name": "x" }, "spec": { "a": 2 } });
        take("finalize", &mut new, &old);
        assert_eq!(new["spec"], json!({ "a": 1 }));
        let mut pod = json!({ "metadata": {}, "spec": { "containers": [{ "name": "c", "image": "new", "resources": { "limits": { "cpu": "1" } } }] } });
        let was = json!({ "metadata": {}, "spec": { "containers": [{ "name": "c", "image": "old", "resources": {} }] } });
        take("resize", &mut pod, &was);
        assert_eq!(pod["spec"]["containers"][0]["image"], "old");
        assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["cpu"], "1");
    }
}
