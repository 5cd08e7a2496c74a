//! PersistentVolumeClaim: defaults and Table cells.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::pod_spec::warnings::warn_fractional_bytes;
use crate::kinds::resources::quantity;
use crate::kinds::selectors::validate_label_selector;
use crate::validation::dns_subdomain;
use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{Object, object_at, set, text};
use crate::kinds::volume::{access_modes, class_of, deleting_phase};

pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            set(spec, "volumeMode", "Filesystem");
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            normalize_sources(spec);
        }
        object["status"] = json!({ "phase": "Pending" });
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_claim_spec(&At::root(object).child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        validate_change(&root, &old, errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        let bound = !text(object, "/spec/volumeName").is_empty();
        match column {
            "Status" => deleting_phase(object).into(),
            "Volume" => text(object, "/spec/volumeName").into(),
            "Capacity" if bound => text(object, "/status/capacity/storage").into(),
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

/// The older `dataSource` takes claims and snapshots alone; either field says what the other does.
fn normalize_sources(spec: &mut Object) {
    let is_source = |source: &Value| {
        matches!(
            (text(source, "/apiGroup"), text(source, "/kind")),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    if spec.get("dataSource").is_some_and(|source| !is_source(source)) {
        spec.remove("dataSource");
    }
    let reference = spec.get("dataSourceRef").filter(|reference| is_source(reference)).cloned();
    let local = reference.filter(|reference| text(reference, "/namespace").is_empty());
    match (spec.get("dataSource").cloned(), local) {
        (Some(source), _) => set(spec, "dataSourceRef", source),
        (None, Some(reference)) => set(spec, "dataSource", reference),
        (None, None) => {}
    }
}

// === validation ===

pub(super) const ACCESS_MODES: &[&str] =
    &["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// The spec of a claim, also of one that a StatefulSet or an ephemeral volume is a template for.
/// A volume's size is in whole bytes; another is rounded, with a warning.
pub fn warn_claim_spec(spec: &At, warnings: &mut Vec<String>) {
    let resources = spec.child("resources");
    for side in ["requests", "limits"] {
        let side = resources.child(side);
        if side.has("storage") {
            let amount = At::new(&side.value["storage"], side.path.key("storage"));
            warn_fractional_bytes(&amount, warnings);
        }
    }
}

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
    let exclusive = modes.list().iter().any(|mode| mode == "ReadWriteOncePod");
    if exclusive && modes.list().len() > 1 {
        modes.forbidden(errors, "may not use ReadWriteOncePod with other access modes");
    }
}

/// The older `dataSource` repeats what `dataSourceRef` says.
fn validate_sources(spec: &At, errors: &mut ErrorList) {
    for field in ["dataSource", "dataSourceRef"] {
        let source = spec.child(field);
        if !source.is_set() {
            continue;
        }
        source.child("name").needed(errors);
        source.child("kind").needed(errors);
        let group = source.child("apiGroup");
        if group.is_empty() && source.text_of("kind") != "PersistentVolumeClaim" {
            source.invalid_as(
                errors,
                source.text_of("kind"),
                "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
            );
        }
        group.obeys_if_set(errors, dns_subdomain);
    }
    let (source, reference) = (spec.child("dataSource"), spec.child("dataSourceRef"));
    let same = ["apiGroup", "kind", "name"]
        .iter()
        .all(|field| source.child(field).text() == reference.child(field).text());
    if source.is_set() && reference.is_set() && !same {
        spec.invalid_as(errors, json!({}), "must match dataSourceRef");
    }
}

const ONLY_THESE_CHANGE: &str = "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

/// A bound claim may ask for more room; everything else stays, but for a volume or a class that
/// was not decided yet.
fn validate_change(root: &At, old: &At, errors: &mut ErrorList) {
    let (spec, was) = (root.child("spec"), old.child("spec"));
    let mut compared = spec.value.clone();
    let bound = old.child("status").text_of("phase") == "Bound";
    let free = |field: &str| was.child(field).is_empty() && spec.has(field);
    let mut allowed: Vec<&str> = Vec::new();
    if bound {
        allowed.extend(["resources", "volumeAttributesClassName"]);
    }
    if free("volumeName") {
        allowed.push("volumeName");
    }
    if !was.has("storageClassName") && spec.has("storageClassName") {
        allowed.push("storageClassName");
    }
    allowed.iter().for_each(|field| keep(&mut compared, was.value, field));
    if compared != *was.value {
        spec.forbidden(errors, ONLY_THESE_CHANGE);
    }
    let request = |at: &At| at.value.pointer("/spec/resources/requests/storage").and_then(quantity);
    if bound && request(root) < request(old) {
        let resources = spec.child("resources");
        let requests = resources.child("requests");
        let place = requests.child("storage");
        place.forbidden(errors, "field can not be less than status.capacity");
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
        let forbidden = format!("spec: Forbidden: {ONLY_THESE_CHANGE}");
        let old = claim("ReadWriteOnce", "1Gi");
        check_update(PATH, &old, &claim("ReadWriteOnce", "2Gi"), &[&forbidden]);
    }
}
