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
    /// Upstream compares the webhooks bit by bit.
    fn counts_empties(&self) -> bool {
        true
    }

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
    // Upstream confuses the two: of a name that is missing it says that the namespace is.
    for (field, told) in [("namespace", "name"), ("name", "namespace")] {
        if service.child(field).is_empty() {
            service.child(told).required(errors, "");
        }
    }
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

fn validate_url(at: &At, errors: &mut ErrorList) {
    const WANTED: &str = "; desired format: https://host[/path]";
    let url = match Url::parse(at.text()) {
        Ok(url) => url,
        Err(fault) => {
            let fault = format!("parse {:?}: {fault}", at.text());
            return at.required(errors, &format!("url must be a valid URL: {fault}{WANTED}"));
        }
    };
    if url.scheme != "https" {
        let detail = format!("'https' is the only allowed URL scheme{WANTED}");
        at.invalid_as(errors, url.scheme.as_str(), detail);
    }
    if url.host.is_empty() {
        at.invalid_as(errors, url.host, format!("host must be specified{WANTED}"));
    }
    let unwanted = [
        (url.user, "user information is"),
        (url.fragment, "fragments are"),
        (url.query, "query parameters are"),
    ];
    for (part, what) in unwanted {
        if !part.is_empty() {
            at.invalid_as(errors, part, format!("{what} not permitted in the URL"));
        }
    }
}

/// The parts of a URL that a webhook's may or may not have, told apart as Go does.
#[derive(Debug, Default, PartialEq)]
struct Url<'a> {
    scheme: String,
    user: &'a str,
    host: &'a str,
    query: &'a str,
    fragment: &'a str,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Result<Url<'a>, String> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".to_owned());
        }
        let (text, fragment) = text.split_once('#').unwrap_or((text, ""));
        let (scheme, rest) = scheme(text)?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if let Some(escape) = bad_escape(rest) {
            return Err(format!("invalid URL escape {escape:?}"));
        }
        let Some(rest) = rest.strip_prefix("//") else {
            let segment = rest.split('/').next().unwrap_or_default();
            if scheme.is_empty() && segment.contains(':') {
                return Err("first path segment in URL cannot contain colon".to_owned());
            }
            return Ok(Url { scheme, query, fragment, ..Url::default() });
        };
        let authority = rest.split('/').next().unwrap_or_default();
        let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
        let odd = |c: &char| c.is_ascii() && !c.is_ascii_alphanumeric() && !HOST.contains(*c);
        if let Some(odd) = host.chars().find(odd) {
            return Err(format!("invalid character {:?} in host name", odd.to_string()));
        }
        Ok(Url { scheme, user, host, query, fragment })
    }
}

/// The first percent sign without two digits behind it, and what stands there instead.
fn bad_escape(text: &str) -> Option<&str> {
    text.match_indices('%').map(|(at, _)| &text[at..]).find_map(|escape| {
        let fine =
            escape.len() > 2 && escape.bytes().skip(1).take(2).all(|b| b.is_ascii_hexdigit());
        let shown = escape.char_indices().nth(3).map_or(escape.len(), |(end, _)| end);
        (!fine).then(|| &escape[..shown])
    })
}

/// What a host may hold beside letters and digits.
const HOST: &str = "-._~!$&'()*+,;=:[]<>\"%";

/// The scheme in small letters, and what follows its colon.
fn scheme(text: &str) -> Result<(String, &str), String> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
    match text.split_once(':') {
        Some(("", _)) => Err("missing protocol scheme".to_owned()),
        Some((scheme, rest))
            if scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.chars().all(word) =>
        {
            Ok((scheme.to_lowercase(), rest))
        }
        _ => Ok((String::new(), text)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_was_taken_for_a_host() {
        let parsed = |text| Url::parse(text).expect("a URL");
        assert_eq!(parsed("a/b/c"), Url::default());
        assert_eq!(parsed("HTTPS://u@h:1/p?q#f").host, "h:1");
        assert_eq!(parsed("HTTPS://u@h:1/p?q#f").scheme, "https");
        assert_eq!(parsed("https:opaque").host, "");
        let refused = |text| Url::parse(text).unwrap_err();
        assert_eq!(refused(":x"), "missing protocol scheme");
        assert_eq!(refused("5%"), r#"invalid URL escape "%""#);
        assert_eq!(refused("https://a/%zz1"), r#"invalid URL escape "%zz""#);
        assert_eq!(refused("1:x"), "first path segment in URL cannot contain colon");
        assert_eq!(refused("https://a b/"), r#"invalid character " " in host name"#);
    }
}
