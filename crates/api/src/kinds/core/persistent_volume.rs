//! PersistentVolume: defaults and Table cells.

use super::persistent_volume_claim::{beta_class_warning, validate_access_modes};
use crate::diff::diff;
use crate::field::{ErrorList, Path};
use crate::internal::printed;
use crate::kinds::at::{At, IMMUTABLE};
use crate::kinds::pod_spec::volume_sources::{
    CEPH_FS, GCE_DISK, Source, needs, source, validate_aws_disk, validate_azure_disk,
    validate_driver_name, validate_fc, validate_flex, validate_flocker, validate_host_path,
    validate_nfs, validate_persistent_iscsi, validate_quobyte, validate_source,
    validate_storage_os,
};
use crate::kinds::pod_spec::warnings::warn_node_selector_term;
use crate::kinds::resources::quantity;
use crate::kinds::rules::no_backsteps;
use crate::kinds::selectors::validate_node_selector;
use crate::meta::meta;
use crate::validation::{dns_label, dns_subdomain};
use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{made_at, object, object_at, set, set_if_empty, text};
use crate::kinds::volume::{access_modes, class_of, deleting_phase};
use crate::time;

pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn default(&self, root: &mut Value) {
        if let Some(status) = made_at(root, "/status") {
            set_if_empty(status, "phase", "Pending");
        }
        if let Some(spec) = object_at(root, "/spec") {
            set(spec, "persistentVolumeReclaimPolicy", "Retain");
            set(spec, "volumeMode", "Filesystem");
            if let Some(path) = object(spec, "hostPath") {
                set(path, "type", "");
            }
            if let Some(disk) = object(spec, "azureDisk") {
                set(disk, "readOnly", false);
            }
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        let now = time::format(time::now());
        object["status"] = json!({ "phase": "Pending", "lastPhaseTransitionTime": now });
    }

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        const MOVED: &str = "lastPhaseTransitionTime";
        let moved = text(object, "/status/phase") != text(old, "/status/phase");
        let before = old.pointer("/status").and_then(|status| status.get(MOVED)).cloned();
        let Some(status) = object_at(object, "/status") else { return };
        match status.get(MOVED) {
            None if !moved => drop(before.map(|time| status.insert(MOVED.into(), time))),
            given if moved && (given.is_none() || given == before.as_ref()) => {
                status.insert(MOVED.into(), time::format(time::now()).into());
            }
            _ => {}
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_spec(meta(object).name(), &At::root(object).child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        // Upstream validates the volume once as a new one and once as a changed one.
        self.validate(object, errors);
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        validate_source_change(&spec, &was, errors);
        let mode = spec.child("volumeMode");
        let mode = At::new(mode.value, Path::new("volumeMode"));
        mode.unchanged(errors, &was.child("volumeMode"));
        let affinity = At::new(spec.child("nodeAffinity").value, Path::new("nodeAffinity"));
        if was.has("nodeAffinity") && *affinity.value != *was.child("nodeAffinity").value {
            let detail = format!("{IMMUTABLE}, except for updating from beta label to GA");
            let shown = printed("*core.VolumeNodeAffinity", affinity.value);
            errors.invalid_printed(&affinity.path, shown, &detail);
        }
        let class = spec.child("volumeAttributesClassName");
        if was.has("volumeAttributesClassName") && !class.is_set() {
            class.forbidden(errors, "update from non-nil value to nil is forbidden");
        }
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings(&At::root(object))
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Capacity" => text(object, "/spec/capacity/storage").into(),
            "Access Modes" => access_modes(object, "/spec/accessModes").into(),
            "Reclaim Policy" => text(object, "/spec/persistentVolumeReclaimPolicy").into(),
            "Status" => deleting_phase(object).into(),
            "Claim" => claim(object).into(),
            "StorageClass" => class_of(object).into(),
            "VolumeAttributesClass" => {
                unset(text(object, "/spec/volumeAttributesClassName")).into()
            }
            "Reason" => text(object, "/status/reason").into(),
            "VolumeMode" => unset(text(object, "/spec/volumeMode")).into(),
            _ => Value::Null,
        }
    }
}

fn unset(value: &str) -> &str {
    if value.is_empty() { "<unset>" } else { value }
}

fn claim(volume: &Value) -> String {
    match volume.pointer("/spec/claimRef") {
        Some(claim) => format!("{}/{}", text(claim, "/namespace"), text(claim, "/name")),
        None => String::new(),
    }
}

// === changes ===

