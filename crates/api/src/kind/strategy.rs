//! What sets a kind apart: the hooks by which a kind's file changes what happens to its objects.
//!
//! Objects on their way in or out -> the same, as this kind wants them, or its faults. Counterparts:
//! `rest.RESTCreateStrategy`, `rest.RESTUpdateStrategy`, `rest.TableConvertor`, written once per kind upstream.
//! Invariant: pure; what a hook needs is in its arguments.

use serde_json::Value;

use super::{GroupVersion, KindDef};
use crate::alike::alike;
use crate::field::ErrorList;
use crate::meta::meta_mut;

/// The hooks of a kind, called by the one request path in the order listed here.
///
/// Every method has a default that fits a plain kind, so a kind's file says only what is special.
/// Objects are complete JSON objects of the kind's storage version, already checked against the schema for JSON
/// types, and pruned. Counterpart: `rest.RESTCreateStrategy`, `rest.RESTUpdateStrategy`, `rest.TableConvertor`.
pub trait Strategy: Send + Sync {
    /// Defaults that depend on other fields or that are no static fact. Runs after the static
    /// defaults, on create, update and on read of objects stored by an older release.
    fn default(&self, _object: &mut Value) {}

    /// The pointer to the PodSpec of the Pods that the kind is, or has made of a template.
    fn pod_spec(&self) -> Option<&'static str> {
        None
    }

    /// Clears what a client may not set on create (status), sets what the server sets.
    /// The default drops `status` if the kind has a status subresource.
    fn prepare_for_create(&self, kind: &KindDef, object: &mut Value) {
        if kind.subresource("status").is_some() {
            remove(object, "status");
        }
    }

    /// Keeps what an update of the main resource may not change (status).
    fn prepare_for_update(&self, kind: &KindDef, object: &mut Value, old: &Value) {
        if kind.subresource("status").is_some() {
            keep(object, old, "status");
        }
    }

    /// Keeps everything but status (and the metadata that status updates may change).
    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
    }

    /// Fields that a write of the object resets, and so never owns.
    fn resets(&self, kind: &KindDef) -> FieldPaths {
        match kind.subresource("status") {
            Some(_) => &[&["f:status"]],
            None => &[],
        }
    }

    /// Fields that a write of the status resets, and so never owns.
    fn status_resets(&self) -> FieldPaths {
        &[&["f:spec"]]
    }

    /// Subresources that no Tables are made of: orders that are not kept, and some parts of objects.
    fn without_tables(&self) -> &'static [&'static str] {
        &[]
    }

    /// What a change through another subresource that writes one part brings along.
    fn prepare_for_part_update(&self, _part: &str, _object: &mut Value, _old: &Value) {}

    /// Whether `metadata.generation` counts changes of this kind, and whether the objects differ in
    /// what counts: by default everything outside of metadata and status, for kinds with a status.
    fn generation_changes(&self, kind: &KindDef, object: &Value, old: &Value) -> bool {
        let same = if self.counts_empties() { Value::eq } else { alike };
        self.counts_generation(kind) && differ_outside_status(object, old, same)
    }

    /// Whether generation starts at 1 on create.
    fn counts_generation(&self, kind: &KindDef) -> bool {
        COUNTED.iter().any(|(group, name)| *name == kind.kind && *group == kind.group)
    }

    /// Faults of an object, apart from metadata, which is validated for every kind.
    fn validate(&self, _object: &Value, _errors: &mut ErrorList) {}

    /// Faults of a change: those of the new object, in upstream's order among those of the change.
    fn validate_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
    }

    /// Faults of a change through the status subresource (instead of the two above).
    fn validate_status_update(&self, _object: &Value, _old: &Value, _errors: &mut ErrorList) {}

    /// Faults of a create or change that are none in a namespace marked for administrators of devices.
    fn admin_faults(&self, _object: &Value, _old: Option<&Value>) -> ErrorList {
        ErrorList::default()
    }

    /// Annotations that are no metadata to upstream: views of the metadata alone do not show them.
    fn metadata_hides(&self) -> &'static [&'static str] {
        &[]
    }

    /// What an object gets once it has been found good.
    fn canonicalize(&self, _object: &mut Value) {}

    /// Faults of a change through another subresource, which changes one part of the object.
    fn validate_part_update(
        &self,
        _part: &str,
        object: &Value,
        _old: &Value,
        errors: &mut ErrorList,
    ) {
        self.validate(object, errors);
    }

    /// Texts of `Warning:` headers for a change through the status subresource.
    fn status_warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Texts of `Warning:` headers that a create gets even if it fails: about what preparation is
    /// going to rewrite.
    fn warnings_before_create(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Texts of `Warning:` headers for a create or update.
    fn warnings(&self, _object: &Value, _old: Option<&Value>) -> Vec<String> {
        Vec::new()
    }

    /// The rule for `metadata.name`.
    fn name_rule(&self) -> NameRule {
        NameRule::DnsSubdomain
    }

    /// A PUT to a name that does not exist creates it (Events, Leases, ... as upstream).
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// Whether a new object's metadata is looked at only where nothing else is wrong with it.
    fn checks_metadata_last(&self) -> bool {
        false
    }

    /// Whether the validation of a new object depends on which lists and maps were given empty.
    fn tells_empty_from_absent(&self) -> bool {
        false
    }

    /// Whether defaults leave alone what was given empty.
    fn defaults_keep_empties(&self) -> bool {
        false
    }

    /// Whether a change between an empty list or map and none counts as one of the generation.
    fn counts_empties(&self) -> bool {
        false
    }

    /// An update without a resourceVersion is accepted and overwrites.
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// The grace period in seconds of a deletion that asks for none; `None`: deleted at once.
    /// `requested` is what DeleteOptions say. Pods are the one kind with grace.
    fn grace_period(&self, _object: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }

    /// Field selector keys beside `metadata.name` and `metadata.namespace`, with the JSON pointer
    /// of each.
    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[]
    }

    /// Rows of a Table end with the object's age under no column.
    fn ends_with_age(&self) -> bool {
        false
    }

    /// The cell of a Table row under the column with this name; `now` is Unix seconds.
    /// Name, Age and Created At are filled in for every kind and never asked for.
    fn cell(&self, _object: &Value, _column: &str, _now: i64) -> Value {
        Value::Null
    }

    /// Turns a stored object into another served version of the same kind.
    fn convert(&self, _object: &mut Value, _to: &GroupVersion) -> Result<(), String> {
        Ok(())
    }
}

