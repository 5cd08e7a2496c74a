//! What may change of a Pod's spec, and how: by an update, by adding containers to look inside, and
//! by a resize.
//!
//! Counterparts: `ValidatePodUpdate`, `ValidatePodEphemeralContainersUpdate`, `ValidatePodResize`.

use serde_json::{Map, Value, json};

use super::{MIRROR, qos_class};
use crate::diff::diff;
use crate::field::{ErrorList, Path};
use crate::kind::keep;
use crate::kinds::at::At;
use crate::kinds::fill::{int, list, object_at, text};
use crate::kinds::pod_spec::security::APPARMOR_PREFIX;
use crate::kinds::pod_spec::validate::validate_trimmed_image;
use crate::kinds::pod_spec::validate_tolerations;
use crate::meta::meta;

const ONLY_THESE_CHANGE: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Annotations that are decided when a Pod is made.
pub fn validate_annotation_change(annotations: &At, old: &At, errors: &mut ErrorList) {
    let settled = |key: &str| match key {
        MIRROR => Some("mirror pod annotation"),
        key if key.starts_with(APPARMOR_PREFIX) => Some("AppArmor annotations"),
        _ => None,
    };
    for (key, was) in old.entries() {
        let what = settled(key).filter(|_| annotations.child_key(key).value != was.value);
        if let Some(what) = what {
            let detail = format!("may not remove or update {what}");
            annotations.child_key(key).forbidden(errors, detail);
        }
    }
    for (key, at) in annotations.entries().filter(|(key, _)| !old.has(key)) {
        if let Some(what) = settled(key) {
            at.forbidden(errors, format!("may not add {what}"));
        }
    }
}

/// A Pod's spec is fixed but for a few fields, each with a rule of its own.
pub fn validate_spec_change(spec: &At, old: &At, errors: &mut ErrorList) {
    for field in ["containers", "initContainers"] {
        let (now, was) = (spec.child(field), old.child(field));
        if now.list().len() != was.list().len() {
            return now.forbidden(errors, "pod updates may not add or remove containers");
        }
        for container in now.items() {
            container.child("image").needed(errors);
            validate_trimmed_image(&container, errors);
        }
    }
    if !deadline_change(spec, old, errors) {
        return;
    }
    tolerations_only_grow(&spec.child("tolerations"), &old.child("tolerations"), errors);
    gates_only_shrink(&spec.child("schedulingGates"), &old.child("schedulingGates"), errors);
    let mut now = with_mutable_parts_of(old.value, spec.value);
    if !old.child("schedulingGates").is_empty() {
        narrowed(spec, old, &mut now, errors);
    }
    if now != *old.value {
        let change = diff("core.PodSpec", old.value, &now);
        spec.forbidden(errors, format!("{ONLY_THESE_CHANGE}\n{change}"));
    }
}

/// A deadline may be set or brought forward, never lifted. Says whether to go on.
fn deadline_change(spec: &At, old: &At, errors: &mut ErrorList) -> bool {
    let (deadline, was) = (spec.child("activeDeadlineSeconds"), old.child("activeDeadlineSeconds"));
    if !deadline.is_set() {
        if was.is_set() {
            deadline.invalid(errors, "must not update from a positive integer to nil value");
        }
        return true;
    }
    let before = errors.0.len();
    deadline.between(errors, 0..=i64::from(i32::MAX));
    if errors.0.len() == before && was.is_set() && deadline.int() > was.int() {
        deadline.invalid(errors, "must be less than or equal to previous value");
    }
    errors.0.len() == before
}

fn tolerations_only_grow(tolerations: &At, old: &At, errors: &mut ErrorList) {
    let same = |a: &Value, b: &Value| {
        ["key", "operator", "value", "effect"]
            .iter()
            .all(|field| text(a, &format!("/{field}")) == text(b, &format!("/{field}")))
    };
    for was in old.list() {
        if !tolerations.list().iter().any(|now| same(now, was)) {
            let detail = "existing toleration can not be modified except its tolerationSeconds";
            return tolerations.forbidden(errors, detail);
        }
    }
    validate_tolerations(tolerations, errors);
}

