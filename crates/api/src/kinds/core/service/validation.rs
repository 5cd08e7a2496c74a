//! What can be wrong with a Service apart from its addresses, and what it is warned of.
//!
//! Counterparts: `validateService`, `ValidateLoadBalancerStatus`, `GetWarningsForService`. The order
//! of the calls is the order in which upstream reports faults.

use std::collections::HashSet;

use serde_json::json;

use super::addresses::{is_headless, validate_addresses, validate_class};
use crate::field::ErrorList;
use crate::internal::printed;
use crate::kinds::at::At;
use crate::kinds::core::endpoints::validate_reachable_ip;
use crate::kinds::rules::{cidr_warnings, ip_warning, lenient_ip, strict_cidr, strict_ip};
use crate::validation::{dns_label, dns_subdomain, label_key};

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";
const HINTS: &str = "service.kubernetes.io/topology-aware-hints";
const MODE: &str = "service.kubernetes.io/topology-mode";
const RANGES: &str = "service.beta.kubernetes.io/load-balancer-source-ranges";

/// Whether others can reach the Service from outside of the cluster.
pub fn is_reachable(spec: &At) -> bool {
    match spec.text_of("type") {
        "NodePort" | "LoadBalancer" => true,
        of => of == "ClusterIP" && !spec.child("externalIPs").is_empty(),
    }
}

pub fn validate_service(root: &At, old: &At, errors: &mut ErrorList) {
    let (metadata, was) = (root.child("metadata"), old.child("metadata"));
    let (annotations, before) = (metadata.child("annotations"), was.child("annotations"));
    let (spec, was) = (root.child("spec"), old.child("spec"));
    topology_annotations(&annotations, errors);
    let of = spec.text_of("type");
    if spec.child("ports").is_empty() && !is_headless(&spec) && of != "ExternalName" {
        spec.child("ports").required(errors, "");
    }
    by_type(&spec, of, errors);
    ports(&spec, errors);
    spec.child("selector").labels(errors);
    session_affinity(&spec, errors);
    validate_addresses(&spec, &was, errors);
    for address in spec.child("externalIPs").items() {
        let known = was.child("externalIPs").list().contains(address.value);
        match known || strict_ip(address.text()).is_empty() {
            true => validate_reachable_ip(&address, errors),
            false => address.obeys(errors, strict_ip),
        }
    }
    spec.child("type").needed_one_of(errors, TYPES);
    node_ports(&spec, of, errors);
    unique_ports(&spec, errors);
    source_ranges(&spec, &was, &annotations, &before, errors);
    balancer_ports(root, &spec, of, errors);
    validate_class(&spec, errors);
    traffic_policies(&spec, of, errors);
    let distribution = spec.child("trafficDistribution");
    distribution.one_of_if_set(errors, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
}

fn topology_annotations(annotations: &At, errors: &mut ErrorList) {
    let (mode, hints) = (annotations.child_key(MODE), annotations.child_key(HINTS));
    if mode.is_set() && hints.is_set() && mode.text() != hints.text() {
        mode.invalid(errors, format!("must match annotations[{HINTS}] when both are specified"));
    }
}

fn by_type(spec: &At, of: &str, errors: &mut ErrorList) {
    const NOT_WITH_NAMES: &str = "may not be set for ExternalName services";
    match of {
        "LoadBalancer" | "NodePort" if is_headless(spec) => {
            let addresses = spec.child("clusterIPs");
            let detail = format!("may not be set to 'None' for {of} services");
            errors.invalid(&addresses.path.index(0), "None", detail);
        }
        "ExternalName" => {
            for field in ["clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                if !spec.child(field).is_empty() {
                    spec.child(field).forbidden(errors, NOT_WITH_NAMES);
                }
            }
            let name = spec.child("externalName");
            match name.text().strip_suffix('.').unwrap_or(name.text()) {
                "" => name.required(errors, ""),
                text => {
                    let faults = dns_subdomain(text).into_iter();
                    faults.for_each(|fault| name.invalid_as(errors, text, fault));
                }
            }
        }
        _ => {}
    }
}

// === ports ===

