//! What the kinds with a Pod template and a selector share: template cells and selector text.

use serde_json::Value;

use super::at::At;
use super::fill::{list, text};
use super::pod_spec::validate::Context;
use super::pod_spec::warnings::warn_pod;
use super::selectors::{is_everything, validate_label_selector};
use crate::field::{ErrorList, Path};
use crate::meta::meta;
use crate::validation::{dns_label, validate_annotations};

/// `Containers`, `Images` and `Pod Labels` of the template at a pointer.
pub fn template_cell(object: &Value, template: &str, column: &str) -> Value {
    let containers = list(object, &format!("{template}/spec/containers")).iter();
    match column {
        "Containers" => joined(containers.map(|container| text(container, "/name"))),
        "Images" => joined(containers.map(|container| text(container, "/image"))),
        "Pod Labels" => pairs(object.pointer(&format!("{template}/metadata/labels"))).into(),
        _ => Value::Null,
    }
}

/// The cells of a workload whose template stands at `/spec/template`.
pub fn workload_cell(object: &Value, column: &str) -> Value {
    match column {
        "Selector" => label_selector(object.pointer("/spec/selector")).into(),
        _ => template_cell(object, "/spec/template", column),
    }
}

/// A map as `a=b,c=d`, or `<none>`.
pub fn pairs(map: Option<&Value>) -> String {
    let Some(map) = map.and_then(Value::as_object).filter(|map| !map.is_empty()) else {
        return "<none>".to_owned();
    };
    let pairs: Vec<String> =
        map.iter().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or(""))).collect();
    pairs.join(",")
}

/// A LabelSelector as the command line shows it: `a=b,c in (d,e),!f`.
pub fn label_selector(selector: Option<&Value>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let mut terms: Vec<(String, String)> = Vec::new();
    if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
        for (key, value) in labels {
            terms.push((key.clone(), format!("{key}={}", value.as_str().unwrap_or(""))));
        }
    }
    for expression in list(selector, "/matchExpressions") {
        let key = text(expression, "/key").to_owned();
        let mut values: Vec<&str> =
            list(expression, "/values").iter().filter_map(Value::as_str).collect();
        values.sort_unstable();
        let values = values.join(",");
        let term = match text(expression, "/operator") {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            _ => format!("!{key}"),
        };
        terms.push((key, term));
    }
    terms.sort_by(|(one, _), (other, _)| one.cmp(other));
    match terms.is_empty() {
        true => "<none>".to_owned(),
        false => terms.into_iter().map(|(_, term)| term).collect::<Vec<_>>().join(","),
    }
}

fn joined<'a>(texts: impl Iterator<Item = &'a str>) -> Value {
    texts.collect::<Vec<_>>().join(",").into()
}

/// `spec.selector` may not change once given.
pub fn validate_selector_unchanged(object: &Value, old: &Value, errors: &mut ErrorList) {
    validate_unchanged(object, old, &["selector"], errors);
}

/// Fields of the spec that may not change.
pub fn validate_unchanged(object: &Value, old: &Value, fields: &[&str], errors: &mut ErrorList) {
    let (root, was) = (At::root(object), At::root(old));
    let (spec, was) = (root.child("spec"), was.child("spec"));
    for field in fields {
        spec.child(field).unchanged(errors, &was.child(field));
    }
}

/// `spec.selector`: there, well formed and not empty.
pub fn validate_workload_selector(spec: &At, kind: &str, errors: &mut ErrorList) {
    let selector = spec.child("selector");
    if !selector.is_set() {
        selector.required(errors, "");
        return;
    }
    validate_label_selector(&selector, errors);
    if is_everything(&selector) {
        selector.invalid(errors, format!("empty selector is invalid for {kind}"));
    }
}

