//! What can be wrong with `metadata`, for every kind alike.
//!
//! Counterparts: `ValidateObjectMeta` and `ValidateObjectMetaUpdate`, and what the kinds of upstream's
//! own groups add to them. Differs from upstream: the request path calls these for every kind,
//! instead of each kind's validation calling them.

use serde_json::{Map, Value, json};

use super::{dns_label, label_key, label_value, object_name, qualified_name};
use crate::field::{ErrorList, Path};
use crate::kind::{KindDef, NameRule};
use crate::meta::{meta, meta_mut};

const ANNOTATIONS_MAX: usize = 256 * 1024;
const STANDARD_FINALIZERS: &[&str] = &["kubernetes", "orphan", "foregroundDeletion"];

/// What no update changes. Names and uids are text, which is empty where it is absent.
const FIXED: &[(&str, bool)] = &[
    ("name", true),
    ("uid", true),
    ("creationTimestamp", false),
    ("deletionTimestamp", false),
    ("deletionGracePeriodSeconds", false),
];

/// The groups whose kinds take any finalizer that is a qualified name.
const ANY_FINALIZER: &[&str] = &[
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "apiregistration.k8s.io",
    "node.k8s.io",
];

/// What a kind holds the metadata of a changed object against, after the generic layer did.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// The rules of new objects.
    New,
    /// The rules of changes.
    Change,
}

const AS_NEW: &[Pass] = &[Pass::New];
const NEW_FIRST: &[Pass] = &[Pass::New, Pass::Change];
const NEW_LAST: &[Pass] = &[Pass::Change, Pass::New];

/// The kinds that do not just hold their updates against the rules of changes.
const PASSES: &[(&str, &str, &[Pass])] = &[
    ("", "ConfigMap", NEW_LAST),
    ("", "Endpoints", NEW_LAST),
    ("", "Event", &[]),
    ("", "LimitRange", AS_NEW),
    ("", "Node", NEW_FIRST),
    ("", "PersistentVolume", &[Pass::New, Pass::New]),
    ("", "PersistentVolumeClaim", NEW_LAST),
    ("", "Pod", NEW_LAST),
    ("", "Secret", NEW_LAST),
    ("", "ServiceAccount", NEW_LAST),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", AS_NEW),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", AS_NEW),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration", AS_NEW),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy", AS_NEW),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding", AS_NEW),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration", AS_NEW),
    ("apiregistration.k8s.io", "APIService", NEW_LAST),
    ("apps", "ControllerRevision", NEW_LAST),
    ("batch", "Job", NEW_FIRST),
    ("certificates.k8s.io", "CertificateSigningRequest", NEW_FIRST),
    ("discovery.k8s.io", "EndpointSlice", AS_NEW),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema", AS_NEW),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration", AS_NEW),
    ("networking.k8s.io", "IPAddress", NEW_FIRST),
    ("networking.k8s.io", "Ingress", NEW_LAST),
    ("networking.k8s.io", "IngressClass", NEW_LAST),
    ("node.k8s.io", "RuntimeClass", NEW_FIRST),
    ("policy", "PodDisruptionBudget", &[]),
    ("rbac.authorization.k8s.io", "ClusterRole", NEW_FIRST),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding", NEW_FIRST),
    ("rbac.authorization.k8s.io", "Role", NEW_FIRST),
    ("rbac.authorization.k8s.io", "RoleBinding", NEW_FIRST),
    ("resource.k8s.io", "DeviceClass", NEW_FIRST),
    ("resource.k8s.io", "ResourceClaim", NEW_FIRST),
    ("resource.k8s.io", "ResourceClaimTemplate", NEW_FIRST),
    ("storage.k8s.io", "CSINode", AS_NEW),
    ("storage.k8s.io", "CSIStorageCapacity", NEW_FIRST),
    ("storage.k8s.io", "StorageClass", NEW_FIRST),
    ("storage.k8s.io", "VolumeAttachment", AS_NEW),
    ("storage.k8s.io", "VolumeAttributesClass", NEW_LAST),
];

fn passes(kind: &KindDef) -> &'static [Pass] {
    let listed =
        |row: &&(&str, &str, _)| !kind.custom && (row.0, row.1) == (&*kind.group, &*kind.kind);
    PASSES.iter().find(listed).map_or(&[Pass::Change], |row| row.2)
}

