//! ResourceClaim and its template: a request for devices.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{Object, each, list, object, object_at, set};
use crate::meta::meta;
use crate::validation::{dns_label, dns_subdomain};

pub struct ResourceClaim;
pub struct ResourceClaimTemplate;

const REQUESTS_MAX: usize = 32;

impl Strategy for ResourceClaim {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec") {
            default_spec(spec);
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({});
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_spec(&At::root(object).child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        root.child("spec").unchanged(errors, &old.child("spec"));
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "State" => state(object).into(),
            _ => Value::Null,
        }
    }
}

impl Strategy for ResourceClaimTemplate {
    fn default(&self, object: &mut Value) {
        if let Some(spec) = object_at(object, "/spec/spec") {
            default_spec(spec);
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let template = root.child("spec");
        validate_spec(&template.child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        root.child("spec").unchanged(errors, &old.child("spec"));
    }
}

/// `allocated,reserved`, `pending`, ...
fn state(claim: &Value) -> String {
    let mut states = Vec::new();
    if meta(claim).deletion_timestamp().is_some() {
        states.push("deleted");
    }
    match claim.pointer("/status/allocation") {
        None if states.is_empty() => states.push("pending"),
        None => {}
        Some(_) => {
            states.push("allocated");
            if !list(claim, "/status/reservedFor").is_empty() {
                states.push("reserved");
            }
        }
    }
    states.join(",")
}

fn default_spec(spec: &mut Object) {
    let Some(devices) = object(spec, "devices") else { return };
    for request in each(devices, "requests") {
        if let Some(exactly) = object(request, "exactly") {
            default_request(exactly);
        }
        each(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Object) {
    set(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set(request, "count", 1);
    }
}

// === validation ===

fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let devices = spec.child("devices");
    let requests = devices.child("requests");
    if requests.list().len() > REQUESTS_MAX {
        errors.too_many(&requests.path, requests.list().len(), REQUESTS_MAX);
        return;
    }
    let mut names = HashSet::new();
    for request in requests.items() {
        validate_request(&request, errors);
        let name = request.text_of("name");
        if !name.is_empty() && !names.insert(name) {
            errors.duplicate(&request.path, name);
        }
    }
    for constraint in devices.child("constraints").items() {
        validate_constraint(&constraint, requests.list(), errors);
    }
}

fn validate_request(request: &At, errors: &mut ErrorList) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    let name = request.child("name");
    for fault in dns_label(name.text()) {
        name.invalid_as(errors, name.text(), fault);
    }
    let (exactly, first) = (request.child("exactly"), request.child("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (true, true) => {
            let detail = format!("{ONE}, but multiple fields are set");
            request.invalid_as(errors, Value::Null, detail);
        }
        (false, false) => request.required(errors, ONE),
        (true, false) => validate_exact(&exactly, errors),
        (false, true) => {
            for sub in first.items() {
                sub.child("name").obeys(errors, dns_label);
                validate_exact(&sub, errors);
            }
        }
    }
}

fn validate_exact(request: &At, errors: &mut ErrorList) {
    request.child("deviceClassName").needed_and_obeys(errors, dns_subdomain);
    let (mode, count) = (request.child("allocationMode"), request.child("count"));
    match mode.text() {
        "All" if count.int() != 0 => {
            let detail = "must not be specified when allocationMode is 'All'";
            count.invalid(errors, detail);
        }
        "All" => {}
        "ExactCount" if count.int() <= 0 => {
            count.invalid_as(errors, count.int(), "must be greater than zero");
        }
        "ExactCount" => {}
        _ => mode.not_supported(errors, &["All", "ExactCount"]),
    }
}

fn validate_constraint(constraint: &At, requests: &[Value], errors: &mut ErrorList) {
    let known = |name: &str| {
        let (name, sub) = name.split_once('/').map_or((name, None), |(n, s)| (n, Some(s)));
        requests.iter().filter(|request| request["name"] == name).any(|request| match sub {
            None => true,
            Some(sub) => list(request, "/firstAvailable").iter().any(|entry| entry["name"] == sub),
        })
    };
    for name in constraint.child("requests").items() {
        if !known(name.text()) {
            let detail = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
            name.invalid(errors, detail);
        }
    }
    for field in ["matchAttribute", "distinctAttribute"] {
        let attribute = constraint.child(field);
        if attribute.is_set() && !attribute.text().contains('/') {
            let detail = "a fully qualified name must be a domain and a name separated by a slash";
            attribute.invalid(errors, detail);
        }
    }
}