/// Where a volume is does not change, but for a secret that expands it, given later.
fn validate_source_change(spec: &At, old: &At, errors: &mut ErrorList) {
    const LATER: &str = "/csi/controllerExpandSecretRef";
    let later = old.has("csi") && old.value.pointer(LATER).is_none();
    let of = |spec: &At| {
        let mut sources = Value::Object(Default::default());
        for source in SOURCES.iter().filter(|source| spec.has(source.field)) {
            sources[source.field] = spec.child(source.field).value.clone();
        }
        if let Some(csi) = object_at(&mut sources, "/csi").filter(|_| later) {
            csi.remove("controllerExpandSecretRef");
        }
        sources
    };
    let (now, was) = (of(spec), of(old));
    if now != was {
        let change = diff("core.PersistentVolumeSource", &was, &now);
        let detail = format!("spec.persistentvolumesource is immutable after creation\n{change}");
        spec.child("persistentvolumesource").forbidden(errors, detail);
    }
}

// === validation ===

/// Volume sources in upstream's order of checking.
const SOURCES: &[Source] = &[
    source("hostPath", validate_host_path),
    GCE_DISK,
    source("awsElasticBlockStore", validate_aws_disk),
    source("glusterfs", glusterfs),
    source("flocker", validate_flocker),
    source("nfs", validate_nfs),
    source("rbd", |at, errors| needs(at, &["monitors", "image"], errors)),
    source("quobyte", validate_quobyte),
    CEPH_FS,
    source("iscsi", validate_persistent_iscsi),
    source("cinder", cinder),
    source("fc", validate_fc),
    Source { second: "", ..source("flexVolume", validate_flex) },
    source("azureFile", azure_file),
    source("vsphereVolume", |at, errors| needs(at, &["volumePath"], errors)),
    source("photonPersistentDisk", |at, errors| needs(at, &["pdID"], errors)),
    source("portworxVolume", |at, errors| needs(at, &["volumeID"], errors)),
    source("azureDisk", validate_azure_disk),
    source("scaleIO", |at, errors| needs(at, &["gateway", "system", "volumeName"], errors)),
    source("local", |at, errors| at.child("path").needed_and_obeys(errors, no_backsteps)),
    source("storageos", storage_os),
    source("csi", csi),
];

fn glusterfs(at: &At, errors: &mut ErrorList) {
    needs(at, &["endpoints", "path"], errors);
    let namespace = at.child("endpointsNamespace");
    if namespace.is_set() && namespace.is_empty() {
        let detail = "if the endpointnamespace is set, it must be a valid namespace name";
        namespace.invalid(errors, detail);
    }
    namespace.obeys_if_set(errors, dns_label);
}

fn cinder(at: &At, errors: &mut ErrorList) {
    at.child("volumeID").needed(errors);
    secret_somewhere(at, errors);
}

fn storage_os(at: &At, errors: &mut ErrorList) {
    validate_storage_os(at, errors);
    secret_somewhere(at, errors);
}

fn secret_somewhere(at: &At, errors: &mut ErrorList) {
    if at.has("secretRef") {
        needs(&at.child("secretRef"), &["name", "namespace"], errors);
    }
}

fn azure_file(at: &At, errors: &mut ErrorList) {
    needs(at, &["secretName", "shareName"], errors);
    if at.has("secretNamespace") {
        at.child("secretNamespace").needed(errors);
    }
}

fn csi(at: &At, errors: &mut ErrorList) {
    validate_driver_name(&at.child("driver"), errors);
    at.child("volumeHandle").needed(errors);
    for reference in [
        "controllerPublishSecretRef",
        "controllerExpandSecretRef",
        "nodePublishSecretRef",
        "nodeExpandSecretRef",
    ] {
        let secret = at.child(reference);
        if secret.is_set() {
            secret.child("name").needed_and_obeys(errors, dns_subdomain);
            secret.child("namespace").needed_and_obeys(errors, dns_label);
        }
    }
}

fn validate_spec(name: &str, spec: &At, errors: &mut ErrorList) {
    const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
    let modes = spec.child("accessModes");
    modes.needed(errors);
    validate_access_modes(&modes, errors);
    capacity(&spec.child("capacity"), errors);
    let policy = spec.child("persistentVolumeReclaimPolicy");
    if !policy.is_empty() {
        policy.one_of(errors, POLICIES);
    }
    node_affinity(&spec.child("nodeAffinity"), errors);
    validate_sources(name, spec, errors);
    let path = spec.child("hostPath").text_of("path");
    if policy.text() == "Recycle" && is_root(path) {
        policy.forbidden(errors, "may not be 'recycle' for a hostPath mount of '/'");
    }
    spec.child("storageClassName").obeys_if_set(errors, dns_subdomain);
    spec.child("volumeMode").one_of_if_set(errors, &["Block", "Filesystem"]);
    attributes_class(spec, errors);
}

