//! CertificateSigningRequest: a certificate asked for, approved or denied, and issued.
//!
//! The request path fills in who asks. Invariant: a verdict is given through `approval` alone, and stays. Counterparts: `ValidateCertificateSigningRequestCreate`,
//! `printCertificateSigningRequest`.

use std::cmp::Ordering;
use std::collections::HashSet;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::age;
use crate::field::{ErrorList, Path};
use crate::kind::{FieldPaths, KindDef, NameRule, Strategy, keep, keep_all_but_status};
use crate::kinds::at::At;
use crate::kinds::fill::{int, list, text};
use crate::kinds::signer::validate_signer_name;
use crate::time;

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
    fn resets(&self, _kind: &KindDef) -> FieldPaths {
        &[&["f:spec"], &["f:status"]]
    }

    fn without_tables(&self) -> &'static [&'static str] {
        &["approval"]
    }

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

    fn prepare_for_status_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        keep_all_but_status(object, old);
        ["Approved", "Denied"].iter().for_each(|of| keep_conditions(object, old, of));
        date_conditions(object, old);
    }

    fn prepare_for_part_update(&self, _part: &str, object: &mut Value, old: &Value) {
        date_conditions(object, old);
    }

    /// A certificate is written once, and approving is done elsewhere.
    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_change(object, old, errors);
        approvals_stay(object, old, errors);
        let [new, was] = [object, old].map(|object| text(object, "/status/certificate"));
        if new != was && !was.is_empty() {
            let detail = "updates may not modify existing certificate content";
            errors.forbidden(&Path::new("status").child("certificate"), detail);
        }
    }

    fn validate_part_update(
        &self,
        _part: &str,
        object: &Value,
        old: &Value,
        errors: &mut ErrorList,
    ) {
        validate_change(object, old, errors);
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

/// Conditions of a type are what they were, as long as there are as many of them.
fn keep_conditions(object: &mut Value, old: &Value, of: &str) {
    let conditions = list(old, "/status/conditions").iter();
    let before: Vec<&Value> = conditions.filter(|condition| condition["type"] == of).collect();
    let now = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    let now = now.into_iter().flatten().filter(|condition| condition["type"] == of);
    let now: Vec<&mut Value> = now.collect();
    if now.len() == before.len() {
        now.into_iter().zip(before).for_each(|(now, before)| now.clone_from(before));
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
            of.duplicate(errors);
        }
    }
    if seen.contains("Approved") && seen.contains("Denied") {
        let detail = "Approved and Denied conditions are mutually exclusive";
        conditions.invalid_as(errors, "Denied", detail);
    }
}

// === changes ===

/// Conditions say when they were written, and since when they hold.
fn date_conditions(object: &mut Value, old: &Value) {
    let now = time::format(time::now());
    let conditions = object.pointer_mut("/status/conditions").and_then(Value::as_array_mut);
    for condition in conditions.into_iter().flatten() {
        if condition["lastUpdateTime"].is_null() {
            condition["lastUpdateTime"] = now.clone().into();
        }
        if condition["lastTransitionTime"].is_null() {
            let same = list(old, "/status/conditions").iter().find(|before| {
                before["type"] == condition["type"] && before["status"] == condition["status"]
            });
            let since = same.map(|before| before["lastTransitionTime"].clone());
            let since = since.filter(|since| !since.is_null());
            condition["lastTransitionTime"] = since.unwrap_or_else(|| now.clone().into());
        }
    }
}

/// What holds for a change by any way: the new state is sound, and no verdict is taken back.
fn validate_change(object: &Value, old: &Value, errors: &mut ErrorList) {
    validate_conditions(&At::root(object).child("status").child("conditions"), errors);
    let [certificate, was] = [object, old].map(|object| text(object, "/status/certificate"));
    if let Some(fault) = certificate_fault(certificate).filter(|_| certificate != was) {
        errors.invalid(&Path::new("status").child("certificate"), "<certificate data>", fault);
    }
    for of in ["Approved", "Denied", "Failed"] {
        if of_type(object, of).len() < of_type(old, of).len() {
            let detail = format!("updates may not remove a condition of type {of:?}");
            errors.forbidden(&Path::new("status").child("conditions"), detail);
        }
    }
}

/// Only the approval subresource says yes or no.
fn approvals_stay(object: &Value, old: &Value, errors: &mut ErrorList) {
    for of in ["Approved", "Denied"] {
        let (new, was) = (of_type(object, of), of_type(old, of));
        let what = match new.len().cmp(&was.len()) {
            Ordering::Less => continue,
            Ordering::Greater => "add",
            Ordering::Equal if new != was => "modify",
            Ordering::Equal => continue,
        };
        let detail = format!("updates may not {what} a condition of type {of:?}");
        errors.forbidden(&Path::new("status").child("conditions"), detail);
    }
}