fn ports(spec: &At, errors: &mut ErrorList) {
    let ports = spec.child("ports");
    let many = ports.list().len() > 1;
    let mut names = HashSet::new();
    for port in ports.items() {
        let name = port.child("name");
        match name.is_empty() {
            true if many => name.required(errors, ""),
            true => {}
            false => {
                name.obeys(errors, dns_label);
                if !names.insert(port.text_of("name").to_owned()) {
                    name.duplicate(errors);
                }
            }
        }
        port.child("port").port(errors);
        port.child("protocol").needed_one_of(errors, &["SCTP", "TCP", "UDP"]);
        port.child("targetPort").port_or_name(errors);
        port.child("appProtocol").obeys_if_given(errors, label_key);
    }
}

fn node_ports(spec: &At, of: &str, errors: &mut ErrorList) {
    let ports = spec.child("ports");
    let given = |port: &At| port.child("nodePort").int() != 0;
    if of == "ClusterIP" {
        for port in ports.items().filter(given) {
            let detail = "may not be used when `type` is 'ClusterIP'";
            port.child("nodePort").forbidden(errors, detail);
        }
    }
    let mut seen = HashSet::new();
    for port in ports.items().filter(given) {
        if !seen.insert((port.text_of("protocol").to_owned(), port.child("nodePort").int())) {
            port.child("nodePort").duplicate(errors);
        }
    }
}

fn unique_ports(spec: &At, errors: &mut ErrorList) {
    let mut seen = HashSet::new();
    for port in spec.child("ports").items() {
        if !seen.insert((port.text_of("protocol").to_owned(), port.child("port").int())) {
            port.duplicate(errors);
            // Upstream compares protocol and number alone, and shows the rest as empty.
            let compared = json!({
                "protocol": port.child("protocol").value,
                "port": port.child("port").value,
            });
            errors.print_last(printed("core.ServicePort", &compared));
        }
    }
}

fn session_affinity(spec: &At, errors: &mut ErrorList) {
    const DAY: i64 = 86400;
    let affinity = spec.child("sessionAffinity");
    affinity.needed_one_of(errors, &["ClientIP", "None"]);
    let config = spec.child("sessionAffinityConfig");
    if affinity.text() != "ClientIP" {
        return;
    }
    let client = config.child("clientIP");
    let seconds = client.child("timeoutSeconds");
    match seconds.is_set() {
        false => config.required(errors, "when session affinity type is ClientIP"),
        true if !(1..=DAY).contains(&seconds.int()) => {
            seconds.invalid(errors, format!("must be greater than 0 and less than {DAY}"));
        }
        true => {}
    }
}

// === load balancers ===

/// Spaces around a range are of no account; ranges that were there before may stay.
fn source_ranges(spec: &At, was: &At, annotations: &At, before: &At, errors: &mut ErrorList) {
    let balanced = spec.text_of("type") == "LoadBalancer";
    let ranges = spec.child("loadBalancerSourceRanges");
    let annotation = annotations.child_key(RANGES);
    if !ranges.is_empty() {
        let known = was.child("loadBalancerSourceRanges").list().iter();
        let known: Vec<&str> = known.filter_map(|range| Some(range.as_str()?.trim())).collect();
        let place = At::new(ranges.value, spec.path.child("LoadBalancerSourceRanges"));
        if !balanced {
            place.forbidden(errors, ONLY_BALANCED);
        }
        for range in place.items() {
            let text = range.text().trim();
            if !known.contains(&text) {
                strict_cidr(text).into_iter().for_each(|why| range.invalid_as(errors, text, why));
            }
        }
    } else if annotation.is_set() {
        if !balanced {
            annotation.forbidden(errors, ONLY_BALANCED);
        }
        let text = annotation.text().trim();
        if before.child_key(RANGES).value == annotation.value || text.is_empty() {
            return;
        }
        for range in text.split(',').map(str::trim) {
            let faults = strict_cidr(range).into_iter();
            faults.for_each(|why| annotation.invalid_as(errors, range, why));
        }
    }
}

fn balancer_ports(root: &At, spec: &At, of: &str, errors: &mut ErrorList) {
    let allocate = spec.child("allocateLoadBalancerNodePorts");
    match (of == "LoadBalancer", allocate.is_set()) {
        (false, true) => allocate.forbidden(errors, ONLY_BALANCED),
        (true, false) => root.child("allocateLoadBalancerNodePorts").required(errors, ""),
        _ => {}
    }
}

