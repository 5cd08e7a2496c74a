//! What a claim asks for: requests for devices, constraints between them, configuration for drivers.
//!
//! Shared by ResourceClaim and its template. Counterpart: `validateDeviceClaim`.

use serde_json::Value;

use super::rules::{self, CONFIG_MAX, SELECTORS_MAX, by_name, itself};
use super::selector::validate_selector;
use super::taint::validate_toleration;
use crate::field::ErrorList;
use crate::kinds::at::{At, POSITIVE};
use crate::kinds::fill::{Object, each, list, object, set_if_empty};
use crate::kinds::pod_spec::volume_sources::validate_driver_name;
use crate::validation::{dns_label, dns_subdomain};

pub const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const FIRST_AVAILABLE_MAX: usize = 8;

// === defaults ===

pub fn default_spec(spec: &mut Object) {
    let Some(devices) = object(spec, "devices") else { return };
    for request in each(devices, "requests") {
        if let Some(exactly) = object(request, "exactly") {
            default_request(exactly);
        }
        each(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Object) {
    set_if_empty(request, "allocationMode", "ExactCount");
    if request["allocationMode"] == "ExactCount" {
        set_if_empty(request, "count", 1);
    }
}

// === validation ===

/// The names by which requests are referred to: `request`, or `request/subrequest`.
pub struct RequestNames<'a>(&'a [Value]);

impl<'a> RequestNames<'a> {
    pub fn of(spec: &'a Value) -> RequestNames<'a> {
        RequestNames(list(spec, "/devices/requests"))
    }

    fn has(&self, name: &str) -> bool {
        let (name, sub) = name.split_once('/').map_or((name, None), |(n, s)| (n, Some(s)));
        // Of two requests by one name upstream remembers the last.
        let found = self.0.iter().rev().find(|request| by_name(request) == name);
        found.is_some_and(|request| {
            let alternatives = list(request, "/firstAvailable");
            sub.is_none_or(|sub| alternatives.iter().any(|entry| by_name(entry) == sub))
        })
    }

    /// A reference to a request.
    pub fn validate(&self, name: &At, errors: &mut ErrorList) {
        const UNKNOWN: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
        let segments: Vec<&str> = name.text().split('/').collect();
        if segments.len() > 2 {
            return name.invalid_as(errors, name.text(), UNKNOWN);
        }
        for segment in segments {
            dns_label(segment)
                .into_iter()
                .for_each(|fault| name.invalid_as(errors, segment, fault));
        }
        if !self.has(name.text()) {
            name.invalid_as(errors, name.text(), UNKNOWN);
        }
    }

    /// The requests that a constraint or a configuration is about.
    pub fn validate_all(&self, names: &At, errors: &mut ErrorList) {
        rules::set(names, REQUESTS_MAX, itself, errors, |name, errors| self.validate(name, errors));
    }
}

pub fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let names = RequestNames::of(spec.value);
    let devices = spec.child("devices");
    let requests = devices.child("requests");
    rules::set(&requests, REQUESTS_MAX, by_name, errors, validate_request);
    rules::each(&devices.child("constraints"), CONSTRAINTS_MAX, errors, |constraint, errors| {
        validate_constraint(constraint, &names, errors);
    });
    rules::each(&devices.child("config"), CONFIG_MAX, errors, |config, errors| {
        names.validate_all(&config.child("requests"), errors);
        validate_config(config, false, errors);
    });
}

fn validate_request(request: &At, errors: &mut ErrorList) {
    const ONE: &str = "exactly one of `exactly` or `firstAvailable` is required";
    request.child("name").obeys(errors, dns_label);
    let (exactly, first) = (request.child("exactly"), request.child("firstAvailable"));
    match (exactly.is_set(), !first.is_empty()) {
        (true, true) => {
            let detail = format!("{ONE}, but multiple fields are set");
            request.invalid_as(errors, Value::Null, detail);
        }
        (false, false) => request.required(errors, ONE),
        (true, false) => validate_exact(&exactly, errors),
        (false, true) => rules::set(&first, FIRST_AVAILABLE_MAX, by_name, errors, |sub, errors| {
            sub.child("name").obeys(errors, dns_label);
            validate_exact(sub, errors);
        }),
    }
}

fn validate_exact(request: &At, errors: &mut ErrorList) {
    request.child("deviceClassName").needed_and_obeys(errors, dns_subdomain);
    rules::each(&request.child("selectors"), SELECTORS_MAX, errors, validate_selector);
    let (mode, count) = (request.child("allocationMode"), request.child("count"));
    match mode.text() {
        "All" if count.int() != 0 => {
            count.invalid(errors, "must not be specified when allocationMode is 'All'");
        }
        "All" => {}
        "ExactCount" if count.int() <= 0 => count.invalid_as(errors, count.int(), POSITIVE),
        "ExactCount" => {}
        _ => mode.not_supported(errors, &["All", "ExactCount"]),
    }
    let tolerations = request.child("tolerations");
    tolerations.items().for_each(|toleration| validate_toleration(&toleration, errors));
}

fn validate_constraint(constraint: &At, names: &RequestNames<'_>, errors: &mut ErrorList) {
    names.validate_all(&constraint.child("requests"), errors);
    let attribute = ["matchAttribute", "distinctAttribute"].into_iter().find(|f| constraint.has(f));
    match attribute {
        Some(field) => rules::fully_qualified_name(&constraint.child(field), errors),
        None => {
            let detail = r#"exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set"#;
            constraint.required(errors, detail);
        }
    }
}

/// What a driver is told; `stored` if it was let in before.
pub fn validate_config(config: &At, stored: bool, errors: &mut ErrorList) {
    let opaque = config.child("opaque");
    if !opaque.is_set() {
        return opaque.required(errors, "");
    }
    validate_driver_name(&opaque.child("driver"), errors);
    rules::raw_object(&opaque.child("parameters"), stored, errors);
}
