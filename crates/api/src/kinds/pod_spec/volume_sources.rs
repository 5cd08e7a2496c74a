//! What can be wrong with where a volume comes from: one source each, and its settings. Pods and
//! PersistentVolumes share most of the sources.
//!
//! Counterpart: the `validate*VolumeSource` functions of `pkg/apis/core/validation`.

use std::sync::LazyLock;

use regex::Regex;

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::{descending_path, no_backsteps};
use crate::validation::{dns_label, dns_subdomain};

pub type Rule = fn(&At, &mut ErrorList);

/// One kind of source: its field, and what upstream calls that where its messages differ.
pub struct Source {
    pub field: &'static str,
    /// As the second source of a volume.
    pub second: &'static str,
    /// In faults of its settings.
    pub own: &'static str,
    pub rule: Rule,
}

pub const fn source(field: &'static str, rule: Rule) -> Source {
    Source { field, second: field, own: field, rule }
}

pub const GCE_DISK: Source =
    Source { own: "persistentDisk", ..source("gcePersistentDisk", gce_disk) };
pub const CEPH_FS: Source =
    Source { second: "cephFS", ..source("cephfs", |at, errors| needs(at, &["monitors"], errors)) };

/// Exactly one of the sources, and no fault in it.
pub fn validate_source(volume: &At, sources: &[Source], errors: &mut ErrorList) {
    let mut given = 0;
    for source in sources.iter().filter(|source| volume.has(source.field)) {
        given += 1;
        let at = volume.child(source.field);
        match given {
            1 => (source.rule)(&At::new(at.value, volume.path.child(source.own)), errors),
            // Upstream takes it without a word in a PersistentVolume, which has no emptyDir.
            _ if source.second.is_empty() => (source.rule)(&at, errors),
            _ => {
                let detail = "may not specify more than 1 volume type";
                volume.child(source.second).forbidden(errors, detail);
            }
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
    let path = at.child("path");
    if path.needed(errors) {
        path.obeys(errors, no_backsteps);
        at.child("type").one_of_if_set(errors, TYPES);
    }
}

pub fn validate_git_repo(at: &At, errors: &mut ErrorList) {
    at.child("repository").needed(errors);
    at.child("directory").obeys(errors, descending_path);
}

fn gce_disk(at: &At, errors: &mut ErrorList) {
    at.child("pdName").needed(errors);
    partition(&at.child("partition"), errors);
}

pub fn validate_aws_disk(at: &At, errors: &mut ErrorList) {
    at.child("volumeID").needed(errors);
    partition(&at.child("partition"), errors);
}

/// Zero is a disk without partitions, though the message does not know it.
fn partition(number: &At, errors: &mut ErrorList) {
    if !(0..=255).contains(&number.int()) {
        number.invalid(errors, "must be between 1 and 255, inclusive");
    }
}

pub fn validate_nfs(at: &At, errors: &mut ErrorList) {
    needs(at, &["server", "path"], errors);
    let path = at.child("path");
    if !path.text().starts_with('/') {
        path.invalid_as(errors, path.text(), "must be an absolute path");
    }
}

pub fn validate_flocker(at: &At, errors: &mut ErrorList) {
    let name = at.child("datasetName");
    match (name.is_empty(), at.child("datasetUUID").is_empty()) {
        (true, true) => at.required(errors, "one of datasetName and datasetUUID is required"),
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            at.invalid_as(errors, "resource", detail);
        }
        _ => {}
    }
    if name.text().contains('/') {
        name.invalid(errors, "must not contain '/'");
    }
}

pub fn validate_fc(at: &At, errors: &mut ErrorList) {
    let (names, ids) = (at.child("targetWWNs"), at.child("wwids"));
    match (names.is_empty(), ids.is_empty()) {
        (true, true) => {
            names.required(errors, "must specify either targetWWNs or wwids, but not both");
        }
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            names.invalid(errors, detail);
        }
        _ => {}
    }
    let lun = at.child("lun");
    match lun.is_set() {
        _ if names.is_empty() => {}
        false => lun.required(errors, "lun is required if targetWWNs is specified"),
        true => lun.between(errors, 0..=255),
    }
}

pub fn validate_quobyte(at: &At, errors: &mut ErrorList) {
    const PAIRS: &str = "must be a host:port pair or multiple pairs separated by commas";
    const TENANT_MAX: usize = 64;
    let registry = at.child("registry");
    if registry.is_empty() {
        registry.required(errors, PAIRS);
    } else if at.text_of("tenant").len() > TENANT_MAX {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        at.child("tenant").required(errors, detail);
    } else {
        let faulty = registry.text().split(',').filter(|pair| !is_host_and_port(pair));
        faulty.for_each(|_| registry.invalid(errors, PAIRS));
    }
    at.child("volume").needed(errors);
}

