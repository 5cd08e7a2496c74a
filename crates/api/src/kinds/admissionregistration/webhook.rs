//! Validating- and MutatingWebhookConfiguration: who is asked about which requests.

use std::collections::HashSet;

use serde_json::Value;

use super::expressions::Scope;
use super::matching::{
    FAILURE_POLICIES, POLICIES, default_match, default_rules, validate_conditions, validate_rule,
    validate_selectors,
};
use crate::field::ErrorList;
use crate::kind::Strategy;
use crate::kinds::at::At;
use crate::kinds::fill::{each, list, object, set};
use crate::validation::{dns_1035_label, dns_subdomain, port_number};

/// Both kinds; a mutating webhook may be asked again.
pub struct Configuration {
    pub mutating: bool,
}

const REVIEWS: &[&str] = &["v1", "v1beta1"];
const SIDE_EFFECTS: &[&str] = &["None", "NoneOnDryRun"];

impl Strategy for Configuration {
    fn default(&self, root: &mut Value) {
        let Some(root) = root.as_object_mut() else { return };
        for webhook in each(root, "webhooks") {
            set(webhook, "failurePolicy", "Fail");
            set(webhook, "timeoutSeconds", 10);
            default_match(webhook);
            default_rules(webhook, "rules");
            if self.mutating {
                set(webhook, "reinvocationPolicy", "Never");
            }
            let service = object(webhook, "clientConfig").and_then(|c| object(c, "service"));
            if let Some(service) = service {
                set(service, "port", 443);
            }
        }
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let mut names = HashSet::new();
        for webhook in root.child("webhooks").items() {
            validate_webhook(&webhook, self.mutating, errors);
            validate_reviews(&webhook.child("admissionReviewVersions"), errors);
            let name = webhook.child("name");
            if !name.is_empty() && !names.insert(name.text()) {
                name.duplicate(errors);
            }
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Webhooks" => list(object, "/webhooks").len().into(),
            _ => Value::Null,
        }
    }
}

fn validate_webhook(webhook: &At, mutating: bool, errors: &mut ErrorList) {
    qualified(&webhook.child("name"), errors);
    for rule in webhook.child("rules").items() {
        validate_rule(&rule, false, errors);
    }
    webhook.child("failurePolicy").one_of_if_set(errors, FAILURE_POLICIES);
    webhook.child("matchPolicy").one_of_if_set(errors, POLICIES);
    let effects = webhook.child("sideEffects");
    match effects.is_set() {
        true => effects.one_of(errors, SIDE_EFFECTS),
        false => effects.required(errors, "must specify one of None, NoneOnDryRun"),
    }
    let timeout = webhook.child("timeoutSeconds");
    if timeout.is_set() && !(1..=30).contains(&timeout.int()) {
        timeout.invalid(errors, "the timeout value must be between 1 and 30 seconds");
    }
    validate_selectors(webhook, errors);
    if mutating {
        webhook.child("reinvocationPolicy").one_of_if_set(errors, &["IfNeeded", "Never"]);
    }
    validate_client(&webhook.child("clientConfig"), errors);
    validate_conditions(&webhook.child("matchConditions"), &Scope::of_conditions(false), errors);
}

/// A domain name with at least three parts.
fn qualified(name: &At, errors: &mut ErrorList) {
    if !name.needed(errors) {
        return;
    }
    let faults = dns_subdomain(name.text());
    let well_formed = faults.is_empty();
    faults.into_iter().for_each(|fault| name.invalid(errors, fault));
    if well_formed && name.text().split('.').count() < 3 {
        name.invalid(errors, "should be a domain with at least three segments separated by dots");
    }
}

fn validate_reviews(versions: &At, errors: &mut ErrorList) {
    if versions.is_empty() {
        let detail = format!("must specify one of {}", REVIEWS.join(", "));
        return versions.required(errors, &detail);
    }
    let mut seen = HashSet::new();
    for version in versions.items() {
        match seen.insert(version.text()) {
            true => version.obeys(errors, dns_1035_label),
            false => version.invalid(errors, "duplicate version"),
        }
    }
    if !REVIEWS.iter().any(|known| seen.contains(known)) {
        versions.invalid(errors, format!("must include at least one of {}", REVIEWS.join(", ")));
    }
}

/// Exactly one of a URL and a Service. Shared with whoever else calls out.
pub(crate) fn validate_client(client: &At, errors: &mut ErrorList) {
    let (url, service) = (client.child("url"), client.child("service"));
    if url.is_set() == service.is_set() {
        return client.required(errors, "exactly one of url or service is required");
    }
    match service.is_set() {
        true => validate_service(&service, errors),
        false => validate_url(&url, errors),
    }
}

fn validate_service(service: &At, errors: &mut ErrorList) {
    service.child("name").needed(errors);
    service.child("namespace").needed(errors);
    let port = service.child("port");
    for fault in port_number(port.int()) {
        port.invalid(errors, format!("port is not valid: {fault}"));
    }
    let path = service.child("path");
    if !matches!(path.text(), "" | "/") {
        validate_service_path(&path, errors);
    }
}

fn validate_service_path(path: &At, errors: &mut ErrorList) {
    if path.text() == "//" {
        return path.invalid(errors, "segment[0] may not be empty");
    }
    if !path.text().starts_with('/') {
        path.invalid(errors, "must start with a '/'");
    }
    // Whatever the first character is, upstream takes it for the slash.
    let mut rest = path.text().chars();
    rest.next();
    let rest = rest.as_str();
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (index, segment) in rest.split('/').enumerate() {
        if segment.is_empty() {
            path.invalid(errors, format!("segment[{index}] may not be empty"));
            continue;
        }
        for fault in dns_subdomain(segment) {
            path.invalid(errors, format!("segment[{index}]: {fault}"));
        }
    }
}

fn validate_url(url: &At, errors: &mut ErrorList) {
    const WANTED: &str = "; desired format: https://host[/path]";
    let text = url.text();
    if text.starts_with(':') {
        let fault = format!("parse {text:?}: missing protocol scheme");
        return url.required(errors, &format!("url must be a valid URL: {fault}{WANTED}"));
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = rest.split('/').next().unwrap_or_default();
    let (user, host) = host.rsplit_once('@').unwrap_or(("", host));
    if scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{WANTED}");
        url.invalid_as(errors, scheme, detail);
    }
    if host.is_empty() {
        url.invalid_as(errors, host, format!("host must be specified{WANTED}"));
    }
    if !user.is_empty() {
        url.invalid_as(errors, user, "user information is not permitted in the URL");
    }
    if !fragment.is_empty() {
        url.invalid_as(errors, fragment, "fragments are not permitted in the URL");
    }
    if !query.is_empty() {
        url.invalid_as(errors, query, "query parameters are not permitted in the URL");
    }
}
