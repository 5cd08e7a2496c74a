//! Service: defaults that depend on its type, and what a Table shows.
//!
//! Addresses and node ports are handed out by the API server's allocator, not here.
//! Counterpart: `SetDefaults_Service`, `printService`.

use std::collections::HashSet;

use crate::field::ErrorList;
use crate::internal::printed;
use crate::kinds::at::At;
use crate::kinds::rules::{cidr, ip, lenient_ip, not_special};
use crate::validation::{dns_label, dns_subdomain, label_key, qualified_name};
use serde_json::{Value, json};

use crate::kind::{NameRule, Strategy};
use crate::kinds::fill::{each, list, made, object_at, set, text};
use crate::kinds::workload::pairs;

pub struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        let Some(spec) = object_at(object, "/spec") else { return };
        set(spec, "sessionAffinity", "None");
        set(spec, "type", "ClusterIP");
        let of = spec["type"].as_str().unwrap_or("").to_owned();
        if spec["sessionAffinity"] == "ClientIP" {
            let config = json!({ "clientIP": { "timeoutSeconds": 10800 } });
            set(spec, "sessionAffinityConfig", config);
        }
        for port in each(spec, "ports") {
            let number = port.get("port").cloned().unwrap_or_default();
            if matches!(port.get("targetPort"), None | Some(Value::Null)) {
                port.insert("targetPort".into(), number);
            }
        }
        if matches!(of.as_str(), "NodePort" | "LoadBalancer") {
            set(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(of.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set(spec, "internalTrafficPolicy", "Cluster");
        }
        if of == "LoadBalancer" {
            set(spec, "allocateLoadBalancerNodePorts", true);
        }
        if let Some(status) = object.as_object_mut().and_then(|root| made(root, "status")) {
            made(status, "loadBalancer");
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        validate_spec(&root.child("spec"), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        validate_change(&root.child("spec"), &old.child("spec"), errors);
        self.validate(object, errors);
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings(&At::root(object).child("spec"))
    }

    fn name_rule(&self) -> NameRule {
        NameRule::DnsLabel
    }

    fn selectable_fields(&self) -> &'static [(&'static str, &'static str)] {
        &[("spec.clusterIP", "/spec/clusterIP"), ("spec.type", "/spec/type")]
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Type" => text(object, "/spec/type").into(),
            "Cluster-IP" => match text(object, "/spec/clusterIP") {
                "" => "<none>".into(),
                address => address.into(),
            },
            "External-IP" => external_address(object).into(),
            "Port(s)" => ports(object).into(),
            "Selector" => pairs(object.pointer("/spec/selector")).into(),
            _ => Value::Null,
        }
    }
}

fn external_address(service: &Value) -> String {
    let mut addresses: Vec<&str> =
        list(service, "/spec/externalIPs").iter().filter_map(Value::as_str).collect();
    match text(service, "/spec/type") {
        "ExternalName" => return text(service, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let ingress = list(service, "/status/loadBalancer/ingress").iter();
            let balanced = ingress
                .map(|entry| match text(entry, "/ip") {
                    "" => text(entry, "/hostname"),
                    address => address,
                })
                .filter(|address| !address.is_empty());
            addresses = balanced.chain(addresses).collect();
            if addresses.is_empty() {
                return "<pending>".to_owned();
            }
        }
        _ => {}
    }
    if addresses.is_empty() { "<none>".to_owned() } else { addresses.join(",") }
}

/// `80:30080/TCP,443/TCP`, or `<none>`.
fn ports(service: &Value) -> String {
    let shown: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let number = &port["port"];
            match port["nodePort"].as_i64() {
                Some(node) if node > 0 => format!("{number}:{node}/{}", text(port, "/protocol")),
                _ => format!("{number}/{}", text(port, "/protocol")),
            }
        })
        .collect();
    if shown.is_empty() { "<none>".to_owned() } else { shown.join(",") }
}

// === validation ===

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

/// Types of Services that can be reached from outside.
fn is_external(spec: &At) -> bool {
    matches!(spec.text_of("type"), "NodePort" | "LoadBalancer")
}

fn validate_spec(spec: &At, errors: &mut ErrorList) {
    let of = spec.text_of("type");
    let headless = spec.text_of("clusterIP") == "None";
    by_type(spec, of, headless, errors);
    validate_ports(spec, errors);
    spec.child("selector").labels(errors);
    session_affinity(spec, errors);
    for address in spec.child("externalIPs").items() {
        let faults = ip(address.text());
        match lenient_ip(address.text()) {
            Some(ip) => {
                not_special(ip).into_iter().for_each(|fault| address.invalid(errors, fault))
            }
            None => faults.into_iter().for_each(|fault| address.invalid(errors, fault)),
        }
    }
    spec.child("type").needed_one_of(errors, TYPES);
    source_ranges(spec, of, errors);
    node_ports(spec, of, errors);
    load_balancer_fields(spec, of, errors);
    traffic_policies(spec, errors);
    address_families(spec, errors);
    cluster_addresses(spec, of, errors);
    let distribution = spec.child("trafficDistribution");
    distribution.one_of_if_set(errors, &["PreferClose", "PreferSameZone", "PreferSameNode"]);
}