/// Drops owner references that say what an earlier one does; the uids of those, as a warning shows
/// them.
pub fn drop_repeated_owners(object: &mut Value) -> Vec<String> {
    let owners = meta_mut(object).and_then(|meta| meta.get_mut("ownerReferences"));
    let Some(owners) = owners.and_then(Value::as_array_mut) else { return Vec::new() };
    let mut kept: Vec<Value> = Vec::with_capacity(owners.len());
    let mut repeated = Vec::new();
    for owner in std::mem::take(owners) {
        match kept.contains(&owner) {
            true => repeated.push(text(&owner, "uid").to_owned()),
            false => kept.push(owner),
        }
    }
    *owners = kept;
    repeated
}

/// Faults of a new object's metadata.
pub fn validate_meta(kind: &KindDef, object: &Value, errors: &mut ErrorList) {
    let at = Path::new("metadata");
    names(kind.strategy.name_rule(), object, errors, &at);
    contents(kind.namespaced, object, errors, &at);
    standard_finalizers(kind, object, errors, &at);
}

/// Faults of the metadata, at `at`, of an object inside of another one: any name that fits into a
/// path will do, and so does none.
pub fn validate_embedded_meta(object: &Value, at: &Path<'_>, errors: &mut ErrorList) {
    let given = &object["metadata"];
    if !given.is_object() {
        return errors.invalid(at, given.clone(), "must be an object");
    }
    let mut object = json!({"metadata": given});
    if meta(&object).name().is_empty() {
        object["metadata"]["name"] = "any".into();
    }
    names(NameRule::PathSegment, &object, errors, at);
    contents(!meta(&object).namespace().is_empty(), &object, errors, at);
}

/// Faults of changed metadata, as upstream's generic layer finds them.
pub fn validate_meta_update(kind: &KindDef, object: &Value, old: &Value, errors: &mut ErrorList) {
    let at = Path::new("metadata");
    names(NameRule::PathSegment, object, errors, &at);
    contents(kind.namespaced, object, errors, &at);
    change(object, old, errors, &at);
}

/// Faults of changed metadata, as kinds look for them once more: a Status shows each again.
pub fn validate_kind_meta_update(
    kind: &KindDef,
    object: &Value,
    old: &Value,
    errors: &mut ErrorList,
) {
    let at = Path::new("metadata");
    for pass in passes(kind) {
        match pass {
            Pass::New => validate_meta(kind, object, errors),
            Pass::Change => {
                change(object, old, errors, &at);
                standard_finalizers(kind, object, errors, &at);
            }
        }
    }
}

/// All but the name, which kinds have rules of their own for.
fn contents(namespaced: bool, object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    namespace(namespaced, object, errors, at);
    let generation = meta(object).generation();
    if generation < 0 {
        let detail = "must be greater than or equal to 0";
        errors.invalid(&at.child("generation"), generation, detail);
    }
    what_anyone_may_set(object, errors, at);
    finalizers(object, errors, at);
}

fn change(object: &Value, old: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    if meta(old).deletion_timestamp().is_some() {
        new_finalizers(object, old, errors, at);
    }
    for (field, is_text) in FIXED {
        let of = |object: &Value| object.pointer(&format!("/metadata/{field}")).cloned();
        let (new, was) = (of(object), of(old));
        if new != was {
            let empty = if *is_text { json!("") } else { Value::Null };
            errors.invalid(&at.child(field), new.unwrap_or(empty), "field is immutable");
        }
    }
    what_anyone_may_set(object, errors, at);
}

fn what_anyone_may_set(object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    labels(object, errors, at);
    let annotations = object["metadata"]["annotations"].as_object();
    validate_annotations(annotations, errors, &at.child("annotations"));
    owner_references(object, errors, at);
    managers(object, errors, &at.child("managedFields"));
}

const LONGEST_MANAGER: usize = 128;
const LONGEST_SUBRESOURCE: usize = 256;

/// Malformed entries never get here; what is well-formed has bounds.
fn managers(object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let entries = object["metadata"]["managedFields"].as_array();
    for (index, entry) in entries.into_iter().flatten().enumerate() {
        let place = at.index(index);
        for (field, longest) in [("manager", LONGEST_MANAGER), ("subresource", LONGEST_SUBRESOURCE)]
        {
            if text(entry, field).len() > longest {
                errors.too_long(&place.child(field), longest);
            }
        }
    }
}

fn names(rule: NameRule, object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let (name, prefix) = (meta(object).name(), meta(object).generate_name());
    if !prefix.is_empty() {
        for fault in object_name(rule, prefix, true) {
            errors.invalid(&at.child("generateName"), prefix, fault);
        }
    }
    if name.is_empty() {
        errors.required(&at.child("name"), "name or generateName is required");
    }
    for fault in object_name(rule, name, false) {
        if !name.is_empty() {
            errors.invalid(&at.child("name"), name, fault);
        }
    }
}