/// Fields of an object, each by the steps that lead to it in a field set.
pub type FieldPaths = &'static [&'static [&'static str]];

/// What status updates reset that leave the metadata as it was, or say so.
pub const META_AND_SPEC: FieldPaths = &[&["f:metadata"], &["f:spec"]];

/// The built-in kinds whose changes `metadata.generation` counts, by group.
const COUNTED: &[(&str, &str)] = &[
    ("", "Pod"),
    ("", "PodTemplate"),
    ("", "ReplicationController"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "MutatingWebhookConfiguration"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
    ("admissionregistration.k8s.io", "ValidatingAdmissionPolicyBinding"),
    ("admissionregistration.k8s.io", "ValidatingWebhookConfiguration"),
    ("apiextensions.k8s.io", "CustomResourceDefinition"),
    ("apps", "DaemonSet"),
    ("apps", "Deployment"),
    ("apps", "ReplicaSet"),
    ("apps", "StatefulSet"),
    ("batch", "CronJob"),
    ("batch", "Job"),
    ("discovery.k8s.io", "EndpointSlice"),
    ("flowcontrol.apiserver.k8s.io", "FlowSchema"),
    ("flowcontrol.apiserver.k8s.io", "PriorityLevelConfiguration"),
    ("networking.k8s.io", "Ingress"),
    ("networking.k8s.io", "IngressClass"),
    ("networking.k8s.io", "NetworkPolicy"),
    ("policy", "PodDisruptionBudget"),
    ("resource.k8s.io", "DeviceClass"),
    ("resource.k8s.io", "ResourceSlice"),
    ("scheduling.k8s.io", "PriorityClass"),
];

/// How names of a kind are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameRule {
    DnsSubdomain,
    DnsLabel,
    /// DNS-1035: starts with a letter.
    Dns1035Label,
    /// Any text that can be one path segment (RBAC).
    PathSegment,
    /// A colon-separated list of path segments is fine as well (CSRs, API services validate their own).
    Custom,
}

// === the plain strategy's parts ===

fn remove(object: &mut Value, field: &str) {
    if let Some(map) = object.as_object_mut() {
        map.remove(field);
    }
}

/// Makes `field` of `object` what it was in `old`.
pub fn keep(object: &mut Value, old: &Value, field: &str) {
    let Some(map) = object.as_object_mut() else { return };
    match old.get(field) {
        Some(value) => map.insert(field.to_owned(), value.clone()),
        None => map.remove(field),
    };
}

/// What a change through the status subresource leaves alone.
pub fn keep_all_but_status(object: &mut Value, old: &Value) {
    let (Some(new), Some(was)) = (object.as_object_mut(), old.as_object()) else { return };
    let own = |name: &str| matches!(name, "status" | "metadata" | "apiVersion" | "kind");
    new.retain(|name, _| own(name));
    for (name, value) in was.iter().filter(|(name, _)| !own(name)) {
        new.insert(name.clone(), value.clone());
    }
}

/// The metadata that some kinds do not let a status update change.
pub const SETTLED_META: &[&str] =
    &["annotations", "deletionTimestamp", "finalizers", "generation", "labels", "ownerReferences"];

/// Gives `fields` of the metadata back what they were.
pub fn keep_meta(object: &mut Value, old: &Value, fields: &[&str]) {
    let Some(metadata) = meta_mut(object) else { return };
    for field in fields {
        match old["metadata"].get(field) {
            Some(value) => drop(metadata.insert((*field).to_owned(), value.clone())),
            None => drop(metadata.remove(*field)),
        }
    }
}

fn differ_outside_status(object: &Value, old: &Value, same: fn(&Value, &Value) -> bool) -> bool {
    let (Some(new), Some(was)) = (object.as_object(), old.as_object()) else { return false };
    let counted = |name: &str| !matches!(name, "status" | "metadata" | "apiVersion" | "kind");
    let differs = |name: &str| !same(&object[name], &old[name]);
    let gone = was.keys().filter(|name| !new.contains_key(name.as_str()));
    new.keys().chain(gone).any(|name| counted(name) && differs(name))
}
