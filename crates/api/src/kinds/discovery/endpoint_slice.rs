//! EndpointSlice: up to a thousand endpoints of a Service, all of one address type.
//!
//! Counterparts: `SetDefaults_EndpointPort`, `ValidateEndpointSlice`, `printEndpointSlice`.

use std::collections::HashSet;

use serde_json::Value;

use crate::alike::alike;
use crate::field::ErrorList;
use crate::kind::{KindDef, Strategy};
use crate::kinds::at::At;
use crate::kinds::fill::{each, list, set, text};
use crate::kinds::rules::{lenient_ip, not_special, strict_ip};
use crate::validation::{dns_label, dns_subdomain, label_key, label_value};

pub struct EndpointSlice;

const ENDPOINTS_MAX: usize = 1000;
const ADDRESSES_MAX: usize = 100;
const HINTS_MAX: usize = 8;
const TYPES: &[&str] = &["FQDN", "IPv4", "IPv6"];

impl Strategy for EndpointSlice {
    fn default(&self, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        for port in each(root, "ports") {
            set(port, "name", "");
            set(port, "protocol", "TCP");
        }
    }

    /// What topology was before it had fields is no longer taken.
    fn prepare_for_create(&self, _kind: &KindDef, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        for endpoint in each(root, "endpoints") {
            endpoint.remove("deprecatedTopology");
        }
    }

