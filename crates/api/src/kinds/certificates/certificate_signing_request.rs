//! CertificateSigningRequest: a certificate asked for, approved or denied, and issued.
//!
//! The request path fills in who asks. Counterparts: `ValidateCertificateSigningRequestCreate`,
//! `printCertificateSigningRequest`.

use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::age;
use crate::field::ErrorList;
use crate::kind::{KindDef, NameRule, Strategy, keep};
use crate::kinds::at::At;
use crate::kinds::fill::{int, list, text};
use crate::kinds::signer::validate_signer_name;

pub struct CertificateSigningRequest;

const USAGES: &[&str] = &[
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

const SHORTEST: i64 = 600;

impl Strategy for CertificateSigningRequest {
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    /// The spec is what was asked for; it never changes.
    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep(object, old, "spec");
        keep(object, old, "status");
    }

    fn name_rule(&self) -> NameRule {
        NameRule::PathSegment
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("spec.signerName", "/spec/signerName")]
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        let request = spec.child("request");
        if let Err(fault) = read_request(request.text()) {
            request.invalid(errors, fault);
        }
        validate_usages(&spec.child("usages"), errors);
        validate_signer(&spec.child("signerName"), errors);
        let seconds = spec.child("expirationSeconds");
        if seconds.is_set() && seconds.int() < SHORTEST {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            seconds.invalid(errors, detail);
        }
        validate_conditions(&root.child("status").child("conditions"), errors);
    }

    fn validate_status_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_conditions(&root.child("status").child("conditions"), errors);
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "SignerName" => match text(object, "/spec/signerName") {
                "" => "<none>".into(),
                signer => signer.into(),
            },
            "Requestor" => text(object, "/spec/username").into(),
            "RequestedDuration" => match int(object, "/spec/expirationSeconds") {
                Some(seconds) => age::human(seconds).into(),
                None => "<none>".into(),
            },
            "Condition" => condition(object).into(),
            _ => Value::Null,
        }
    }
}

/// `Approved,Issued`, `Pending`, ...
fn condition(request: &Value) -> String {
    let conditions = list(request, "/status/conditions");
    let has = |of: &str| conditions.iter().any(|condition| text(condition, "/type") == of);
    let mut shown = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied".to_owned(),
        (false, true) => "Approved".to_owned(),
        _ => "Pending".to_owned(),
    };
    if has("Failed") {
        shown.push_str(",Failed");
    }
    if !text(request, "/status/certificate").is_empty() {
        shown.push_str(",Issued");
    }
    shown
}

// === validation ===

/// A PEM block `CERTIFICATE REQUEST` around a well-formed request.
fn read_request(base64: &str) -> Result<(), String> {
    let pem = BASE64_STANDARD.decode(base64).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    let body = pem
        .split_once("-----BEGIN CERTIFICATE REQUEST-----")
        .and_then(|(_, rest)| rest.split_once("-----END CERTIFICATE REQUEST-----"))
        .map(|(body, _)| body.split_whitespace().collect::<String>())
        .ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let der =
        BASE64_STANDARD.decode(body).map_err(|_| "PEM block type must be CERTIFICATE REQUEST")?;
    match der.first() {
        Some(0x30) => Ok(()),
        _ => Err("asn1: structure error: tags don't match".to_owned()),
    }
}

fn validate_usages(usages: &At, errors: &mut ErrorList) {
    if usages.is_empty() {
        usages.required(errors, "");
    }
    let mut seen = HashSet::new();
    for usage in usages.items() {
        usage.one_of(errors, USAGES);
        if !seen.insert(usage.text()) {
            usage.duplicate(errors);
        }
    }
}

fn validate_signer(signer: &At, errors: &mut ErrorList) {
    if signer.text() == "kubernetes.io/legacy-unknown" {
        return signer.invalid(errors, "the legacy signerName is not allowed via this API version");
    }
    validate_signer_name(signer, errors);
}

fn validate_conditions(conditions: &At, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for condition in conditions.items() {
        let of = condition.child("type");
        of.needed(errors);
        let status = condition.child("status");
        match (of.text(), status.text()) {
            (_, "") => status.required(errors, ""),
            ("Approved" | "Denied" | "Failed", "True") => {}
            ("Approved" | "Denied" | "Failed", _) => status.not_supported(errors, &["True"]),
            _ => status.one_of(errors, &["False", "True", "Unknown"]),
        }
        if !of.is_empty() && !seen.insert(of.text()) {
            condition.duplicate(errors);
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        conditions.invalid_as(errors, "Denied", detail);
    }
}