const INLINE: &str = "in the context of inline volumes";

/// A volume spelt out in a VolumeAttachment, which has nothing but a CSI source to say.
pub fn validate_inline_volume(name: &str, spec: &At, errors: &mut ErrorList) {
    let refuse = |field: &str, errors: &mut ErrorList| {
        if !spec.child(field).is_empty() {
            spec.child(field).forbidden(errors, format!("may not be specified {INLINE}"));
        }
    };
    refuse("claimRef", errors);
    refuse("capacity", errors);
    if !spec.has("csi") {
        spec.child("csi").required(errors, &format!("has to be specified {INLINE}"));
    }
    let modes = spec.child("accessModes");
    modes.needed(errors);
    validate_access_modes(&modes, errors);
    let policy = spec.child("persistentVolumeReclaimPolicy");
    if !matches!(policy.text(), "" | "Retain") {
        policy.forbidden(errors, format!("may only be Retain {INLINE}"));
    }
    refuse("nodeAffinity", errors);
    validate_sources(name, spec, errors);
    refuse("storageClassName", errors);
    let mode = spec.child("volumeMode");
    if mode.is_set() && mode.text() != "Filesystem" {
        let detail = format!("may not specify volumeMode other than Filesystem {INLINE}");
        mode.forbidden(errors, detail);
    }
}

fn node_affinity(affinity: &At, errors: &mut ErrorList) {
    if !affinity.is_set() {
        return;
    }
    let required = affinity.child("required");
    match required.is_set() {
        true => validate_node_selector(&required, errors),
        false => required.required(errors, "must specify required node constraints"),
    }
}

fn validate_sources(name: &str, spec: &At, errors: &mut ErrorList) {
    const PORTAL_MAX: usize = 64;
    validate_source(spec, SOURCES, errors);
    let first = SOURCES.iter().find(|source| spec.has(source.field)).map(|source| source.field);
    let iscsi = spec.child("iscsi");
    let portal = format!("{name}:{}", iscsi.text_of("targetPortal"));
    if first == Some("iscsi") && iscsi.has("initiatorName") && portal.len() > PORTAL_MAX {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        iscsi.child("targetportal").invalid_as(errors, iscsi.text_of("targetPortal"), detail);
    }
    if first == Some("local") && !spec.has("nodeAffinity") {
        spec.child("nodeAffinity").required(errors, "Local volume requires node affinity");
    }
}

fn attributes_class(spec: &At, errors: &mut ErrorList) {
    let class = spec.child("volumeAttributesClassName");
    if !class.is_set() {
        return;
    }
    match class.is_empty() {
        true => class.required(errors, "an empty string is disallowed"),
        false => class.obeys(errors, dns_subdomain),
    }
    if !spec.has("csi") {
        let detail = "has to be specified when using volumeAttributesClassName";
        spec.child("csi").required(errors, detail);
    }
}

/// `/`, however many dots and slashes it is spelt with.
fn is_root(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| matches!(part, "" | "." | ".."))
}

fn capacity(capacity: &At, errors: &mut ErrorList) {
    capacity.needed(errors);
    if !capacity.has("storage") || capacity.map().is_some_and(|map| map.len() > 1) {
        errors.not_supported(&capacity.path, capacity.value.clone(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        let Some(number) = quantity(amount.value) else { continue };
        if number.is_negative() {
            amount.invalid_as(errors, number.units(), "must be a valid resource quantity");
        }
        if number.is_zero() || number.is_negative() {
            amount.invalid_as(errors, number.to_string(), "must be greater than zero");
        }
    }
}

// === warnings ===

/// Sources on their way out: field, what upstream calls it, and since when.
const DEPRECATED: &[(&str, &str, &str)] = &[
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    (
        "photonPersistentDisk",
        "photonPersistentDisk",
        "deprecated in v1.11, non-functional in v1.16+",
    ),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

fn warnings(root: &At) -> Vec<String> {
    let spec = root.child("spec");
    let mut warnings = beta_class_warning(root);
    let policy = spec.child("persistentVolumeReclaimPolicy");
    if policy.text() == "Recycle" {
        let text = "The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.";
        warnings.push(format!("{}: {text}", policy.path));
    }
    let affinity = spec.child("nodeAffinity");
    let required = affinity.child("required");
    for term in required.child("nodeSelectorTerms").items() {
        warn_node_selector_term(&term, &mut warnings);
    }
    for (_, shown, text) in DEPRECATED.iter().filter(|(field, ..)| spec.has(field)) {
        warnings.push(format!("{}: {text}", spec.child(shown).path));
    }
    warnings
}