    /// It stays as long as no endpoint changes; a node that was named in it is named by its field then.
    fn prepare_for_update(&self, _kind: &KindDef, object: &mut Value, old: &Value) {
        const HOST: &str = "/deprecatedTopology/kubernetes.io~1hostname";
        if list(object, "/endpoints") == list(old, "/endpoints") {
            return;
        }
        let known: HashSet<&str> =
            list(old, "/endpoints").iter().map(|endpoint| text(endpoint, HOST)).collect();
        let Some(root) = object.as_object_mut() else { return };
        for endpoint in each(root, "endpoints") {
            let topology = endpoint.remove("deprecatedTopology").unwrap_or_default();
            let host = text(&topology, "/kubernetes.io~1hostname");
            if known.contains(host) && dns_subdomain(host).is_empty() {
                set(endpoint, "nodeName", host);
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        let of = root.child("addressType");
        of.needed_one_of(errors, TYPES);
        let endpoints = root.child("endpoints");
        if endpoints.list().len() > ENDPOINTS_MAX {
            errors.too_many(&endpoints.path, endpoints.list().len(), ENDPOINTS_MAX);
        }
        endpoints.items().for_each(|endpoint| validate_endpoint(&endpoint, of.text(), errors));
        let ports = root.child("ports");
        if ports.list().len() > ADDRESSES_MAX {
            return errors.too_many(&ports.path, ports.list().len(), ADDRESSES_MAX);
        }
        let mut names = HashSet::new();
        for port in ports.items() {
            let name = port.child("name");
            name.obeys_if_set(errors, dns_label);
            if !names.insert(name.text()) {
                name.duplicate(errors);
            }
            port.child("protocol").one_of(errors, &["SCTP", "TCP", "UDP"]);
            port.child("appProtocol").obeys_if_given(errors, label_key);
        }
    }

    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        self.validate(object, errors);
        let (root, old) = (At::root(object), At::root(old));
        root.child("addressType").unchanged(errors, &old.child("addressType"));
    }

    /// Labels count as well: they say which Service the slice belongs to.
    fn generation_changes(&self, _kind: &KindDef, object: &Value, old: &Value) -> bool {
        const COUNTED: &[&str] = &["/addressType", "/endpoints", "/ports", "/metadata/labels"];
        COUNTED.iter().any(|field| {
            let [new, was] =
                [object, old].map(|slice| slice.pointer(field).unwrap_or(&Value::Null));
            !alike(new, was)
        })
    }

    fn warnings(&self, object: &Value, old: Option<&Value>) -> Vec<String> {
        match text(object, "/addressType") {
            "FQDN" if old.is_none() => {
                vec!["spec.addressType: FQDN endpoints are deprecated".to_owned()]
            }
            _ => Vec::new(),
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "AddressType" => text(object, "/addressType").into(),
            "Ports" => ports(object).into(),
            "Endpoints" => addresses(object).into(),
            _ => Value::Null,
        }
    }
}

fn validate_endpoint(endpoint: &At, of: &str, errors: &mut ErrorList) {
    let addresses = endpoint.child("addresses");
    match addresses.list().len() {
        0 => addresses.required(errors, "must contain at least 1 address"),
        many if many > ADDRESSES_MAX => errors.too_many(&addresses.path, many, ADDRESSES_MAX),
        _ => {}
    }
    for address in addresses.items().take(ADDRESSES_MAX) {
        validate_address(&addresses, &address, of, errors);
    }
    endpoint.child("nodeName").obeys_if_given(errors, dns_subdomain);
    let topology = endpoint.child("deprecatedTopology");
    topology.labels(errors);
    endpoint.child("hostname").obeys_if_given(errors, dns_label);
    let hints = endpoint.child("hints");
    for field in ["forZones", "forNodes"] {
        let list = hints.child(field);
        if list.list().len() > HINTS_MAX {
            errors.too_many(&list.path, list.list().len(), HINTS_MAX);
            continue;
        }
        let mut seen = HashSet::new();
        for hint in list.items() {
            let name = hint.child("name");
            if !seen.insert(name.text()) {
                name.duplicate(errors);
            }
            name.obeys(errors, if field == "forZones" { label_value } else { dns_subdomain });
        }
    }
}

/// Upstream reports a wrong family at the list, and a special address at its entry.
fn validate_address(list: &At, address: &At, of: &str, errors: &mut ErrorList) {
    let parsed = lenient_ip(address.text());
    match of {
        "IPv4" | "IPv6" => {
            address.obeys(errors, strict_ip);
            let Some(ip) = parsed.filter(|_| strict_ip(address.text()).is_empty()) else { return };
            let wanted = of == "IPv4";
            if ip.is_ipv4() != wanted {
                let detail =
                    if wanted { "must be an IPv4 address" } else { "must be an IPv6 address" };
                list.invalid_as(errors, address.text(), detail);
            }
            not_special(ip).into_iter().for_each(|fault| address.invalid(errors, fault));
        }
        "FQDN" if address.is_empty() => address.required(errors, ""),
        "FQDN" => address.obeys(errors, domain_of_segments),
        _ => {}
    }
}

fn domain_of_segments(text: &str) -> Vec<String> {
    let mut faults = dns_subdomain(text);
    if faults.is_empty() && !text.contains('.') {
        faults.push("should be a domain with at least two segments separated by dots".to_owned());
    }
    faults
}

fn ports(slice: &Value) -> String {
    let port = |port: &Value| match (port["port"].as_i64(), port["name"].as_str()) {
        (Some(number), _) => number.to_string(),
        (None, name) => name.unwrap_or("*").to_owned(),
    };
    shorten(&list(slice, "/ports").iter().map(port).collect::<Vec<_>>())
}

fn addresses(slice: &Value) -> String {
    let all: Vec<String> = list(slice, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(|address| address.as_str().map(str::to_owned))
        .collect();
    shorten(&all)
}

/// The first three, and how many more there are.
fn shorten(items: &[String]) -> String {
    match (items.len(), items.join(",")) {
        (more @ 4.., _) => format!("{} + {} more...", items[..3].join(","), more - 3),
        (_, shown) if shown.is_empty() => "<unset>".to_owned(),
        (_, shown) => shown,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_without_letters_is_required() {
        crate::kinds::at::tests::check(
            "discovery.k8s.io/v1/endpointslices",
            "addressType: FQDN\nendpoints: [{addresses: ['']}]",
            &["endpoints[0].addresses[0]: Required value"],
        );
    }

    #[test]
    fn a_changed_slice_loses_its_old_topology_and_keeps_the_node_in_it() {
        let kinds = crate::kinds::builtin();
        let kind = kinds.get("discovery.k8s.io", "v1", "endpointslices").expect("served");
        let endpoint = |address: &str, host: &str| json!({"addresses": [address], "deprecatedTopology": {"kubernetes.io/hostname": host}});
        let old = json!({"endpoints": [endpoint("10.0.0.1", "n1")]});
        let mut same = old.clone();
        EndpointSlice.prepare_for_update(kind, &mut same, &old);
        assert_eq!(same, old);
        let mut new =
            json!({"endpoints": [endpoint("10.0.0.2", "n1"), endpoint("10.0.0.3", "n2")]});
        EndpointSlice.prepare_for_update(kind, &mut new, &old);
        let wanted = json!([
            {"addresses": ["10.0.0.2"], "nodeName": "n1"},
            {"addresses": ["10.0.0.3"]},
        ]);
        assert_eq!(new["endpoints"], wanted);
    }
}
