//! What can be wrong with the volumes of a PodSpec: a name, and exactly one source each.
//!
//! Counterpart: `ValidateVolumes`. Invariant: only volumes without fault are handed on, so that a
//! mount of a faulty one is reported as well, as upstream does.

use std::collections::HashMap;

use serde_json::Value;

use super::projected::{
    validate_config_map, validate_downward, validate_projected, validate_secret,
};
use super::validate::Context;
use super::volume_sources::{
    CEPH_FS, GCE_DISK, Source, needs, source, validate_aws_disk, validate_azure_disk,
    validate_driver_name, validate_fc, validate_flex, validate_flocker, validate_git_repo,
    validate_host_path, validate_iscsi, validate_nfs, validate_quobyte, validate_source,
    validate_storage_os,
};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::core::persistent_volume_claim::validate_claim_template;
use crate::kinds::resources::quantity;
use crate::kinds::rules::config_key;
use crate::validation::{dns_label, dns_subdomain};

/// The volumes of a Pod by name.
pub type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// Volume sources in upstream's order of checking.
const SOURCES: &[Source] = &[
    source("emptyDir", empty_dir),
    source("hostPath", validate_host_path),
    source("gitRepo", validate_git_repo),
    GCE_DISK,
    source("awsElasticBlockStore", validate_aws_disk),
    source("secret", validate_secret),
    source("nfs", validate_nfs),
    source("iscsi", validate_iscsi),
    source("glusterfs", |at, errors| needs(at, &["endpoints", "path"], errors)),
    source("flocker", validate_flocker),
    source("persistentVolumeClaim", |at, errors| needs(at, &["claimName"], errors)),
    source("rbd", |at, errors| needs(at, &["monitors", "image"], errors)),
    source("cinder", cinder),
    CEPH_FS,
    source("quobyte", validate_quobyte),
    Source { second: "downwarAPI", ..source("downwardAPI", validate_downward) },
    source("fc", validate_fc),
    source("flexVolume", validate_flex),
    source("configMap", validate_config_map),
    source("azureFile", |at, errors| needs(at, &["secretName", "shareName"], errors)),
    source("vsphereVolume", |at, errors| needs(at, &["volumePath"], errors)),
    source("photonPersistentDisk", |at, errors| needs(at, &["pdID"], errors)),
    source("portworxVolume", |at, errors| needs(at, &["volumeID"], errors)),
    source("azureDisk", validate_azure_disk),
    source("storageos", storage_os),
    source("projected", validate_projected),
    source("scaleIO", |at, errors| needs(at, &["gateway", "system", "volumeName"], errors)),
    source("csi", csi),
    source("ephemeral", ephemeral),
    source("image", image),
];

pub fn validate_volumes<'v>(
    list: &At<'v, '_>,
    context: Context,
    errors: &mut ErrorList,
) -> Volumes<'v> {
    let mut sound = Volumes::new();
    for (volume, value) in list.items().zip(list.list()) {
        let mut faults = ErrorList::default();
        let image = volume.child("image");
        if context == Context::Pod && image.is_set() {
            image.child("reference").needed(&mut faults);
        }
        validate_source(&volume, SOURCES, &mut faults);
        let name = volume.child("name");
        let text = value.get("name").and_then(Value::as_str).unwrap_or_default();
        name.needed_and_obeys(&mut faults, dns_label);
        if sound.contains_key(text) {
            name.duplicate(&mut faults);
        }
        match faults.is_empty() {
            true => drop(sound.insert(text, value)),
            false => errors.0.extend(faults.0),
        }
    }
    sound
}

/// Claims that are made for the Pod have names of its own choosing: neither may they be no names,
/// nor may another volume ask for one of them.
pub fn validate_own_claims(pod: &str, volumes: &At, errors: &mut ErrorList) {
    let made: Vec<String> = volumes
        .items()
        .filter(|volume| volume.has("ephemeral"))
        .map(|volume| format!("{pod}-{}", volume.text_of("name")))
        .collect();
    for volume in volumes.items() {
        let source = volume.child("persistentVolumeClaim");
        let claim = source.child("claimName");
        if made.iter().any(|name| name == claim.text()) {
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            claim.invalid(errors, detail);
        }
    }
}

fn empty_dir(at: &At, errors: &mut ErrorList) {
    let limit = at.child("sizeLimit");
    if quantity(limit.value).is_some_and(|limit| limit.is_negative()) {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
}

fn cinder(at: &At, errors: &mut ErrorList) {
    at.child("volumeID").needed(errors);
    if at.has("secretRef") {
        at.child("secretRef").child("name").needed(errors);
    }
}

fn storage_os(at: &At, errors: &mut ErrorList) {
    validate_storage_os(at, errors);
    if at.has("secretRef") {
        at.child("secretRef").child("name").needed(errors);
    }
}

fn csi(at: &At, errors: &mut ErrorList) {
    validate_driver_name(&at.child("driver"), errors);
    if at.has("nodePublishSecretRef") {
        let secret = at.child("nodePublishSecretRef");
        let name = secret.child("name");
        if name.needed(errors) {
            // Upstream reports it one step too high.
            for fault in dns_subdomain(name.text()) {
                at.child("name").invalid_as(errors, name.text(), fault);
            }
        }
    }
}

fn ephemeral(at: &At, errors: &mut ErrorList) {
    let template = at.child("volumeClaimTemplate");
    match template.is_set() {
        true => validate_claim_template(&template, errors),
        false => template.required(errors, ""),
    }
}

/// A template may leave the reference to whoever makes Pods of it; see [`validate_volumes`].
fn image(at: &At, errors: &mut ErrorList) {
    let policy = at.child("pullPolicy");
    policy.needed_one_of(errors, &["Always", "IfNotPresent", "Never"]);
}

/// Keys of ConfigMaps and Secrets.
pub fn validate_keys(map: &At, errors: &mut ErrorList) {
    map.entries().for_each(|(key, at)| validate_key(key, &at, errors));
}

pub fn validate_key(key: &str, at: &At, errors: &mut ErrorList) {
    config_key(key).into_iter().for_each(|fault| at.invalid_as(errors, key, fault));
}