fn gates_only_shrink(gates: &At, old: &At, errors: &mut ErrorList) {
    for gate in gates.items().filter(|gate| !old.list().contains(gate.value)) {
        let name = gate.child("name");
        let detail =
            format!("only deletion is allowed, but found new scheduling gate '{}'", name.text());
        name.forbidden(errors, detail);
    }
}

/// The new spec with everything that may change set back to what it was.
fn with_mutable_parts_of(old: &Value, new: &Value) -> Value {
    let mut spec = new.clone();
    for field in ["containers", "initContainers"] {
        let images = list(old, &format!("/{field}")).iter().map(|container| container.get("image"));
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for (container, image) in containers.into_iter().flatten().zip(images) {
            container["image"] = image.cloned().unwrap_or_default();
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        keep(&mut spec, old, field);
    }
    let grace = |spec: &Value| int(spec, "/terminationGracePeriodSeconds").unwrap_or(0);
    if grace(old) < 0 && grace(new) == 1 {
        keep(&mut spec, old, "terminationGracePeriodSeconds");
    }
    spec
}

/// While a Pod is held back by gates, where it may run can still be narrowed.
fn narrowed(spec: &At, old: &At, now: &mut Value, errors: &mut ErrorList) {
    let (selector, was) = (spec.child("nodeSelector"), old.child("nodeSelector"));
    if was.entries().any(|(key, value)| selector.child_key(key).value != value.value) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        selector.invalid(errors, detail);
    }
    keep(now, old.value, "nodeSelector");
    let (affinity, was) = (spec.child("affinity"), old.child("affinity"));
    if affinity.child("nodeAffinity").value == was.child("nodeAffinity").value {
        return;
    }
    narrowed_affinity(&affinity.child("nodeAffinity"), &was.child("nodeAffinity"), errors);
    let other = |field: &str| affinity.has(field);
    if !was.is_set() && !other("podAffinity") && !other("podAntiAffinity") {
        keep(now, old.value, "affinity");
    } else {
        if !affinity.is_set() {
            now["affinity"] = json!({});
        }
        keep(&mut now["affinity"], was.value, "nodeAffinity");
    }
}

fn narrowed_affinity(affinity: &At, old: &At, errors: &mut ErrorList) {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let (required, was) = (affinity.child(required), old.child(required));
    let (terms, was) = (required.child("nodeSelectorTerms"), was.child("nodeSelectorTerms"));
    if !was.is_empty() && terms.list().len() != was.list().len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        return terms.invalid(errors, detail);
    }
    for (term, was) in terms.items().zip(was.list()) {
        if !only_adds(term.value, was) {
            term.invalid(errors, "only additions are allowed (no mutations or deletions)");
        }
    }
}

/// A term that selected nothing cannot select something either.
fn only_adds(term: &Value, old: &Value) -> bool {
    const PARTS: [&str; 2] = ["/matchExpressions", "/matchFields"];
    let empty = |term: &Value| PARTS.iter().all(|part| list(term, part).is_empty());
    let grew = |part: &&str| list(term, part).starts_with(list(old, part));
    empty(old) == empty(term) && PARTS.iter().all(grew)
}

// === containers to look inside ===

/// Containers may be added, and those added stay as they are.
pub fn validate_ephemeral_change(object: &Value, old: &Value, errors: &mut ErrorList) {
    if meta(old).annotation(MIRROR).is_some() {
        return only(errors, "static pods do not support ephemeral containers");
    }
    let root = At::root(object);
    let spec = root.child("spec");
    let containers = spec.child("ephemeralContainers");
    for was in list(old, "/spec/ephemeralContainers") {
        let name = text(was, "/name");
        match containers.list().iter().rev().find(|now| text(now, "/name") == name) {
            None => {
                let detail = format!("existing ephemeral containers {name:?} may not be removed\n");
                containers.forbidden(errors, detail);
            }
            Some(now) if now != was => {
                let change = diff("core.EphemeralContainer", was, now);
                let detail =
                    format!("existing ephemeral containers {name:?} may not be changed\n{change}");
                containers.forbidden(errors, detail);
            }
            Some(_) => {}
        }
    }
}

/// Some Pods cannot be changed so at all, whatever else is wrong.
fn only(errors: &mut ErrorList, detail: &str) {
    errors.0.clear();
    errors.forbidden(&Path::new(""), detail);
}

