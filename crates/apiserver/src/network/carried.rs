//! What a changed Service keeps although its client left it out, and what goes because its new type has no use for it.
//!
//! Counterparts: `patchAllocatedValues`, `normalizeClusterIPs`, `dropTypeDependentFields`.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{
    draws_node_ports, has_health_check, has_node_ports, is_external_name, node_port, ports_mut,
    texts,
};

/// A new Service's list follows its single address.
pub fn complete_addresses(service: &mut Value) {
    let first = single(service);
    if !first.is_empty() && texts(&service["spec"], "clusterIPs").is_empty() {
        service["spec"]["clusterIPs"] = json!([first]);
    }
}

/// What was allocated stays when an update says nothing about it.
pub fn keep_allocated(service: &mut Value, old: &Value) {
    if !is_external_name(service) && !is_external_name(old) {
        if single(service).is_empty() {
            copy(service, old, &["clusterIP"]);
        }
        if texts(&service["spec"], "clusterIPs").is_empty() {
            copy(service, old, &["clusterIPs"]);
        }
    }
    if draws_node_ports(service) && draws_node_ports(old) {
        keep_node_ports(service, old);
    }
    if has_health_check(service)
        && has_health_check(old)
        && service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
    {
        copy(service, old, &["healthCheckNodePort"]);
    }
    follow_single_address(service, old);
}

/// A client that knows one of the two fields only means both: the list follows the single address.
fn follow_single_address(service: &mut Value, old: &Value) {
    let (first, was) = (single(service), single(old));
    let list = |of: &Value| texts(&of["spec"], "clusterIPs");
    if list(service).is_empty() && !list(old).is_empty() && first == was {
        copy(service, old, &["clusterIPs"]);
    }
    if first != was && list(service) == list(old) {
        match first.is_empty() {
            true => drop_field(service, "clusterIPs"),
            false => service["spec"]["clusterIPs"] = json!([first]),
        }
    }
}

fn single(service: &Value) -> String {
    service["spec"]["clusterIP"].as_str().unwrap_or_default().to_owned()
}

/// A port is the same port if its name is, unless its number is used already.
fn keep_node_ports(service: &mut Value, old: &Value) {
    let ports = |of: &Value| of["spec"]["ports"].as_array().cloned().unwrap_or_default();
    let used = |of: &Value| -> HashSet<i64> { ports(of).iter().map(node_port).collect() };
    let name = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let (used, before) = (&used(service) & &used(old), ports(old));
    for port in ports_mut(service).filter(|port| node_port(port) == 0) {
        let same = before.iter().rev().find(|was| name(was) == name(port)).map_or(0, node_port);
        if same != 0 && !used.contains(&same) {
            port["nodePort"] = same.into();
        }
    }
}

/// What a Service had because of its old type, and was not asked for again, goes with the type.
pub fn drop_by_type(service: &mut Value, old: &Value) {
    let same = |service: &Value, field: &str| service["spec"].get(field) == old["spec"].get(field);
    if is_external_name(service) && !is_external_name(old) {
        if same(service, "clusterIP") && same(service, "clusterIPs") {
            drop_field(service, "clusterIP");
            drop_field(service, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if same(service, field) {
                drop_field(service, field);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(service) && same_node_ports(service, old) {
        let ports = ports_mut(service).filter_map(Value::as_object_mut);
        ports.for_each(|port| drop(port.remove("nodePort")));
    }
    let balanced = |of: &Value| of["spec"]["type"] == "LoadBalancer";
    let reachable = |of: &Value| {
        let external = &of["spec"]["externalIPs"];
        has_node_ports(of)
            || of["spec"]["type"] == "ClusterIP"
                && external.as_array().is_some_and(|list| !list.is_empty())
    };
    for (field, had) in [
        ("healthCheckNodePort", has_health_check as fn(&Value) -> bool),
        ("allocateLoadBalancerNodePorts", balanced),
        ("loadBalancerClass", balanced),
        ("externalTrafficPolicy", reachable),
    ] {
        if had(old) && !had(service) && same(service, field) {
            drop_field(service, field);
        }
    }
    if !balanced(service) {
        service["status"]["loadBalancer"] = json!({});
    }
}

/// Whether a client that changes the type asks for no port of its own.
fn same_node_ports(service: &Value, old: &Value) -> bool {
    let numbers = |of: &Value| -> HashSet<i64> {
        let ports = of["spec"]["ports"].as_array().into_iter().flatten();
        ports.map(node_port).filter(|number| *number != 0).collect()
    };
    numbers(service).is_subset(&numbers(old))
}

fn copy(service: &mut Value, old: &Value, fields: &[&str]) {
    for field in fields {
        if let Some(value) = old["spec"].get(*field) {
            service["spec"][*field] = value.clone();
        }
    }
}

fn drop_field(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}
