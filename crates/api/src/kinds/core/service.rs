//! Service: defaults that depend on its type, and what a Table shows.
//!
//! Addresses and node ports are handed out by the API server's allocator, not here.
//! Counterpart: `SetDefaults_Service`, `printService`.

mod addresses;
mod validation;

use serde_json::{Value, json};

use crate::field::ErrorList;
use crate::kind::{NameRule, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{Object, each, list, made, made_at, set, text};
use crate::kinds::rules::ip_warning;
use crate::kinds::workload::pairs;
pub use addresses::service_addresses;
use addresses::validate_change;
use validation::{is_reachable, validate_balancer, validate_service, warnings};

pub struct Service;

impl Strategy for Service {
    fn default(&self, object: &mut Value) {
        let Some(spec) = made_at(object, "/spec") else { return };
        set(spec, "sessionAffinity", "None");
        set(spec, "type", "ClusterIP");
        default_affinity(spec);
        for port in each(spec, "ports") {
            let number = port.get("port").cloned().unwrap_or_default();
            let open = port.get("targetPort").is_none_or(|to| to.is_null() || to == 0 || to == "");
            if open {
                port.insert("targetPort".into(), number);
            }
        }
        let of = spec["type"].as_str().unwrap_or("").to_owned();
        if is_reachable(&At::root(&Value::Object(spec.clone()))) {
            set(spec, "externalTrafficPolicy", "Cluster");
        }
        if matches!(of.as_str(), "ClusterIP" | "NodePort" | "LoadBalancer") {
            set(spec, "internalTrafficPolicy", "Cluster");
        }
        if of == "LoadBalancer" {
            set(spec, "allocateLoadBalancerNodePorts", true);
        }
        if let Some(status) = object.as_object_mut().and_then(|root| made(root, "status"))
            && let Some(balancer) = made(status, "loadBalancer")
        {
            let addressed = each(balancer, "ingress").filter(|_| of == "LoadBalancer");
            for ingress in addressed.filter(|ingress| ingress.get("ip").is_some_and(|ip| ip != ""))
            {
                set(ingress, "ipMode", "VIP");
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        validate_service(&At::root(object), &At::root(&Value::Null), errors);
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        let (root, old) = (At::root(object), At::root(old));
        validate_change(&root.child("spec"), &old.child("spec"), errors);
        validate_service(&root, &old, errors);
    }

    fn validate_status_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        validate_balancer(&At::root(object), &At::root(old), errors);
    }

    fn warnings(&self, object: &Value, _old: Option<&Value>) -> Vec<String> {
        warnings(&At::root(object))
    }

    fn status_warnings(&self, object: &Value) -> Vec<String> {
        let root = At::root(object);
        let status = root.child("status");
        let balancer = status.child("loadBalancer");
        let ingress = balancer.child("ingress");
        let addressed = ingress.items().filter(|at| !at.text_of("ip").is_empty());
        addressed.filter_map(|at| ip_warning(&at.path, at.text_of("ip"))).collect()
    }

    fn allow_create_on_update(&self) -> bool {
        true
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

/// Without affinity there is nothing to configure; with it, there is a time for how long.
fn default_affinity(spec: &mut Object) {
    match spec["sessionAffinity"].as_str() {
        Some("None") => drop(spec.remove("sessionAffinityConfig")),
        Some("ClientIP") => {
            let timeout = spec.get("sessionAffinityConfig");
            let timeout = timeout.and_then(|config| config.pointer("/clientIP/timeoutSeconds"));
            if timeout.is_none_or(Value::is_null) {
                let config = json!({ "clientIP": { "timeoutSeconds": 10800 } });
                spec.insert("sessionAffinityConfig".into(), config);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::at::tests::{check, check_update};

    const PATH: &str = "v1/services";

    #[test]
    fn several_ports_need_names() {
        check(PATH, "spec: {ports: [{port: 80}]}", &[]);
        check(PATH, "spec: {clusterIP: None, clusterIPs: [None]}", &[]);
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
