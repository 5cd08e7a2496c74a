//! PersistentVolumeClaim: defaults and Table cells.

use crate::diff::diff;
use crate::field::{ErrorList, Path};
use crate::kinds::at::{At, IMMUTABLE};
use crate::kinds::resources::{is_native, quantity, warn_fractional};
use crate::kinds::selectors::validate_label_selector;
use crate::kinds::workload::validate_template_meta;
use crate::meta::meta;
use crate::quantity::Quantity;
use crate::validation::{dns_label, dns_subdomain, qualified_name};
use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{Object, made_at, object_at, set, text};
use crate::kinds::volume::{access_modes, class_of, deleting_phase};

pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            set(spec, "volumeMode", "Filesystem");
        }
        if let Some(status) = made_at(object, "/status") {
            set(status, "phase", "Pending");
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            normalize_sources(spec, None);
        }
        object["status"] = json!({ "phase": "Pending" });
    }

    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "status");
        if let Some(spec) = object_at(object, "/spec") {
            normalize_sources(spec, old.get("spec"));
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_claim_spec(&At::root(object).child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        validate_change(&root, &old, errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        validate_status(&At::root(object).child("status"), errors);
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        let root = At::root(object);
        let mut warnings = beta_class_warning(&root);
        warn_claim_spec(&root.child("spec"), &mut warnings);
        warnings
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let bound = !text(object, "/spec/volumeName").is_empty();
        match column {
            "Status" => deleting_phase(object).into(),
            "Volume" => text(object, "/spec/volumeName").into(),
            "Capacity" if bound => match text(object, "/status/capacity/storage") {
                "" => "0".into(),
                capacity => capacity.into(),
            },
            "Access Modes" if bound => access_modes(object, "/status/accessModes").into(),
            "Capacity" | "Access Modes" => "".into(),
            "StorageClass" => class_of(object).into(),
            "VolumeAttributesClass" => {
                unset(text(object, "/spec/volumeAttributesClassName")).into()
            }
            "VolumeMode" => unset(text(object, "/spec/volumeMode")).into(),
            _ => Value::Null,
        }
    }
}

fn unset(value: &str) -> &str {
    if value.is_empty() { "<unset>" } else { value }
}

/// The older `dataSource` takes claims and snapshots alone, unless a newer client says otherwise;
/// either field says what the other does. A source in another namespace is not taken at all.
fn normalize_sources(spec: &mut Object, old: Option<&Value>) {
    let in_use = |field: &str| old.is_some_and(|old| old.get(field).is_some());
    let other_namespace =
        |source: &Value| source.pointer("/namespace").is_some_and(|name| name != "");
    if spec.get("dataSourceRef").is_some_and(other_namespace) && !in_use("dataSourceRef") {
        spec.remove("dataSourceRef");
    }
    let known = |source: &Value| {
        matches!(
            (text(source, "/apiGroup"), text(source, "/kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    let was_given = in_use("dataSource") || in_use("dataSourceRef");
    if !was_given
        && !spec.contains_key("dataSourceRef")
        && !spec.get("dataSource").is_some_and(known)
    {
        spec.remove("dataSource");
    }
    match (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned()) {
        (Some(source), None) => set(spec, "dataSourceRef", source),
        (None, Some(mut reference)) if !other_namespace(&reference) => {
            if let Some(reference) = reference.as_object_mut() {
                reference.remove("namespace");
            }
            set(spec, "dataSource", reference);
        }
        _ => {}
    }
}

// === validation ===

pub(super) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The spec of a claim, also of one that a StatefulSet or an ephemeral volume is a template for.
pub fn validate_claim_spec(spec: &At, errors: &mut ErrorList) {
    let modes = spec.child("accessModes");
    if modes.is_empty() {
        modes.required(errors, "at least 1 access mode is required");
    }
    validate_label_selector(&spec.child("selector"), errors);
    validate_access_modes(&modes, errors);
    let resources = spec.child("resources");
    let requests = resources.child("requests");
    let place = resources.path.key("storage");
    match requests.value.get("storage").and_then(quantity) {
        None => errors.required(&place, ""),
        Some(amount) if amount.is_zero() || amount.is_negative() => {
            errors.invalid(&place, amount.to_string(), "must be greater than zero");
        }
        Some(_) => {}
    }
    let class = spec.child("storageClassName");
    class.obeys_if_set(errors, dns_subdomain);
    spec.child("volumeMode").one_of_if_set(errors, &["Block", "Filesystem"]);
    validate_sources(spec, errors);
    spec.child("volumeAttributesClassName").obeys_if_set(errors, dns_subdomain);
}

pub(super) fn validate_access_modes(modes: &At, errors: &mut ErrorList) {
    for mode in modes.items() {
        if !ACCESS_MODES.contains(&mode.text()) {
            errors.not_supported(&modes.path, mode.text(), ACCESS_MODES);
        }
    }
    let held = |mode: &str| modes.list().iter().any(|held| held == mode);
    let others = ACCESS_MODES.iter().filter(|mode| **mode != "ReadWriteOncePod");
    if held("ReadWriteOncePod") && others.into_iter().any(|mode| held(mode)) {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The older `dataSource` repeats what `dataSourceRef` says.
fn validate_sources(spec: &At, errors: &mut ErrorList) {
    let (source, reference) = (spec.child("dataSource"), spec.child("dataSourceRef"));
    [&source, &reference].into_iter().for_each(|source| validate_data_source(source, errors));
    reference.child("namespace").obeys_if_set(errors, dns_label);
    if !source.is_set() || !reference.is_set() {
        return;
    }
    let same = || {
        let group = |of: &At| of.child("apiGroup").value.clone();
        group(&source) == group(&reference)
            && ["kind", "name"].iter().all(|f| source.text_of(f) == reference.text_of(f))
    };
    // Upstream shows a path as the bad value, which prints as nothing.
    if !reference.text_of("namespace").is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        errors.invalid_printed(&spec.path, "{}".to_owned(), detail);
    } else if !same() {
        errors.invalid_printed(&spec.path, "{}".to_owned(), "must match dataSourceRef");
    }
}

fn validate_data_source(source: &At, errors: &mut ErrorList) {
    if !source.is_set() {
        return;
    }
    source.child("name").needed(errors);
    source.child("kind").needed(errors);
    let (group, kind) = (source.child("apiGroup"), source.text_of("kind"));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        source.invalid_as(errors, kind, detail);
    }
    group.obeys_if_set(errors, dns_subdomain);
}

/// A claim that something else makes: only labels and annotations, and a spec.
pub fn validate_claim_template(template: &At, errors: &mut ErrorList) {
    validate_template_meta(&template.child("metadata"), errors);
    validate_claim_spec(&template.child("spec"), errors);
}

// === changes ===

const ONLY_THESE_CHANGE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// A bound claim may ask for more room, or for another class of attributes; everything else stays,
/// but for a volume or a class of storage that was not decided yet.
fn validate_change(root: &At, old: &At, errors: &mut ErrorList) {
    let (spec, was) = (root.child("spec"), old.child("spec"));
    let (mut now, mut before) = (spec.value.clone(), was.value.clone());
    if was.text_of("volumeName").is_empty() {
        keep(&mut before, &now, "volumeName");
    }
    beta_class_stays(root, old, errors);
    if class_is_decided(root, old) {
        keep(&mut now, &before, "storageClassName");
    }
    if root.child("status").text_of("phase") == "Bound" {
        keep(&mut now, &before, "volumeAttributesClassName");
        let size = before.pointer("/resources/requests/storage").cloned();
        if let (Some(requests), Some(size)) = (object_at(&mut now, "/resources/requests"), size) {
            requests.insert("storage".into(), size);
        }
    }
    if now != before {
        let change = diff("core.PersistentVolumeClaimSpec", &before, &now);
        spec.forbidden(errors, format!("{ONLY_THESE_CHANGE}\n{change}"));
    }
    validate_size_change(root, old, errors);
    let mode = At::new(spec.child("volumeMode").value, Path::new("volumeMode"));
    mode.unchanged(errors, &was.child("volumeMode"));
    let current = old.child("status").has("currentVolumeAttributesClassName");
    let class = spec.child("volumeAttributesClassName");
    if current && class.value != was.child("volumeAttributesClassName").value && class.is_empty() {
        let to = if class.is_set() { "empty string" } else { "nil" };
        let why = "is forbidden when status.currentVolumeAttributesClassName is not nil";
        class.forbidden(errors, format!("update to {to} {why}"));
    }
}

/// A claim may shrink again while the volume has not grown yet.
fn validate_size_change(root: &At, old: &At, errors: &mut ErrorList) {
    let size = |at: &At, pointer: &str| {
        at.value.pointer(pointer).and_then(quantity).unwrap_or(Quantity::from_units(0))
    };
    let request = |at: &At| size(at, "/spec/resources/requests/storage");
    if request(root) < request(old) && request(root) <= size(old, "/status/capacity/storage") {
        let (spec, detail) = (root.child("spec"), "field can not be less than status.capacity");
        let resources = spec.child("resources");
        resources.child("requests").child("storage").forbidden(errors, detail);
    }
}

fn beta_class_stays(root: &At, old: &At, errors: &mut ErrorList) {
    let class = |at: &At| meta(at.value).annotation(BETA_CLASS).unwrap_or_default().to_owned();
    if class(root) != class(old) && !class_is_upgraded(root, old) {
        let metadata = root.child("metadata");
        let annotations = metadata.path.child("annotations");
        errors.invalid(&annotations.key(BETA_CLASS), class(root), IMMUTABLE);
    }
}

/// The class that the annotation named is named by the field from now on.
fn class_is_upgraded(root: &At, old: &At) -> bool {
    let (now, was) =
        (meta(root.value).annotation(BETA_CLASS), meta(old.value).annotation(BETA_CLASS));
    let field =
        |at: &At| at.child("spec").child("storageClassName").value.as_str().map(str::to_owned);
    was.is_some()
        && field(old).is_none()
        && field(root).as_deref() == was
        && (now.is_none() || now == was)
}

/// A class is named where none was.
fn class_is_decided(root: &At, old: &At) -> bool {
    let was = meta(old.value).annotation(BETA_CLASS);
    let (spec, before) = (root.child("spec"), old.child("spec"));
    let class = spec.child("storageClassName");
    class.is_set()
        && !before.has("storageClassName")
        && was.is_none_or(|annotated| annotated == class.text())
}

// === status ===

const RESIZING: &[&str] = &[
    "ControllerResizeInProgress",
    "ControllerResizeInfeasible",
    "NodeResizePending",
    "NodeResizeInProgress",
    "NodeResizeInfeasible",
];

fn validate_status(status: &At, errors: &mut ErrorList) {
    status.child("capacity").entries().for_each(|(_, amount)| valid_amount(&amount, errors));
    let resizing = status.child("allocatedResourceStatuses");
    for (name, state) in resizing.entries() {
        resized_resource(name, &resizing, errors);
        if !RESIZING.contains(&state.text()) {
            let mut states = RESIZING.to_vec();
            states.sort_unstable();
            errors.not_supported(&resizing.path, name, &states);
        }
    }
    let allocated = status.child("allocatedResources");
    for (name, amount) in allocated.entries() {
        if resized_resource(name, &allocated, errors) {
            valid_amount(&amount, errors);
        }
    }
}

fn valid_amount(amount: &At, errors: &mut ErrorList) {
    if let Some(number) = quantity(amount.value).filter(|number| number.is_negative()) {
        amount.invalid_as(errors, number.units(), "must be a valid resource quantity");
    }
}

/// Of Kubernetes' own resources only storage can be resized.
fn resized_resource(name: &str, at: &At, errors: &mut ErrorList) -> bool {
    let faults = qualified_name(name);
    let known = !is_native(name) || name == "storage";
    if faults.is_empty() && !known {
        errors.not_supported(&at.path, name, &["storage"]);
    }
    let sound = faults.is_empty() && known;
    faults.into_iter().for_each(|fault| at.invalid_as(errors, name, fault));
    sound
}

// === warnings ===

const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// The class was an annotation before it was a field.
pub(super) fn beta_class_warning(root: &At) -> Vec<String> {
    let metadata = root.child("metadata");
    let annotations = metadata.child("annotations");
    let class = annotations.child_key(BETA_CLASS);
    let text = "deprecated since v1.8; use \"storageClassName\" attribute instead";
    if class.is_set() { vec![format!("{}: {text}", class.path)] } else { Vec::new() }
}

/// A volume's size is in whole bytes; another is rounded.
pub fn warn_claim_spec(spec: &At, warnings: &mut Vec<String>) {
    let resources = spec.child("resources");
    for side in ["requests", "limits"] {
        let side = resources.child(side);
        warn_fractional(&side.child_key("storage"), warnings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "v1/persistentvolumeclaims";

    fn claim(modes: &str, size: &str) -> String {
        format!("spec: {{accessModes: [{modes}], resources: {{requests: {{storage: {size}}}}}}}")
    }

    #[test]
    fn a_claim_whose_status_was_taken_away_is_pending() {
        let mut claim = json!({"status": {"capacity": {"storage": "1Gi"}}});
        PersistentVolumeClaim.default(&mut claim);
        assert_eq!(claim["status"]["phase"], "Pending");
        let mut bound = json!({"status": {"phase": "Bound"}});
        PersistentVolumeClaim.default(&mut bound);
        assert_eq!(bound["status"]["phase"], "Bound");
    }

    #[test]
    fn a_claim_asks_for_something() {
        check(PATH, &claim("ReadWriteOnce", "1Gi"), &[]);
        check(
            PATH,
            &claim("", "0"),
            &[
                "spec.accessModes: Required value: at least 1 access mode is required",
                "spec.resources[storage]: Invalid value: \"0\": must be greater than zero",
            ],
        );
    }

    #[test]
    fn an_unbound_claim_stays_as_it_is() {
        let change = "@@ -6,7 +6,7 @@\n  \"Resources\": {\n   \"Limits\": null,\n   \"Requests\": {\n-   \"storage\": \"1Gi\"\n+   \"storage\": \"2Gi\"\n   }\n  },\n  \"VolumeName\": \"\",\n";
        let forbidden = format!("spec: Forbidden: {ONLY_THESE_CHANGE}\n{change}");
        let old = claim("ReadWriteOnce", "1Gi");
        check_update(PATH, &old, &claim("ReadWriteOnce", "2Gi"), &[&forbidden]);
    }
}
