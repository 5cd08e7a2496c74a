//! What can be wrong with the volumes of a PodSpec: exactly one source each, and its settings.
//!
//! Counterpart: `ValidateVolumes`. Invariant: only volumes without fault are handed on, so that a
//! mount of a faulty one is reported as well, as upstream does.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::containers::{validate_field_ref, validate_resource_ref};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::core::persistent_volume_claim::validate_claim_spec;
use crate::kinds::resources::quantity;
use crate::kinds::rules::{config_key, descending_path, no_backsteps, unreserved_path};
use crate::validation::{dns_label, dns_subdomain};

/// The volumes of a Pod by name.
pub type Volumes<'a> = HashMap<&'a str, &'a Value>;

type Rule = fn(&At, &mut ErrorList);

/// Volume sources in upstream's order of checking.
const SOURCES: &[(&str, Rule)] = &[
    ("emptyDir", empty_dir),
    ("hostPath", validate_host_path),
    ("gitRepo", git_repo),
    ("gcePersistentDisk", |at, errors| needs(at, &["pdName"], errors)),
    ("awsElasticBlockStore", |at, errors| needs(at, &["volumeID"], errors)),
    ("secret", secret),
    ("nfs", validate_nfs),
    ("iscsi", validate_iscsi),
    ("glusterfs", |at, errors| needs(at, &["endpoints", "path"], errors)),
    ("persistentVolumeClaim", |at, errors| needs(at, &["claimName"], errors)),
    ("rbd", |at, errors| needs(at, &["monitors", "image"], errors)),
    ("cinder", |at, errors| needs(at, &["volumeID"], errors)),
    ("cephfs", |at, errors| needs(at, &["monitors"], errors)),
    ("flocker", flocker),
    ("downwardAPI", downward),
    ("fc", validate_fc),
    ("azureFile", |at, errors| needs(at, &["secretName", "shareName"], errors)),
    ("configMap", config_map),
    ("vsphereVolume", |at, errors| needs(at, &["volumePath"], errors)),
    ("photonPersistentDisk", |at, errors| needs(at, &["pdID"], errors)),
    ("quobyte", |at, errors| needs(at, &["registry", "volume"], errors)),
    ("azureDisk", |at, errors| needs(at, &["diskName", "diskURI"], errors)),
    ("storageos", storage_os),
    ("projected", projected),
    ("scaleIO", |at, errors| needs(at, &["gateway", "system", "volumeName"], errors)),
    ("flexVolume", |at, errors| needs(at, &["driver"], errors)),
    ("csi", csi),
    ("ephemeral", ephemeral),
    ("image", image),
];