fn by_type(spec: &At, of: &str, headless: bool, errors: &mut ErrorList) {
    match of {
        "LoadBalancer" if headless => {
            let detail = "may not be set to 'None' for LoadBalancer services";
            first_address(spec, errors, detail);
        }
        "NodePort" if headless => {
            first_address(spec, errors, "may not be set to 'None' for NodePort services");
        }
        "ExternalName" => {
            if !spec.child("clusterIPs").is_empty() || !spec.text_of("clusterIP").is_empty() {
                let detail = "may not be set for ExternalName services";
                spec.child("clusterIPs").forbidden(errors, detail);
            }
            for field in ["ipFamilies", "ipFamilyPolicy"] {
                if !spec.child(field).is_empty() {
                    let detail = "may not be set for ExternalName services";
                    spec.child(field).forbidden(errors, detail);
                }
            }
            let name = spec.child("externalName");
            if name.needed(errors) {
                let text = name.text().strip_suffix('.').unwrap_or(name.text());
                dns_subdomain(text).into_iter().for_each(|fault| name.invalid(errors, fault));
            }
        }
        _ => {}
    }
}

fn first_address(spec: &At, errors: &mut ErrorList, detail: &str) {
    let addresses = spec.child("clusterIPs");
    errors.invalid(&addresses.path.index(0), spec.text_of("clusterIP"), detail);
}

fn validate_ports(spec: &At, errors: &mut ErrorList) {
    let ports = spec.child("ports");
    let headless = spec.text_of("clusterIP") == "None";
    let external_name = spec.text_of("type") == "ExternalName";
    if ports.is_empty() && !headless && !external_name {
        ports.required(errors, "");
    }
    let many = ports.list().len() > 1;
    let mut names = HashSet::new();
    for port in ports.items() {
        validate_port(&port, many, errors);
        let name = port.text_of("name").to_owned();
        if !name.is_empty() && !names.insert(name) {
            port.child("name").duplicate(errors);
        }
    }
    let key = |port: &Value| (text(port, "/protocol").to_owned(), port["port"].clone());
    for (index, port) in ports.items().enumerate() {
        if ports.list()[..index].iter().any(|other| key(other) == key(port.value)) {
            port.duplicate(errors);
            // Upstream compares protocol and number alone, and shows the rest as empty.
            let (protocol, number) = key(port.value);
            let compared = json!({"protocol": protocol, "port": number});
            errors.print_last(printed("core.ServicePort", &compared));
        }
    }
}

fn validate_port(port: &At, needs_name: bool, errors: &mut ErrorList) {
    let name = port.child("name");
    match name.is_empty() {
        true if needs_name => name.required(errors, ""),
        true => {}
        false => name.obeys(errors, dns_label),
    }
    port.child("port").port(errors);
    port.child("protocol").needed_one_of(errors, &["SCTP", "TCP", "UDP"]);
    port.child("targetPort").port_or_name(errors);
    port.child("appProtocol").obeys_if_set(errors, label_key);
}

fn session_affinity(spec: &At, errors: &mut ErrorList) {
    const DAY: i64 = 86400;
    let affinity = spec.child("sessionAffinity");
    affinity.needed_one_of(errors, &["ClientIP", "None"]);
    let config = spec.child("sessionAffinityConfig");
    match affinity.text() {
        "ClientIP" => {
            let client = config.child("clientIP");
            let seconds = client.child("timeoutSeconds");
            if !seconds.is_set() {
                let detail = "must be specified when session affinity type is ClientIP";
                config.required(errors, detail);
            } else if !(1..=DAY).contains(&seconds.int()) {
                seconds.invalid(errors, format!("must be greater than 0 and less than {DAY}"));
            }
        }
        "None" if config.is_set() => {
            let detail = "must not be set when session affinity is None";
            config.forbidden(errors, detail);
        }
        _ => {}
    }
}

fn source_ranges(spec: &At, of: &str, errors: &mut ErrorList) {
    let ranges = spec.child("loadBalancerSourceRanges");
    let place = At::new(ranges.value, spec.path);
    let place = place.under("LoadBalancerSourceRanges");
    if ranges.is_empty() {
        return;
    }
    if of != "LoadBalancer" {
        place.forbidden(errors, "may only be used when `type` is 'LoadBalancer'");
    }
    for range in place.items() {
        let text = range.text().trim();
        cidr(text).into_iter().for_each(|fault| range.invalid_as(errors, text, fault));
    }
}

fn node_ports(spec: &At, of: &str, errors: &mut ErrorList) {
    for port in spec.child("ports").items() {
        let node = port.child("nodePort");
        if node.int() != 0 && of == "ClusterIP" {
            node.forbidden(errors, "may not be used when `type` is 'ClusterIP'");
        }
    }
}

fn load_balancer_fields(spec: &At, of: &str, errors: &mut ErrorList) {
    let balanced = of == "LoadBalancer";
    if balanced && !spec.has("allocateLoadBalancerNodePorts") {
        spec.child("allocateLoadBalancerNodePorts").required(errors, "");
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if !balanced && spec.has(field) {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            spec.child(field).forbidden(errors, detail);
        }
    }
    spec.child("loadBalancerClass").obeys_if_set(errors, qualified_name);
}

