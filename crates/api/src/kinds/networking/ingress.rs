//! Ingress: HTTP routes by host and path.
//!
//! Counterparts: `ValidateIngress`, `printIngress`.

use serde_json::{Value, json};

use crate::field::{ErrorList, Path};
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{list, made, text};
use crate::kinds::rules::{lenient_ip, strict_ip};
use crate::meta::meta;
use crate::validation::{
    dns_label, dns_subdomain, path_segment, port_name, port_number, wildcard_dns_subdomain,
};

pub struct Ingress;

/// How the class was named before it had a field.
const CLASS: &str = "kubernetes.io/ingress.class";

impl Strategy for Ingress {
    fn tells_empty_from_absent(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        if let Some(status) = object.as_object_mut().and_then(|root| made(root, "status")) {
            made(status, "loadBalancer");
        }
    }

    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        object["status"] = json!({ "loadBalancer": {} });
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let spec = root.child("spec");
        validate_spec(&spec, errors);
        let class = meta(object).annotation(CLASS);
        let named = spec.text_of("ingressClassName");
        if let Some(class) = class.filter(|class| spec.has("ingressClassName") && *class != named) {
            let place = Path::new("annotations");
            let detail = "must match `ingressClassName` when both are specified";
            errors.invalid(&place.child(CLASS), class, detail);
        }
    }

    fn validate_update(&self, object: &Value, _old: &Value, errors: &mut ErrorList) {
        validate_spec(&At::root(object).child("spec"), errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        const BALANCERS: &str = "/status/loadBalancer/ingress";
        let before: Vec<&str> = list(old, BALANCERS).iter().map(|b| text(b, "/ip")).collect();
        let root = At::root(object);
        let status = root.child("status");
        for balancer in status.child("loadBalancer").child("ingress").items() {
            validate_balancer(&balancer, &before, errors);
        }
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        match meta(object).annotation(CLASS) {
            Some(_) if old.is_none() && object.pointer("/spec/ingressClassName").is_none() => {
                vec![format!(
                    "annotation {CLASS:?} is deprecated, please use 'spec.ingressClassName' instead"
                )]
            }
            _ => Vec::new(),
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Class" => class_of(object).into(),
            "Hosts" => hosts(object).into(),
            "Address" => addresses(object).into(),
            "Ports" if count_tls(object) > 0 => "80, 443".into(),
            "Ports" => "80".into(),
            _ => Value::Null,
        }
    }
}

fn class_of(ingress: &Value) -> &str {
    match text(ingress, "/spec/ingressClassName") {
        "" => "<none>",
        class => class,
    }
}

fn count_tls(ingress: &Value) -> usize {
    list(ingress, "/spec/tls").len()
}

/// The first three hosts, and how many more there are.
fn hosts(ingress: &Value) -> String {
    let hosts: Vec<&str> = list(ingress, "/spec/rules")
        .iter()
        .map(|rule| text(rule, "/host"))
        .filter(|host| !host.is_empty())
        .collect();
    match hosts.len() {
        0 => "*".to_owned(),
        1..=3 => hosts.join(","),
        more => format!("{} + {} more...", hosts[..3].join(","), more - 3),
    }
}

fn addresses(ingress: &Value) -> String {
    let balancers = list(ingress, "/status/loadBalancer/ingress").iter();
    let shown = balancers.map(|entry| match text(entry, "/ip") {
        "" => text(entry, "/hostname"),
        ip => ip,
    });
    shown.filter(|address| !address.is_empty()).collect::<Vec<_>>().join(",")
}

// === validation ===

/// `before`: addresses that an older release let through are not held against an update.
fn validate_balancer(balancer: &At, before: &[&str], errors: &mut ErrorList) {
    let (ip, host) = (balancer.child("ip"), balancer.child("hostname"));
    if !before.contains(&ip.text()) {
        ip.obeys_if_set(errors, strict_ip);
    }
    host.obeys_if_set(errors, dns_subdomain);
    if lenient_ip(host.text()).is_some() {
        host.invalid(errors, "must be a DNS name, not an IP address");
    }
}

const PATH_TYPES: &[&str] = &["Exact", "ImplementationSpecific", "Prefix"];

fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let rules = spec.child("rules");
    if rules.is_empty() && !spec.has("defaultBackend") {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.invalid_printed(&spec.path, rules.value.to_string(), detail);
    }
    if spec.has("defaultBackend") {
        validate_backend(&spec.child("defaultBackend"), errors);
    }
    for rule in spec.child("rules").items() {
        validate_host(&rule.child("host"), errors);
        let http = rule.child("http");
        if http.is_set() {
            let paths = http.child("paths");
            paths.needed(errors);
            paths.items().for_each(|path| validate_path(&path, errors));
        }
    }
    for tls in spec.child("tls").items() {
        tls.child("hosts").items().for_each(|host| validate_name(&host, errors));
        tls.child("secretName").obeys_if_set(errors, dns_subdomain);
    }
    let class = spec.child("ingressClassName");
    if class.is_set() {
        class.obeys(errors, dns_subdomain);
    }
}

fn validate_host(host: &At, errors: &mut ErrorList) {
    if host.is_empty() {
        return;
    }
    if lenient_ip(host.text()).is_some() {
        host.invalid(errors, "must be a DNS name, not an IP address");
    }
    validate_name(host, errors);
}

/// A DNS name, or a wildcard for the first label of one.
fn validate_name(host: &At, errors: &mut ErrorList) {
    match host.text().contains('*') {
        true => host.obeys(errors, wildcard_dns_subdomain),
        false => host.obeys(errors, dns_subdomain),
    }
}

fn validate_path(path: &At, errors: &mut ErrorList) {
    let of = path.child("pathType");
    if !of.is_set() {
        return of.required(errors, "pathType must be specified");
    }
    match of.text() {
        "Exact" | "Prefix" => validate_exact_path(&path.child("path"), errors),
        "ImplementationSpecific" => {
            let text = path.child("path");
            if !text.is_empty() && !text.text().starts_with('/') {
                text.invalid(errors, "must be an absolute path");
            }
        }
        _ => of.not_supported(errors, PATH_TYPES),
    }
    validate_backend(&path.child("backend"), errors);
}

fn validate_exact_path(path: &At, errors: &mut ErrorList) {
    let text = path.text();
    if !text.starts_with('/') {
        path.invalid_as(errors, text, "must be an absolute path");
    }
    for sequence in ["//", "/./", "/../", "%2f", "%2F"] {
        if text.contains(sequence) {
            path.invalid(errors, format!("must not contain '{sequence}'"));
        }
    }
    for suffix in ["/..", "/."] {
        if text.ends_with(suffix) {
            path.invalid(errors, format!("cannot end with '{suffix}'"));
        }
    }
}

fn validate_backend(backend: &At, errors: &mut ErrorList) {
    let (service, resource) = (backend.child("service"), backend.child("resource"));
    match (service.is_set(), resource.is_set()) {
        (true, true) => {
            backend.invalid_as(errors, "", "cannot set both resource and service backends");
        }
        (false, false) => {
            backend.invalid_as(errors, "", "resource or service backend is required");
        }
        (false, true) => {
            resource.child("apiGroup").obeys_if_given(errors, dns_subdomain);
            resource.child("kind").needed_and_obeys(errors, path_segment);
            resource.child("name").needed_and_obeys(errors, path_segment);
        }
        (true, false) => validate_service(backend, &service, errors),
    }
}

fn validate_service(backend: &At, service: &At, errors: &mut ErrorList) {
    service.child("name").needed_and_obeys(errors, dns_label);
    let port = service.child("port");
    let (name, number) = (port.child("name"), port.child("number"));
    match (name.is_empty(), number.int() == 0) {
        (false, false) => {
            backend.invalid_as(errors, "", "cannot set both port name & port number");
        }
        (false, true) => {
            for fault in port_name(name.text()) {
                service.child("port").child("name").invalid_as(errors, name.text(), fault);
            }
        }
        (true, false) => {
            for fault in port_number(number.int()) {
                number.invalid_as(errors, number.int(), fault);
            }
        }
        (true, true) => backend.required(errors, "port name or number is required"),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::check;

    #[test]
    fn a_backend_is_one_service_or_one_resource() {
        let path = "networking.k8s.io/v1/ingresses";
        let backend = |port: &str| {
            format!("spec: {{defaultBackend: {{service: {{name: s, port: {{{port}}}}}}}}}")
        };
        check(path, &backend("number: 80"), &[]);
        check(
            path,
            &backend(""),
            &["spec.defaultBackend: Required value: port name or number is required"],
        );
        check(
            path,
            "spec: {}",
            &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
        );
    }
}