pub fn validate_volumes<'v>(list: &At<'v, '_>, errors: &mut ErrorList) -> Volumes<'v> {
    let mut sound = Volumes::new();
    for (volume, value) in list.items().zip(list.list()) {
        let mut faults = ErrorList::default();
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

/// Exactly one of the sources, and no fault in it. Shared with PersistentVolumes.
pub fn validate_source(volume: &At, sources: &[(&str, Rule)], errors: &mut ErrorList) {
    let mut given = 0;
    for (name, rule) in sources.iter().filter(|(name, _)| volume.has(name)) {
        given += 1;
        let at = volume.child(name);
        match given {
            1 => rule(&at, errors),
            _ => at.forbidden(errors, "may not specify more than 1 volume type"),
        }
    }
    if given == 0 {
        volume.required(errors, "must specify a volume type");
    }
}

pub fn needs(at: &At, fields: &[&str], errors: &mut ErrorList) {
    for field in fields {
        at.child(field).needed(errors);
    }
}

fn empty_dir(at: &At, errors: &mut ErrorList) {
    let limit = at.child("sizeLimit");
    if quantity(limit.value).is_some_and(|limit| limit.is_negative()) {
        limit.forbidden(errors, "SizeLimit field must be a valid resource quantity");
    }
}

pub fn validate_host_path(at: &At, errors: &mut ErrorList) {
    const TYPES: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    at.child("path").needed_and_obeys(errors, no_backsteps);
    at.child("type").one_of_if_set(errors, TYPES);
}

fn git_repo(at: &At, errors: &mut ErrorList) {
    at.child("repository").needed(errors);
    at.child("directory").obeys(errors, descending_path);
}

pub fn validate_nfs(at: &At, errors: &mut ErrorList) {
    at.child("server").needed(errors);
    let path = at.child("path");
    if path.needed(errors) && !path.text().starts_with('/') {
        path.invalid(errors, "must be an absolute path");
    }
}

pub fn validate_iscsi(at: &At, errors: &mut ErrorList) {
    needs(at, &["targetPortal", "iqn"], errors);
    let iqn = at.child("iqn");
    if !iqn.is_empty() && !["iqn", "eui", "naa"].iter().any(|p| iqn.text().starts_with(p)) {
        iqn.invalid(errors, "must be valid format");
    }
    at.child("lun").between(errors, 0..=255);
    let wants_secret = at.flag_of("chapAuthDiscovery") || at.flag_of("chapAuthSession");
    if wants_secret && !at.has("secretRef") {
        at.child("secretRef").required(errors, "");
    }
}

fn flocker(at: &At, errors: &mut ErrorList) {
    match (at.text_of("datasetName"), at.text_of("datasetUUID")) {
        ("", "") => at.required(errors, "one of datasetName and datasetUUID is required"),
        ("", _) | (_, "") => {}
        _ => {
            let detail =
                "resource: datasetName and datasetUUID can not be specified simultaneously";
            at.invalid_as(errors, "resource", detail);
        }
    }
}

pub fn validate_fc(at: &At, errors: &mut ErrorList) {
    match (at.child("targetWWNs").is_empty(), at.child("wwids").is_empty()) {
        (true, true) => at
            .child("targetWWNs")
            .required(errors, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            at.child("targetWWNs").invalid(errors, detail);
        }
        (false, true) => match at.child("lun") {
            lun if !lun.is_set() => {
                lun.required(errors, "lun is required if targetWWNs is specified");
            }
            lun => lun.between(errors, 0..=255),
        },
        (true, false) => {}
    }
}

fn storage_os(at: &At, errors: &mut ErrorList) {
    at.child("volumeName").needed_and_obeys(errors, dns_label);
}

fn csi(at: &At, errors: &mut ErrorList) {
    validate_driver_name(&at.child("driver"), errors);
    if at.has("nodePublishSecretRef") {
        at.child("nodePublishSecretRef").child("name").needed(errors);
    }
}

pub fn validate_driver_name(driver: &At, errors: &mut ErrorList) {
    if !driver.needed(errors) {
        return;
    }
    if driver.text().len() > 63 {
        errors.too_long(&driver.path, 63);
    }
    for fault in dns_subdomain(&driver.text().to_lowercase()) {
        driver.invalid(errors, fault);
    }
}

fn ephemeral(at: &At, errors: &mut ErrorList) {
    let template = at.child("volumeClaimTemplate");
    match template.is_set() {
        true => validate_claim_spec(&template.child("spec"), errors),
        false => template.required(errors, ""),
    }
}

fn image(at: &At, errors: &mut ErrorList) {
    at.child("reference").needed(errors);
    let policy = at.child("pullPolicy");
    policy.needed_one_of(errors, &["Always", "IfNotPresent", "Never"]);
}

// === files from objects ===

fn secret(at: &At, errors: &mut ErrorList) {
    at.child("secretName").needed(errors);
    file_mode(&at.child("defaultMode"), errors);
    at.child("items").items().for_each(|item| key_to_path(&item, errors));
}

fn config_map(at: &At, errors: &mut ErrorList) {
    at.child("name").needed(errors);
    file_mode(&at.child("defaultMode"), errors);
    at.child("items").items().for_each(|item| key_to_path(&item, errors));
}

fn downward(at: &At, errors: &mut ErrorList) {
    file_mode(&at.child("defaultMode"), errors);
    at.child("items").items().for_each(|item| downward_file(&item, errors));
}

fn file_mode(mode: &At, errors: &mut ErrorList) {
    if mode.is_set() && !(0..=0o777).contains(&mode.int()) {
        mode.invalid(errors, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

fn key_to_path(item: &At, errors: &mut ErrorList) {
    item.child("key").needed(errors);
    item.child("path").needed(errors);
    item.child("path").obeys(errors, unreserved_path);
    file_mode(&item.child("mode"), errors);
}

fn downward_file(file: &At, errors: &mut ErrorList) {
    const FIELDS: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
    ];
    file.child("path").needed(errors);
    file.child("path").obeys(errors, unreserved_path);
    match (file.has("fieldRef"), file.has("resourceFieldRef")) {
        (true, both) => {
            validate_field_ref(&file.child("fieldRef"), FIELDS, errors);
            if both {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                file.invalid_as(errors, "resource", detail);
            }
        }
        (false, true) => validate_resource_ref(&file.child("resourceFieldRef"), true, errors),
        (false, false) => {
            file.required(errors, "one of fieldRef and resourceFieldRef is required");
        }
    }
    file_mode(&file.child("mode"), errors);
}

// === projected volumes ===

fn projected(at: &At, errors: &mut ErrorList) {
    file_mode(&at.child("defaultMode"), errors);
    let mut paths = HashSet::new();
    for source in at.child("sources").items() {
        let mut given = 0;
        for field in PROJECTIONS.iter().filter(|field| source.has(field)) {
            given += 1;
            let part = source.child(field);
            match given {
                1 => projection(at, &part, field, &mut paths, errors),
                _ => part.forbidden(errors, "may not specify more than 1 volume type per source"),
            }
        }
        if given == 0 {
            source.required(errors, "must specify a volume type");
        }
    }
}

const PROJECTIONS: &[&str] = &[
    "secret",
    "configMap",
    "downwardAPI",
    "serviceAccountToken",
    "clusterTrustBundle",
    "podCertificate",
];

fn projection(
    volume: &At,
    part: &At,
    field: &str,
    paths: &mut HashSet<String>,
    errors: &mut ErrorList,
) {
    let mut take = |path: &str, shown: &str, errors: &mut ErrorList| {
        if !path.is_empty() && !paths.insert(path.to_owned()) {
            volume.invalid_as(errors, shown, "conflicting duplicate paths");
        }
    };
    match field {
        "secret" | "configMap" => {
            part.child("name").needed(errors);
            for item in part.child("items").items() {
                key_to_path(&item, errors);
                take(item.text_of("path"), part.text_of("name"), errors);
            }
        }
        "downwardAPI" => {
            for item in part.child("items").items() {
                downward_file(&item, errors);
                take(item.text_of("path"), item.text_of("path"), errors);
            }
        }
        "serviceAccountToken" => {
            validate_token_seconds(&part.child("expirationSeconds"), errors);
            part.child("path").needed_and_obeys(errors, unreserved_path);
            take(part.text_of("path"), part.text_of("path"), errors);
        }
        "clusterTrustBundle" => {
            trust_bundle(part, errors);
            take(part.text_of("path"), part.text_of("path"), errors);
        }
        _ => {
            part.child("signerName").needed(errors);
            part.child("keyType").needed(errors);
        }
    }
}

fn trust_bundle(part: &At, errors: &mut ErrorList) {
    match (part.has("name"), part.has("signerName")) {
        (true, true) => {
            part.invalid(errors, "only one of name and signerName may be used");
        }
        (false, false) => part.required(errors, "either name or signerName must be specified"),
        _ => {}
    }
    part.child("path").needed_and_obeys(errors, unreserved_path);
}

/// How long a token is to be good for: ten minutes at least.
pub fn validate_token_seconds(seconds: &At, errors: &mut ErrorList) {
    if !seconds.is_set() {
        return;
    }
    if seconds.int() < 600 {
        seconds.invalid(errors, "may not specify a duration less than 10 minutes");
    }
    if seconds.int() > 1 << 32 {
        seconds.invalid(errors, "may not specify a duration larger than 2^32 seconds");
    }
}

/// Keys of ConfigMaps and Secrets.
pub fn validate_keys(map: &At, errors: &mut ErrorList) {
    for (key, at) in map.entries() {
        config_key(key).into_iter().for_each(|fault| at.invalid_as(errors, key, fault));
    }
}