/// One colon outside of brackets, with or without something around it.
fn is_host_and_port(text: &str) -> bool {
    match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((_, port)) => port.starts_with(':') && !port[1..].contains([':', '[', ']']),
        None => text.matches(':').count() == 1 && !text.contains(['[', ']']),
    }
}

pub fn validate_azure_disk(at: &At, errors: &mut ErrorList) {
    needs(at, &["diskName", "diskURI"], errors);
    at.child("cachingMode").one_of_if_set(errors, &["None", "ReadOnly", "ReadWrite"]);
    let kind = at.child("kind");
    kind.one_of_if_set(errors, &["Dedicated", "Managed", "Shared"]);
    let (prefix, form) = match kind.text() {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        ),
        _ => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    let uri = at.child("diskURI");
    if kind.is_set() && !uri.text().starts_with(prefix) {
        uri.not_supported(errors, &[form]);
    }
}

/// Options are the driver's to name, and not Kubernetes'.
pub fn validate_flex(at: &At, errors: &mut ErrorList) {
    at.child("driver").needed(errors);
    for (key, option) in at.child("options").entries() {
        let domain = key.split_once('/').map_or(key, |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            option.invalid_as(errors, key, detail);
        }
    }
}

pub fn validate_storage_os(at: &At, errors: &mut ErrorList) {
    at.child("volumeName").needed_and_obeys(errors, dns_label);
    at.child("volumeNamespace").obeys_if_set(errors, dns_label);
}

pub fn validate_driver_name(driver: &At, errors: &mut ErrorList) {
    const LONGEST: usize = 63;
    if !driver.needed(errors) {
        return;
    }
    if driver.text().len() > LONGEST {
        errors.too_long(&driver.path, LONGEST);
    }
    for fault in dns_subdomain(&driver.text().to_lowercase()) {
        driver.invalid(errors, fault);
    }
}

// === iSCSI ===

static ISCSI_NAMES: LazyLock<[(&str, Regex); 3]> = LazyLock::new(|| {
    let name = |prefix, pattern| (prefix, Regex::new(pattern).expect("a pattern of ours"));
    [
        name("iqn", r"iqn\.\d{4}-\d{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$"),
        name("eui", r"^eui.[[:alnum:]]{16}$"),
        name("naa", r"^naa.[[:alnum:]]{32}$"),
    ]
});

/// In a Pod; the message for a name without a known start tells which there are.
pub fn validate_iscsi(at: &At, errors: &mut ErrorList) {
    iscsi(at, "must be valid format starting with iqn, eui, or naa", errors);
    initiator(at, "must be valid format starting with iqn, eui, or naa", errors);
}

/// In a PersistentVolume, where the secret may be in any namespace.
pub fn validate_persistent_iscsi(at: &At, errors: &mut ErrorList) {
    iscsi(at, "must be valid format", errors);
    if at.has("secretRef") {
        at.child("secretRef").child("name").needed(errors);
    }
    initiator(at, "must be valid format", errors);
}

fn iscsi(at: &At, unknown: &str, errors: &mut ErrorList) {
    at.child("targetPortal").needed(errors);
    let iqn = at.child("iqn");
    if iqn.needed(errors) {
        iscsi_name(&iqn, iqn.text(), unknown, errors);
    }
    let lun = at.child("lun");
    if !(0..=255).contains(&lun.int()) {
        lun.invalid(errors, "must be between 0 and 255, inclusive");
    }
    let wants_secret = at.flag_of("chapAuthDiscovery") || at.flag_of("chapAuthSession");
    if wants_secret && !at.has("secretRef") {
        at.child("secretRef").required(errors, "");
    }
}

fn initiator(at: &At, unknown: &str, errors: &mut ErrorList) {
    if at.has("initiatorName") {
        iscsi_name(&at.child("initiatorname"), at.text_of("initiatorName"), unknown, errors);
    }
}

fn iscsi_name(at: &At, name: &str, unknown: &str, errors: &mut ErrorList) {
    match ISCSI_NAMES.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        None => at.invalid_as(errors, name, unknown),
        Some((_, pattern)) if !pattern.is_match(name) => {
            at.invalid_as(errors, name, "must be valid format");
        }
        Some(_) => {}
    }
}