fn traffic_policies(spec: &At, errors: &mut ErrorList) {
    let external = spec.child("externalTrafficPolicy");
    let reachable = is_external(spec) || !spec.child("externalIPs").is_empty();
    if external.is_set() && !reachable {
        external.invalid(errors, "may only be set for externally-accessible services");
    }
    if reachable {
        match external.is_empty() && is_external(spec) {
            true => external.required(errors, ""),
            false => external.one_of_if_set(errors, &["Cluster", "Local"]),
        }
    }
    let health = spec.child("healthCheckNodePort");
    let local = spec.text_of("type") == "LoadBalancer" && external.text() == "Local";
    if health.int() != 0 && !local {
        let detail =
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        health.invalid(errors, detail);
    }
    let internal = spec.child("internalTrafficPolicy");
    if internal.is_set() {
        internal.one_of(errors, &["Cluster", "Local"]);
    }
}

fn address_families(spec: &At, errors: &mut ErrorList) {
    const POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
    spec.child("ipFamilyPolicy").one_of_if_set(errors, POLICIES);
    let mut seen = HashSet::new();
    for family in spec.child("ipFamilies").items() {
        family.one_of(errors, &["IPv4", "IPv6"]);
        if !seen.insert(family.value.clone()) {
            family.duplicate(errors);
        }
    }
}

/// `clusterIPs` leads; `clusterIP` repeats its first entry.
fn cluster_addresses(spec: &At, of: &str, errors: &mut ErrorList) {
    let addresses = spec.child("clusterIPs");
    let (single, list) = (spec.child("clusterIP"), addresses.list());
    if of == "ExternalName" {
        return;
    }
    if list.len() > 2 {
        addresses.invalid(errors, "may only hold up to 2 values");
    }
    let first = list.first().and_then(Value::as_str).unwrap_or_default();
    if !list.is_empty() && first != single.text() {
        addresses.invalid(errors, "first value must match `clusterIP`");
    }
    let alone;
    let shown = if list.is_empty() && !single.is_empty() {
        alone = json!([single.value]);
        At::new(&alone, addresses.path)
    } else {
        addresses
    };
    for (index, address) in shown.items().enumerate() {
        match address.text() {
            "None" if index > 0 => {
                address.invalid(errors, "'None' must be the first and only value")
            }
            "None" | "" => {}
            _ => address.obeys(errors, ip),
        }
    }
}

fn validate_change(spec: &At, old: &At, errors: &mut ErrorList) {
    let keeps_address = |spec: &At| spec.text_of("type") != "ExternalName";
    if keeps_address(spec) && keeps_address(old) {
        let (now, was) = (spec.child("clusterIPs"), old.child("clusterIPs"));
        let first = |at: &At| at.list().first().cloned();
        if first(&was).is_some() && first(&now) != first(&was) {
            errors.invalid(&now.path.index(0), now.value.clone(), "may not change once set");
        }
    }
    let both_balanced =
        spec.text_of("type") == "LoadBalancer" && old.text_of("type") == "LoadBalancer";
    let (class, was) = (spec.child("loadBalancerClass"), old.child("loadBalancerClass"));
    if both_balanced && class.value != was.value {
        class.invalid(errors, "may not change once set");
    }
    let (health, was) = (spec.child("healthCheckNodePort"), old.child("healthCheckNodePort"));
    let local = |spec: &At| spec.text_of("externalTrafficPolicy") == "Local";
    let checked = both_balanced && local(spec) && local(old);
    if checked && was.int() != 0 && health.int() != was.int() {
        health.forbidden(errors, "field is immutable");
    }
}

fn warnings(spec: &At) -> Vec<String> {
    let mut warnings = Vec::new();
    if !spec.child("externalIPs").is_empty() {
        let detail = "is deprecated and may no longer be implemented in some clusters";
        warnings.push(format!("spec.externalIPs {detail}"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "v1/services";

    #[test]
    fn several_ports_need_names() {
        check(PATH, "spec: {ports: [{port: 80}]}", &[]);
        check(PATH, "spec: {clusterIP: None}", &[]);
        check(
            PATH,
            "spec: {ports: [{port: 80}, {name: a, port: 80}]}",
            &[
                "spec.ports[0].name: Required value",
                "spec.ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
            ],
        );
    }

    #[test]
    fn fields_belong_to_a_type() {
        check(
            PATH,
            "spec: {ports: [{port: 80, nodePort: 30000}], loadBalancerClass: a/b, externalTrafficPolicy: Local}",
            &[
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
                "spec.externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
            ],
        );
        check(PATH, "spec: {type: ExternalName}", &["spec.externalName: Required value"]);
    }

    #[test]
    fn an_address_stays() {
        let spec = |ip: &str| {
            format!("spec: {{ports: [{{port: 80}}], clusterIP: {ip}, clusterIPs: [{ip}]}}")
        };
        check_update(
            PATH,
            &spec("10.0.0.1"),
            &spec("10.0.0.2"),
            &["spec.clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
        );
    }
}
