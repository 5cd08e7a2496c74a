//! PersistentVolume: defaults and Table cells.

use super::persistent_volume_claim::validate_access_modes;
use crate::field::{ErrorList, Path};
use crate::kinds::at::At;
use crate::kinds::pod_spec::volumes::{
    needs, validate_driver_name, validate_fc, validate_host_path, validate_iscsi, validate_nfs,
    validate_source,
};
use crate::kinds::resources::quantity;
use crate::kinds::rules::no_backsteps;
use crate::kinds::selectors::validate_node_selector;
use crate::validation::dns_subdomain;
use serde_json::{Value, json};

use crate::kind::{KindDef, Strategy, keep};
use crate::kinds::fill::{object, object_at, set, text};
use crate::kinds::volume::{access_modes, class_of, deleting_phase};
use crate::time;

pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn default(&self, root: &mut Value) {
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
        let moved = text(object, "/status/phase") != text(old, "/status/phase");
        if let Some(status) = object_at(object, "/status").filter(|_| moved) {
            let now = time::format(time::now());
            status.insert("lastPhaseTransitionTime".into(), now.into());
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_spec(&At::root(object).child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        // Upstream validates the volume once as a new one and once as a changed one.
        self.validate(object, errors);
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        let (spec, was) = (root.child("spec"), old.child("spec"));
        let changed = SOURCES.iter().any(|(s, _)| spec.child(s).value != was.child(s).value);
        if changed {
            let detail = "spec.persistentvolumesource is immutable after creation";
            spec.child("persistentvolumesource").forbidden(errors, detail);
        }
        let mode = spec.child("volumeMode");
        let mode = At::new(mode.value, Path::new("volumeMode"));
        mode.unchanged(errors, &was.child("volumeMode"));
        let affinity = spec.child("nodeAffinity");
        if was.has("nodeAffinity") {
            affinity.unchanged(errors, &was.child("nodeAffinity"));
        }
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

// === validation ===

type Rule = fn(&At, &mut ErrorList);

/// Volume sources in upstream's order of checking.
const SOURCES: &[(&str, Rule)] = &[
    ("hostPath", validate_host_path),
    ("gcePersistentDisk", |at, errors| needs(at, &["pdName"], errors)),
    ("awsElasticBlockStore", |at, errors| needs(at, &["volumeID"], errors)),
    ("glusterfs", |at, errors| needs(at, &["endpoints", "path"], errors)),
    ("flocker", |at, errors| needs(at, &["datasetName"], errors)),
    ("nfs", validate_nfs),
    ("rbd", |at, errors| needs(at, &["monitors", "image"], errors)),
    ("quobyte", |at, errors| needs(at, &["registry", "volume"], errors)),
    ("cephfs", |at, errors| needs(at, &["monitors"], errors)),
    ("iscsi", validate_iscsi),
    ("cinder", |at, errors| needs(at, &["volumeID"], errors)),
    ("fc", validate_fc),
    ("flexVolume", |at, errors| needs(at, &["driver"], errors)),
    ("azureFile", |at, errors| needs(at, &["secretName", "shareName"], errors)),
    ("vsphereVolume", |at, errors| needs(at, &["volumePath"], errors)),
    ("photonPersistentDisk", |at, errors| needs(at, &["pdID"], errors)),
    ("portworxVolume", |at, errors| needs(at, &["volumeID"], errors)),
    ("azureDisk", |at, errors| needs(at, &["diskName", "diskURI"], errors)),
    ("scaleIO", |at, errors| needs(at, &["gateway", "system", "volumeName"], errors)),
    ("local", local),
    ("storageos", |at, errors| needs(at, &["volumeName"], errors)),
    ("csi", csi),
];

fn local(at: &At, errors: &mut ErrorList) {
    at.child("path").needed_and_obeys(errors, no_backsteps);
}

fn csi(at: &At, errors: &mut ErrorList) {
    validate_driver_name(&at.child("driver"), errors);
    at.child("volumeHandle").needed(errors);
    for reference in [
        "controllerPublishSecretRef",
        "nodePublishSecretRef",
        "controllerExpandSecretRef",
        "nodeExpandSecretRef",
    ] {
        if at.has(reference) {
            needs(&at.child(reference), &["name", "namespace"], errors);
        }
    }
}

fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let modes = spec.child("accessModes");
    modes.needed(errors);
    validate_access_modes(&modes, errors);
    capacity(&spec.child("capacity"), errors);
    validate_rest(spec, errors);
}

/// A volume spelt out in a VolumeAttachment, which has no capacity of its own.
pub fn validate_inline_volume(spec: &At, errors: &mut ErrorList) {
    let modes = spec.child("accessModes");
    modes.needed(errors);
    validate_access_modes(&modes, errors);
    validate_rest(spec, errors);
}

fn validate_rest(spec: &At, errors: &mut ErrorList) {
    const POLICIES: &[&str] = &["Delete", "Recycle", "Retain"];
    spec.child("persistentVolumeReclaimPolicy").one_of_if_set(errors, POLICIES);
    let affinity = spec.child("nodeAffinity");
    if affinity.is_set() {
        let required = affinity.child("required");
        match required.is_set() {
            true => validate_node_selector(&required, errors),
            false => required.required(errors, "must specify required node constraints"),
        }
    }
    validate_source(spec, SOURCES, errors);
    if spec.has("local") && !affinity.is_set() {
        affinity.required(errors, "Local volume requires node affinity");
    }
    let recycled = spec.text_of("persistentVolumeReclaimPolicy") == "Recycle";
    let path = spec.child("hostPath").text_of("path");
    if recycled && !path.is_empty() && path.trim_matches('/').is_empty() {
        let detail = "may not be 'recycle' for a hostPath mount of '/'";
        spec.child("persistentVolumeReclaimPolicy").forbidden(errors, detail);
    }
    spec.child("storageClassName").obeys_if_set(errors, dns_subdomain);
    spec.child("volumeMode").one_of_if_set(errors, &["Block", "Filesystem"]);
    spec.child("volumeAttributesClassName").obeys_if_set(errors, dns_subdomain);
}

fn capacity(capacity: &At, errors: &mut ErrorList) {
    capacity.needed(errors);
    if !capacity.has("storage") || capacity.map().is_some_and(|map| map.len() > 1) {
        errors.not_supported(&capacity.path, capacity.value.clone(), &["storage"]);
    }
    for (_, amount) in capacity.entries() {
        let Some(number) = quantity(amount.value) else { continue };
        if number.is_zero() || number.is_negative() {
            amount.invalid_as(errors, number.to_string(), "must be greater than zero");
        }
    }
}