fn namespace(namespaced: bool, object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let name = meta(object).namespace();
    let place = at.child("namespace");
    match (namespaced, name.is_empty()) {
        (true, true) => errors.required(&place, ""),
        (true, false) => {
            dns_label(name).into_iter().for_each(|fault| errors.invalid(&place, name, fault));
        }
        (false, false) => errors.forbidden(&place, "not allowed on this type"),
        (false, true) => {}
    }
}

fn labels(object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let place = at.child("labels");
    for (key, value) in meta(object).labels().into_iter().flatten() {
        validate_label(key, value.as_str().unwrap_or_default(), errors, &place);
    }
}

/// Faults of one label, as `metadata.labels` and label selectors report them.
pub fn validate_label(key: &str, value: &str, errors: &mut ErrorList, at: &Path<'_>) {
    label_key(key).into_iter().for_each(|fault| errors.invalid(at, key, fault));
    label_value(value).into_iter().for_each(|fault| errors.invalid(at, value, fault));
}

/// Faults of annotations: their keys are held against the rule of labels, whatever their case.
pub fn validate_annotations(
    annotations: Option<&Map<String, Value>>,
    errors: &mut ErrorList,
    at: &Path<'_>,
) {
    let Some(annotations) = annotations else { return };
    for key in annotations.keys() {
        for fault in qualified_name(&key.to_lowercase()) {
            errors.invalid(at, key.as_str(), fault);
        }
    }
    if total_size(annotations) > ANNOTATIONS_MAX {
        errors.too_long(at, ANNOTATIONS_MAX);
    }
}

fn total_size(annotations: &Map<String, Value>) -> usize {
    let size = |(key, value): (&String, &Value)| key.len() + value.as_str().map_or(0, str::len);
    annotations.iter().map(size).sum()
}

fn owner_references(object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let place = at.child("ownerReferences");
    let owners = meta(object).owner_references();
    let mut controller: Option<String> = None;
    for owner in owners {
        owner_reference(owner, errors, &place);
        if owner["controller"] != true {
            continue;
        }
        let name = format!("{}/{}", text(owner, "kind"), text(owner, "name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                );
                errors.invalid(&place, owners.to_vec(), detail);
            }
        }
    }
}

fn owner_reference(owner: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let api_version = text(owner, "apiVersion");
    let version = match api_version.split('/').collect::<Vec<_>>()[..] {
        [version] | [_, version] => version,
        _ => "",
    };
    if version.is_empty() {
        errors.invalid(&at.child("apiVersion"), api_version, "version must not be empty");
    }
    for field in ["kind", "name", "uid"] {
        if text(owner, field).is_empty() {
            errors.invalid(&at.child(field), "", "must not be empty");
        }
    }
    if api_version == "v1" && text(owner, "kind") == "Event" {
        errors.invalid(at, owner.clone(), "/v1, Kind=Event is disallowed from being an owner");
    }
}

fn finalizers(object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let place = at.child("finalizers");
    for name in meta(object).finalizers() {
        qualified_name(name).into_iter().for_each(|fault| errors.invalid(&place, name, fault));
    }
    let has = |wanted: &str| meta(object).finalizers().any(|name| name == wanted);
    if has("orphan") && has("foregroundDeletion") {
        let list: Vec<&str> = meta(object).finalizers().collect();
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.invalid(&place, list, detail);
    }
}

/// A finalizer without a domain must be one of those that the system knows.
fn standard_finalizers(kind: &KindDef, object: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    if kind.custom || ANY_FINALIZER.contains(&kind.group.as_str()) {
        return;
    }
    let place = at.child("finalizers");
    for (index, name) in meta(object).finalizers().enumerate() {
        if !name.contains('/') && !STANDARD_FINALIZERS.contains(&name) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&place.index(index), name, detail);
        }
    }
}

