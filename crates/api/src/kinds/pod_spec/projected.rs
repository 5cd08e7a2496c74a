//! What can be wrong with volumes that show objects as files: Secrets, ConfigMaps, the Pod itself,
//! tokens and certificates, alone or projected into one directory.
//!
//! Counterparts: `validateSecretVolumeSource` and its like, `validateProjectionSources`.

use std::collections::HashSet;

use super::environment::{validate_field_ref, validate_resource_ref};
use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::unreserved_path;
use crate::kinds::selectors::validate_label_selector;
use crate::kinds::signer::validate_signer_name;
use crate::validation::{dns_subdomain, qualified_name};

pub fn validate_secret(at: &At, errors: &mut ErrorList) {
    at.child("secretName").needed(errors);
    file_mode(&at.child("defaultMode"), errors);
    at.child("items").items().for_each(|item| key_to_path(&item, errors));
}

pub fn validate_config_map(at: &At, errors: &mut ErrorList) {
    at.child("name").needed(errors);
    file_mode(&at.child("defaultMode"), errors);
    at.child("items").items().for_each(|item| key_to_path(&item, errors));
}

pub fn validate_downward(at: &At, errors: &mut ErrorList) {
    file_mode(&at.child("defaultMode"), errors);
    // Upstream does not number the items here.
    at.child("items").list().iter().for_each(|item| downward_file(&At::new(item, at.path), errors));
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

/// The paths taken in one volume. A second file at a path is reported at the volume.
struct Paths<'a, 'v, 'p> {
    volume: &'a At<'v, 'p>,
    taken: HashSet<String>,
}

impl Paths<'_, '_, '_> {
    fn take(&mut self, path: &str, shown: &str, errors: &mut ErrorList) {
        if !path.is_empty() && !self.taken.insert(path.to_owned()) {
            self.volume.invalid_as(errors, shown, "conflicting duplicate paths");
        }
    }
}

type Projection = fn(&At, &mut Paths<'_, '_, '_>, &mut ErrorList);

const PROJECTIONS: &[(&str, Projection)] = &[
    ("secret", keys),
    ("configMap", keys),
    ("downwardAPI", pod_fields),
    ("serviceAccountToken", token),
    ("clusterTrustBundle", trust_bundle),
    ("podCertificate", certificate),
];

/// Upstream says nothing of a source of no kind at all.
pub fn validate_projected(at: &At, errors: &mut ErrorList) {
    file_mode(&at.child("defaultMode"), errors);
    let mut paths = Paths { volume: at, taken: HashSet::new() };
    for source in at.child("sources").items() {
        let given: Vec<_> = PROJECTIONS.iter().filter(|(field, _)| source.has(field)).collect();
        for (field, rule) in &given {
            rule(&source.child(field), &mut paths, errors);
        }
        if given.len() > 1 {
            source.forbidden(errors, "may not specify more than 1 volume type per source");
        }
    }
}

fn keys(part: &At, paths: &mut Paths<'_, '_, '_>, errors: &mut ErrorList) {
    part.child("name").needed(errors);
    for item in part.child("items").items() {
        key_to_path(&item, errors);
        paths.take(item.text_of("path"), part.text_of("name"), errors);
    }
}

/// Faults of a file are reported at the source, which has no numbered items in upstream's path.
fn pod_fields(part: &At, paths: &mut Paths<'_, '_, '_>, errors: &mut ErrorList) {
    for item in part.child("items").list() {
        let file = At::new(item, part.path);
        downward_file(&file, errors);
        paths.take(file.text_of("path"), file.text_of("path"), errors);
    }
}

/// Its path is reported at the volume, and clashes with no other.
fn token(part: &At, paths: &mut Paths<'_, '_, '_>, errors: &mut ErrorList) {
    validate_token_seconds(&part.child("expirationSeconds"), errors);
    let path = part.child("path");
    let path = At::new(path.value, paths.volume.path);
    path.under("path").needed_and_obeys(errors, unreserved_path);
}

fn trust_bundle(part: &At, paths: &mut Paths<'_, '_, '_>, errors: &mut ErrorList) {
    match (part.has("name"), part.has("signerName")) {
        (true, true) => part.invalid(errors, "only one of name and signerName may be used"),
        (true, false) => named_bundle(part, errors),
        (false, true) => {
            let signer = part.child("signerName");
            if signer.is_empty() {
                signer.required(errors, "must be a valid signer name");
            }
            validate_signer_name(&signer, errors);
            validate_label_selector(&part.child("labelSelector"), errors);
        }
        (false, false) => part.required(errors, "either name or signerName must be specified"),
    }
    let path = part.child("path");
    path.needed(errors);
    path.obeys(errors, unreserved_path);
    paths.take(path.text(), path.text(), errors);
}

fn named_bundle(part: &At, errors: &mut ErrorList) {
    let name = part.child("name");
    if name.is_empty() {
        name.required(errors, "must be a valid object name");
    }
    // What comes before the last colon names the signer, with colons for slashes.
    let own = name.text().rsplit_once(':').map_or(name.text(), |(_, own)| own);
    for fault in dns_subdomain(own) {
        name.invalid(errors, format!("not a valid clustertrustbundlename: {fault}"));
    }
    let selector = part.child("labelSelector");
    if selector.is_set() {
        selector.invalid(errors, "labelSelector must be unset if name is specified");
    }
}

const KEY_TYPES: &[&str] =
    &["RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"];
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

fn certificate(part: &At, paths: &mut Paths<'_, '_, '_>, errors: &mut ErrorList) {
    const FILES: [&str; 3] = ["credentialBundlePath", "keyPath", "certificateChainPath"];
    let signer = part.child("signerName");
    validate_signer_name(&signer, errors);
    let annotations = part.child("userAnnotations");
    for (key, _) in annotations.entries() {
        for fault in qualified_name(&key.to_lowercase()) {
            annotations.invalid_as(errors, key, fault);
        }
    }
    part.child("keyType").one_of(errors, KEY_TYPES);
    let seconds = part.child("maxExpirationSeconds");
    if seconds.is_set() && seconds.int() < HOUR {
        let detail = format!("if provided, maxExpirationSeconds must be >= {HOUR}");
        seconds.invalid(errors, detail);
    }
    let longest = if signer.text().starts_with("kubernetes.io/") { DAY } else { 91 * DAY };
    if seconds.int() > longest {
        let detail = format!("if provided, maxExpirationSeconds must be <= {longest}");
        seconds.invalid(errors, detail);
    }
    for file in FILES {
        let path = part.child(file);
        path.obeys_if_set(errors, unreserved_path);
        paths.take(path.text(), path.text(), errors);
    }
    if FILES.iter().all(|file| part.child(file).is_empty()) {
        let detail =
            "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
        part.required(errors, detail);
    }
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
