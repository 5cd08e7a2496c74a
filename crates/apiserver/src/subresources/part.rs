//! Subresources that let a client change one part of an object and nothing else.
//!
//! Table of (subresource, part): everything outside of the part stays as it was. Counterparts: `EphemeralContainersREST`,
//! `ResizeREST`, `ApprovalREST`, `FinalizeREST`. Invariant: a write through one of these never changes what the table
//! does not name.

use serde_json::{Value, json};

/// Where the changeable part is.
enum Part {
    /// The value at a JSON pointer.
    At(&'static str),
    /// The resources and resize policy of each container, by name.
    ContainerResources,
}

const PARTS: &[(&str, Part)] = &[
    ("approval", Part::At("/status/conditions")),
    ("ephemeralcontainers", Part::At("/spec/ephemeralContainers")),
    ("finalize", Part::At("/spec/finalizers")),
    ("resize", Part::ContainerResources),
];

/// Whether the subresource has such a rule.
pub fn is_part(subresource: &str) -> bool {
    PARTS.iter().any(|(name, _)| *name == subresource)
}

/// The old object with the part taken from the new one.
pub fn take(subresource: &str, object: &mut Value, old: &Value) {
    let Some((_, part)) = PARTS.iter().find(|(name, _)| *name == subresource) else { return };
    let asked = std::mem::replace(object, old.clone());
    object["metadata"] = asked["metadata"].clone();
    match part {
        Part::At(pointer) => match asked.pointer(pointer) {
            Some(value) => super::scale::set_at(object, pointer, value.clone()),
            None => remove_at(object, pointer),
        },
        Part::ContainerResources => take_resources(object, &asked),
    }
}

fn take_resources(object: &mut Value, asked: &Value) {
    for list in ["containers", "initContainers"] {
        let containers = object["spec"].get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let wanted = asked["spec"][list].as_array().into_iter().flatten();
            let wanted = wanted.into_iter().find(|wanted| wanted["name"] == container["name"]);
            if let Some(wanted) = wanted {
                container["resources"] = wanted.get("resources").cloned().unwrap_or(json!({}));
            }
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