fn new_finalizers(object: &Value, old: &Value, errors: &mut ErrorList, at: &Path<'_>) {
    let known: Vec<&str> = meta(old).finalizers().collect();
    let new: Vec<String> = meta(object)
        .finalizers()
        .filter(|name| !known.contains(name))
        .map(|name| format!("{name:?}"))
        .collect();
    if !new.is_empty() {
        let detail = format!(
            "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
            new.join(", ")
        );
        errors.forbidden(&at.child("finalizers"), detail);
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    fn faults(metadata: Value) -> Vec<String> {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "configmaps").expect("served");
        let mut errors = ErrorList::default();
        validate_meta(kind, &json!({"metadata": metadata}), &mut errors);
        errors.0.iter().map(|error| format!("{}: {}", error.field, error.body())).collect()
    }

    #[test]
    fn faults_of_new_objects() {
        assert!(
            faults(json!({"name": "a", "namespace": "n", "finalizers": ["orphan"]})).is_empty()
        );
        assert_eq!(
            faults(json!({"namespace": "n"})),
            ["metadata.name: Required value: name or generateName is required"]
        );
        let owner = json!([{"apiVersion": "v1", "kind": "Event", "name": "x"}]);
        let found = faults(json!({"name": "a", "namespace": "n", "ownerReferences": owner}));
        assert_eq!(
            found[0],
            r#"metadata.ownerReferences.uid: Invalid value: "": must not be empty"#
        );
        assert!(found[1].ends_with("/v1, Kind=Event is disallowed from being an owner"));
        let owner = json!([{"apiVersion": "a/b/c", "kind": "K", "name": "x", "uid": "u"}]);
        assert_eq!(
            faults(json!({"name": "a", "namespace": "n", "ownerReferences": owner})),
            [
                r#"metadata.ownerReferences.apiVersion: Invalid value: "a/b/c": version must not be empty"#
            ]
        );
        let found = faults(json!({"name": "a", "namespace": "n", "finalizers": ["plain"]}));
        assert_eq!(
            found,
            [
                r#"metadata.finalizers[0]: Invalid value: "plain": name is neither a standard finalizer name nor is it fully qualified"#
            ]
        );
    }

    #[test]
    fn managers_have_short_names() {
        let entry = json!({"manager": "m".repeat(129), "subresource": "s".repeat(257)});
        assert_eq!(
            faults(json!({"name": "a", "namespace": "n", "managedFields": [{}, entry]})),
            [
                "metadata.managedFields[1].manager: Too long: may not be more than 128 bytes",
                "metadata.managedFields[1].subresource: Too long: may not be more than 256 bytes",
            ]
        );
    }

    #[test]
    fn owners_are_named_once() {
        let owner = json!({"apiVersion": "v1", "kind": "K", "name": "a", "uid": "1"});
        let other = json!({"apiVersion": "v1", "kind": "K", "name": "b", "uid": "1"});
        let mut object = json!({"metadata": {"ownerReferences": [owner, other, owner]}});
        assert_eq!(drop_repeated_owners(&mut object), ["1"]);
        assert_eq!(object["metadata"]["ownerReferences"], json!([owner, other]));
    }

    #[test]
    fn some_kinds_check_a_change_as_if_it_were_new() {
        let kinds = kinds::builtin();
        let object = json!({"metadata": {"name": "a", "namespace": "n", "labels": {"b!": ""}}});
        for (group, resource, times) in [
            ("", "configmaps", 2),
            ("apps", "deployments", 1),
            ("discovery.k8s.io", "endpointslices", 1),
        ] {
            let kind = kinds.get(group, "v1", resource).expect("served");
            let mut errors = ErrorList::default();
            validate_kind_meta_update(kind, &object, &object, &mut errors);
            assert_eq!(errors.0.len(), times, "{resource}");
        }
    }

    #[test]
    fn a_bad_finalizer_shows_at_the_list_and_at_its_place() {
        let found = faults(json!({"name": "a", "namespace": "n", "finalizers": ["b!"]}));
        let fields: Vec<&str> =
            found.iter().map(|fault| fault.split(": ").next().unwrap_or_default()).collect();
        assert_eq!(fields, ["metadata.finalizers", "metadata.finalizers[0]"]);
    }

    #[test]
    fn faults_of_changes() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "namespaces").expect("served");
        let old = json!({"metadata": {"name": "a", "uid": "1", "deletionTimestamp": "x"}});
        let new = json!({"metadata": {"name": "a", "uid": "2", "finalizers": ["e.com/f"]}});
        let mut errors = ErrorList::default();
        validate_meta_update(kind, &new, &old, &mut errors);
        let fields: Vec<&str> = errors.0.iter().map(|error| error.field.as_str()).collect();
        assert_eq!(fields, ["metadata.finalizers", "metadata.uid", "metadata.deletionTimestamp"]);
        assert!(errors.0[0].detail.ends_with(r#"found new finalizers []string{"e.com/f"}"#));
    }
}