fn of_type<'a>(object: &'a Value, of: &str) -> Vec<&'a Value> {
    let conditions = list(object, "/status/conditions").iter();
    conditions.filter(|condition| text(condition, "/type") == of).collect()
}

/// What is wrong with an issued certificate, which may come with those above it.
fn certificate_fault(base64: &str) -> Option<String> {
    let pem = BASE64_STANDARD.decode(base64).unwrap_or_default();
    let pem = String::from_utf8_lossy(&pem);
    let mut blocks = pem.split("-----BEGIN ").skip(1).peekable();
    if base64.is_empty() {
        return None;
    }
    if blocks.peek().is_none() {
        return Some("must contain at least one CERTIFICATE PEM block".to_owned());
    }
    blocks.find_map(|block| {
        let (label, rest) = block.split_once("-----")?;
        if label != "CERTIFICATE" {
            return Some(format!("only CERTIFICATE PEM blocks are allowed, found {label:?}"));
        }
        let body: String = rest.split("-----END").next()?.split_whitespace().collect();
        let der = BASE64_STANDARD.decode(body).unwrap_or_default();
        (der.first() != Some(&0x30)).then(|| "x509: malformed certificate".to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(conditions: Value) -> Value {
        json!({ "status": { "conditions": conditions } })
    }

    fn verdict(of: &str) -> Value {
        json!({ "type": of, "status": "True" })
    }

    fn faults(check: impl FnOnce(&mut ErrorList)) -> Vec<String> {
        let mut errors = ErrorList::default();
        check(&mut errors);
        errors.0.iter().map(|error| format!("{}: {}", error.field, error.body())).collect()
    }

    #[test]
    fn a_verdict_is_given_in_one_place_and_not_taken_back() {
        let (open, approved) = (request(json!([])), request(json!([verdict("Approved")])));
        let csr = CertificateSigningRequest;
        let by_status = |new: &Value, old: &Value| {
            faults(|errors| csr.validate_status_update(new, old, errors))
        };
        let by_approval = |new: &Value, old: &Value| {
            faults(|errors| csr.validate_part_update("approval", new, old, errors))
        };
        assert!(by_approval(&approved, &open).is_empty());
        assert_eq!(
            by_status(&approved, &open),
            ["status.conditions: Forbidden: updates may not add a condition of type \"Approved\""]
        );
        assert_eq!(
            by_approval(&open, &approved),
            [
                "status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""
            ]
        );
        let failed = request(json!([verdict("Approved"), verdict("Failed")]));
        assert!(by_status(&failed, &approved).is_empty());
    }

    #[test]
    fn conditions_are_dated_and_keep_their_beginning() {
        let mut old = request(json!([verdict("Approved")]));
        old["status"]["conditions"][0]["lastTransitionTime"] = "2001-01-01T00:00:00Z".into();
        let mut new = request(json!([verdict("Approved"), verdict("Failed")]));
        date_conditions(&mut new, &old);
        let conditions = &new["status"]["conditions"];
        assert_eq!(conditions[0]["lastTransitionTime"], "2001-01-01T00:00:00Z");
        assert!(conditions[0]["lastUpdateTime"].is_string());
        assert!(conditions[1]["lastTransitionTime"].is_string());
    }

    #[test]
    fn what_is_issued_is_a_certificate() {
        let fault = |pem: &str| certificate_fault(&BASE64_STANDARD.encode(pem));
        assert_eq!(fault(""), None);
        assert_eq!(
            fault("abc").as_deref(),
            Some("must contain at least one CERTIFICATE PEM block")
        );
        let key = "-----BEGIN KEY-----\nMAA=\n-----END KEY-----\n";
        let wanted = "only CERTIFICATE PEM blocks are allowed, found \"KEY\"";
        assert_eq!(fault(key).as_deref(), Some(wanted));
        assert_eq!(fault(&key.replace("KEY", "CERTIFICATE")), None);
    }

    #[test]
    fn a_status_update_that_words_an_approval_differently_keeps_it() {
        let kinds = crate::kinds::builtin();
        let kind =
            kinds.get("certificates.k8s.io", "v1", "certificatesigningrequests").expect("served");
        let approved = |message: &str| serde_json::json!({"type": "Approved", "status": "True", "message": message, "lastUpdateTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let old = serde_json::json!({"status": {"conditions": [approved("first")]}});
        let mut new = serde_json::json!({"status": {"conditions": [approved("second")]}});
        CertificateSigningRequest.prepare_for_status_update(kind, &mut new, &old);
        assert_eq!(new["status"], old["status"]);
    }
}