// === resize ===

const LISTS: [&str; 2] = ["containers", "initContainers"];
const ONLY_CPU_AND_MEMORY: &str = "only cpu and memory resources are mutable";

/// What a container asks for of processors and memory may change, within the class of service.
pub fn validate_resize(object: &Value, old: &Value, errors: &mut ErrorList) {
    if meta(old).annotation(MIRROR).is_some() {
        return only(errors, "static pods cannot be resized");
    }
    if text(old, "/spec/os/name") == "windows" {
        return only(errors, "windows pods cannot be resized");
    }
    let (root, was) = (At::root(object), At::root(old));
    let (spec, was) = (root.child("spec"), was.child("spec"));
    if qos_class(old) != qos_class(object) {
        let shown = text(object, "/status/qosClass");
        let detail = "Pod QOS Class may not change as a result of resizing";
        spec.invalid_as(errors, shown, detail);
    }
    if !node_can_resize(old) {
        spec.forbidden(errors, "Pod running on node without support for resize");
    }
    let mut now = spec.value.clone();
    pod_level(&spec, &was, &mut now, errors);
    if !same_containers(&spec, &was, errors) {
        return;
    }
    let before = errors.0.len();
    nothing_taken_away(&spec, &was, errors);
    only_cpu_and_memory(&spec, &was, &mut now, errors);
    if errors.0.len() == before && now != *was.value {
        spec.forbidden(errors, ONLY_CPU_AND_MEMORY);
    }
}

/// A node that resizes reports what its containers have.
fn node_can_resize(pod: &Value) -> bool {
    let running = |status: &&Value| status.pointer("/state/running").is_some();
    let first = list(pod, "/status/containerStatuses").iter().find(running);
    first.is_none_or(|status| status.get("resources").is_some())
}

fn pod_level(spec: &At, old: &At, now: &mut Value, errors: &mut ErrorList) {
    let (resources, was) = (spec.child("resources"), old.child("resources"));
    let given = |at: &At| ["requests", "limits"].iter().any(|side| !at.child(side).is_empty());
    if !given(&resources) && !given(&was) {
        return;
    }
    if was.is_set() && !resources.is_set() {
        return resources.forbidden(errors, "pod-level resources cannot be removed");
    }
    for (side, what) in [("requests", "requests"), ("limits", "limits")] {
        if taken_away(&resources.child(side), &was.child(side)) {
            let detail = format!("pod-level resource {what} cannot be removed");
            resources.child(side).forbidden(errors, detail);
        }
    }
    if let Some(holder) = object_at(now, "/resources") {
        set_back_cpu_and_memory(holder, was.value);
    }
    if !was.is_set() && now["resources"] == json!({}) {
        now.as_object_mut().map(|spec| spec.remove("resources"));
    }
    if now.get("resources") != old.value.get("resources") {
        let detail = "only cpu and memory resources are mutable at pod-level";
        spec.forbidden(errors, detail);
    }
}

fn same_containers(spec: &At, old: &At, errors: &mut ErrorList) -> bool {
    let before = errors.0.len();
    for field in LISTS {
        let (now, was) = (spec.child(field), old.child(field));
        if now.list().len() != was.list().len() {
            now.forbidden(errors, format!("{field} may not be added or removed on resize"));
            continue;
        }
        for (container, was) in now.items().zip(was.list()) {
            if container.text_of("name") != text(was, "/name") {
                let detail = format!("{field} may not be renamed or reordered on resize");
                container.child("name").forbidden(errors, detail);
            }
        }
    }
    errors.0.len() == before
}

fn is_sidecar(container: &Value) -> bool {
    text(container, "/restartPolicy") == "Always"
}

fn taken_away(now: &At, was: &At) -> bool {
    was.entries().any(|(name, _)| !now.has(name))
}

fn nothing_taken_away(spec: &At, old: &At, errors: &mut ErrorList) {
    for field in ["initContainers", "containers"] {
        let (now, was) = (spec.child(field), old.child(field));
        for (container, was) in now.items().zip(was.items()) {
            if field == "initContainers" && !is_sidecar(was.value) {
                continue;
            }
            let (resources, was) = (container.child("resources"), was.child("resources"));
            for side in ["requests", "limits"] {
                if taken_away(&resources.child(side), &was.child(side)) {
                    let detail = format!("resource {side} cannot be removed");
                    resources.child(side).forbidden(errors, detail);
                }
            }
        }
    }
}

