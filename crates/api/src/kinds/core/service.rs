//! Service: defaults that depend on its type, and what a Table shows.
//!
//! Addresses and node ports are handed out by the API server's allocator, not here.
//! Counterpart: `SetDefaults_Service`, `printService`.

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

    fn name_rule(&self) -> NameRule {
        NameRule::Dns1035Label
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