fn traffic_policies(spec: &At, of: &str, errors: &mut ErrorList) {
    const POLICIES: &[&str] = &["Cluster", "Local"];
    let external = spec.child("externalTrafficPolicy");
    match is_reachable(spec) {
        true => external.needed_one_of(errors, POLICIES),
        false if !external.is_empty() => {
            external.invalid(errors, "may only be set for externally-accessible services");
        }
        false => {}
    }
    let health = spec.child("healthCheckNodePort");
    match of == "LoadBalancer" && external.text() == "Local" {
        true if health.int() == 0 => health.required(errors, ""),
        true => health.port(errors),
        false if health.int() != 0 => {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            health.invalid(errors, detail);
        }
        false => {}
    }
    let internal = spec.child("internalTrafficPolicy");
    match internal.is_set() {
        true => internal.one_of(errors, POLICIES),
        false if matches!(of, "NodePort" | "LoadBalancer" | "ClusterIP") => {
            internal.required(errors, "");
        }
        false => {}
    }
}

/// What a load balancer reports of itself.
pub fn validate_balancer(root: &At, old: &At, errors: &mut ErrorList) {
    let (status, was) = (root.child("status"), old.child("status"));
    let (balancer, was) = (status.child("loadBalancer"), was.child("loadBalancer"));
    let (ingress, was) = (balancer.child("ingress"), was.child("ingress"));
    if old.child("spec").text_of("type") != "LoadBalancer" {
        if !ingress.is_empty() {
            let detail = "may only be used when `spec.type` is 'LoadBalancer'";
            ingress.forbidden(errors, detail);
        }
        return;
    }
    for at in ingress.items() {
        let address = at.child("ip");
        let known = was.list().iter().any(|was| was["ip"] == *address.text());
        if !address.is_empty() && !known {
            address.obeys(errors, strict_ip);
        }
        ip_mode(&at.child("ipMode"), !address.is_empty(), errors);
        let name = at.child("hostname");
        if name.is_empty() {
            continue;
        }
        name.obeys(errors, dns_subdomain);
        if lenient_ip(name.text()).is_some() {
            name.invalid(errors, "must be a DNS name, not an IP address");
        }
    }
}

fn ip_mode(mode: &At, addressed: bool, errors: &mut ErrorList) {
    match (mode.is_set(), addressed) {
        (false, true) => mode.required(errors, "must be specified when `ip` is set"),
        (true, false) => mode.forbidden(errors, "may not be specified when `ip` is not set"),
        (true, true) => mode.one_of(errors, &["Proxy", "VIP"]),
        (false, false) => {}
    }
}

// === warnings ===

pub fn warnings(root: &At) -> Vec<String> {
    let (metadata, spec) = (root.child("metadata"), root.child("spec"));
    let mut warnings = Vec::new();
    if metadata.child("annotations").has(HINTS) {
        warnings.push(format!("annotation {HINTS} is deprecated, please use {MODE} instead"));
    }
    let of = spec.text_of("type");
    let headless = of == "ClusterIP" && spec.text_of("clusterIP") == "None";
    let given = |field: &str| !spec.child(field).is_empty();
    if !matches!(spec.text_of("clusterIP"), "" | "None") {
        warn_addresses(&spec.child("clusterIPs"), &mut warnings);
    }
    if headless {
        for (ignored, field) in [
            (given("loadBalancerIP"), "loadBalancerIP"),
            (given("externalIPs"), "externalIPs"),
            (spec.text_of("sessionAffinity") != "None", "SessionAffinity"),
        ] {
            if ignored {
                warnings.push(format!("spec.{field} is ignored for headless services"));
            }
        }
    }
    warn_addresses(&spec.child("externalIPs"), &mut warnings);
    if given("externalIPs") && !headless && of != "ExternalName" {
        let detail = "is deprecated and may no longer be implemented in some clusters";
        warnings.push(format!("spec.externalIPs {detail}"));
    }
    let balancer = spec.child("loadBalancerIP");
    warnings.extend(ip_warning(&balancer.path, balancer.text()));
    for range in spec.child("loadBalancerSourceRanges").items() {
        warnings.extend(cidr_warnings(&range.path, range.text()));
    }
    if of == "ExternalName" && given("externalIPs") {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".into());
    }
    if of != "ExternalName" && given("externalName") {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".into());
    }
    if spec.text_of("trafficDistribution") == "PreferClose" {
        let instead = "is deprecated; use \"PreferSameZone\"";
        warnings.push(format!("spec.trafficDistribution: \"PreferClose\" {instead}"));
    }
    warnings
}

fn warn_addresses(list: &At, warnings: &mut Vec<String>) {
    warnings.extend(list.items().filter_map(|at| ip_warning(&at.path, at.text())));
}