fn only_cpu_and_memory(spec: &At, old: &At, now: &mut Value, errors: &mut ErrorList) {
    for field in LISTS {
        let containers = now.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten();
        let at = spec.child(field);
        for ((container, was), at) in containers.zip(old.child(field).list()).zip(at.items()) {
            let runs_on = field == "containers" || is_sidecar(was);
            if !runs_on && container != was {
                spec.forbidden(errors, "resources for non-sidecar init containers are immutable");
            }
            if !runs_on {
                continue;
            }
            if let Some(resources) = object_at(container, "/resources") {
                set_back_cpu_and_memory(resources, &was["resources"]);
                resources.remove("claims");
            }
            match field {
                _ if container == was => {}
                "containers" => spec.forbidden(errors, ONLY_CPU_AND_MEMORY),
                _ => at.forbidden(
                    errors,
                    "only cpu and memory resources for init or sidecar containers are mutable",
                ),
            }
        }
    }
}

fn set_back_cpu_and_memory(resources: &mut Map<String, Value>, old: &Value) {
    for side in ["requests", "limits"] {
        let was = old.get(side).cloned().unwrap_or_default();
        let mut amounts = resources.remove(side).unwrap_or_else(|| json!({}));
        for name in ["cpu", "memory"] {
            keep(&mut amounts, &was, name);
        }
        if amounts != json!({}) || !was.is_null() {
            resources.insert(side.to_owned(), amounts);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::{check_part, check_update};

    const PATH: &str = "v1/pods";

    #[test]
    fn of_a_spec_only_images_and_a_few_more_change() {
        let pod = |image: &str, more: &str| {
            format!("spec: {{containers: [{{name: c, image: \"{image}\"}}], {more}}}")
        };
        let old = pod("a:1", "activeDeadlineSeconds: 9");
        check_update(PATH, &old, &pod("b:1", "activeDeadlineSeconds: 5"), &[]);
        check_update(
            PATH,
            &old,
            &pod("a:1", "activeDeadlineSeconds: 10"),
            &[
                "spec.activeDeadlineSeconds: Invalid value: 10: must be less than or equal to previous value",
            ],
        );
        let change = "@@ -64,7 +64,7 @@\n   \"SELinuxChangePolicy\": null\n  },\n  \"ImagePullSecrets\": null,\n- \"Hostname\": \"\",\n+ \"Hostname\": \"h\",\n  \"Subdomain\": \"\",\n  \"SetHostnameAsFQDN\": null,\n  \"Affinity\": null,\n";
        let forbidden = format!("spec: Forbidden: {ONLY_THESE_CHANGE}\n{change}");
        check_update(
            PATH,
            &old,
            &pod("a:1", "activeDeadlineSeconds: 9, hostname: h"),
            &[&forbidden],
        );
    }

    #[test]
    fn containers_to_look_inside_stay() {
        let pod = |more: &str| format!("spec: {{containers: [{{name: c, image: i}}], {more}}}");
        check_part(
            PATH,
            "ephemeralcontainers",
            &pod("ephemeralContainers: [{name: e, image: i}]"),
            &pod("ephemeralContainers: []"),
            &[
                "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be removed\n",
            ],
        );
    }

    #[test]
    fn a_resize_keeps_the_class_of_service() {
        let pod = |resources: &str| {
            format!("spec: {{containers: [{{name: c, image: i, resources: {{{resources}}}}}]}}")
        };
        let old = pod("requests: {cpu: 1, memory: 1Gi}");
        check_part(PATH, "resize", &old, &pod("requests: {cpu: 2, memory: 1Gi}"), &[]);
        check_part(
            PATH,
            "resize",
            &old,
            &pod("requests: {cpu: 2}"),
            &[
                "spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
            ],
        );
        check_part(
            PATH,
            "resize",
            &old,
            &pod("limits: {cpu: 1, memory: 1Gi}"),
            &[
                "spec: Invalid value: \"Guaranteed\": Pod QOS Class may not change as a result of resizing",
            ],
        );
    }
}