/// Counters of a status: none negative, and none above the total. `ready` is how upstream calls
/// the count that the available ones are part of.
pub fn validate_counts(
    status: &At,
    counts: &[&str],
    capped: &[&str],
    ready: &str,
    errors: &mut ErrorList,
) {
    status.not_negative_each(errors, counts);
    let total = status.child("replicas").int();
    for field in capped {
        let count = status.child(field);
        if count.int() > total {
            count.invalid_as(errors, count.int(), "cannot be greater than status.replicas");
        }
    }
    let available = status.child("availableReplicas");
    if available.int() > status.child("readyReplicas").int() {
        let detail = format!("cannot be greater than {ready}");
        available.invalid_as(errors, available.int(), detail);
    }
}

/// Collisions of generated names are counted and never forgotten.
pub fn validate_collision_count(object: &Value, old: &Value, errors: &mut ErrorList) {
    let root = At::root(object);
    let (status, before) = (root.child("status"), old.pointer("/status/collisionCount"));
    let count = status.child("collisionCount");
    if before.and_then(Value::as_i64).is_some_and(|before| count.int() < before) {
        count.invalid_as(errors, count.int(), "cannot be decremented");
    }
}

/// The status of ReplicaSets and ReplicationControllers.
pub fn validate_replica_counts(status: &At, errors: &mut ErrorList) {
    const COUNTS: &[&str] = &[
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
        "terminatingReplicas",
    ];
    const CAPPED: &[&str] = &["fullyLabeledReplicas", "readyReplicas", "availableReplicas"];
    validate_counts(status, COUNTS, CAPPED, "readyReplicas", errors);
}

/// The metadata of an object that others are made of: labels and annotations, and nothing else.
pub fn validate_template_meta(meta: &At, errors: &mut ErrorList) {
    let annotations = meta.child("annotations");
    validate_annotations(annotations.map(), errors, &annotations.path);
    meta.child("labels").labels(errors);
    for (field, shown) in NOT_IN_TEMPLATES {
        let given = meta.child(field);
        if !matches!(given.value, Value::Null)
            && given.value != ""
            && given.value != &Value::from(0)
        {
            meta.child(shown).forbidden(errors, "cannot be set");
        }
    }
}

/// In upstream's order, and as it spells them.
const NOT_IN_TEMPLATES: &[(&str, &str)] = &[
    ("name", "name"),
    ("generateName", "generateName"),
    ("namespace", "namespace"),
    ("selfLink", "selfLink"),
    ("uid", "uID"),
    ("resourceVersion", "resourceVersion"),
    ("generation", "generation"),
    ("creationTimestamp", "creationTimestamp"),
    ("deletionTimestamp", "deletionTimestamp"),
    ("deletionGracePeriodSeconds", "deletionGracePeriodSeconds"),
    ("ownerReferences", "ownerReferences"),
    ("finalizers", "finalizers"),
    ("managedFields", "managedFields"),
];

/// A new object whose name becomes part of host names.
pub fn warn_name(name: &str, warnings: &mut Vec<String>) {
    let faults = dns_label(name);
    if !faults.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: [{}]",
            faults.join(" ")
        ));
    }
}

/// What there is to say of workloads whose names and templates are all that matters.
pub fn named_template_warnings(object: &Value, old: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if old.is_none() {
        warn_name(meta(object).name(), &mut warnings);
    }
    warnings.extend(template_warnings(object, old, "/spec/template"));
    warnings
}

/// Warnings about the template at a pointer; none where an update leaves the object's generation as it was, or the
/// template of an object that has none.
pub fn template_warnings(object: &Value, old: Option<&Value>, pointer: &str) -> Vec<String> {
    let template = object.pointer(pointer);
    let is_as_before = |old: &Value| match meta(old).generation() {
        0 => old.pointer(pointer) == template,
        generation => generation == meta(object).generation(),
    };
    if old.is_some_and(is_as_before) {
        return Vec::new();
    }
    let mut warnings = Vec::new();
    let place = pointer[1..].replace('/', ".");
    let at = At::new(template.unwrap_or(&Value::Null), Path::new(&place));
    warn_pod(&at.child("metadata"), &at.child("spec"), Context::Template, &mut warnings);
    warnings
}
