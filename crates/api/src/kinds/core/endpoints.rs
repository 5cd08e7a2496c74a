//! Endpoints: the addresses behind a Service, in the older form.

use crate::field::ErrorList;
use crate::kinds::at::At;
use crate::kinds::rules::{lenient_ip, not_special, strict_ip};
use crate::validation::{dns_label, dns_subdomain, label_key};
use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::fill::{each, list, text};

pub struct Endpoints;

impl Strategy for Endpoints {
    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn default(&self, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        for subset in each(root, "subsets") {
            for port in each(subset, "ports") {
                crate::kinds::fill::set(port, "protocol", "TCP");
            }
        }
    }

    fn validate(&self, object: &Value, errors: &mut ErrorList) {
        let root = At::root(object);
        for subset in root.child("subsets").items() {
            let (addresses, waiting) =
                (subset.child("addresses"), subset.child("notReadyAddresses"));
            if addresses.is_empty() && waiting.is_empty() {
                subset.required(errors, "must specify `addresses` or `notReadyAddresses`");
            }
            addresses
                .items()
                .chain(waiting.items())
                .for_each(|address| validate_address(&address, errors));
            let ports = subset.child("ports");
            let many = ports.list().len() > 1;
            ports.items().for_each(|port| validate_port(&port, many, errors));
        }
    }

    /// Old objects may be faulty, as long as nothing changes there.
    fn validate_update(&self, object: &Value, old: &Value, errors: &mut ErrorList) {
        if object.get("subsets") != old.get("subsets") {
            self.validate(object, errors);
        }
    }

    fn cell(&self, object: &Value, column: &str, _now: i64) -> Value {
        match column {
            "Endpoints" => addresses(object).into(),
            _ => Value::Null,
        }
    }
}

/// The first three `ip:port`, and how many more there are.
fn addresses(endpoints: &Value) -> String {
    if list(endpoints, "/subsets").is_empty() {
        return "<none>".to_owned();
    }
    let mut shown = Vec::new();
    let mut total = 0;
    for subset in list(endpoints, "/subsets") {
        let ips = list(subset, "/addresses").iter().map(|address| text(address, "/ip"));
        let ports = list(subset, "/ports");
        let targets: Vec<String> = match ports.is_empty() {
            true => ips.map(str::to_owned).collect(),
            false => {
                let of_port =
                    |port| ips.clone().map(move |ip| join(ip, port)).collect::<Vec<String>>();
                ports.iter().flat_map(|port| of_port(&port["port"])).collect()
            }
        };
        total += targets.len();
        shown.extend(targets.into_iter().take(3usize.saturating_sub(shown.len())));
    }
    match total - shown.len() {
        0 => shown.join(","),
        more => format!("{} + {more} more...", shown.join(",")),
    }
}

fn join(ip: &str, port: &Value) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}

fn validate_address(address: &At, errors: &mut ErrorList) {
    let ip = address.child("ip");
    ip.obeys(errors, strict_ip);
    address.child("hostname").obeys_if_set(errors, dns_label);
    address.child("nodeName").obeys_if_given(errors, dns_subdomain);
    validate_reachable_ip(&ip, errors);
}

/// An address that something can be reached at; an address at all, said once more.
pub fn validate_reachable_ip(ip: &At, errors: &mut ErrorList) {
    match lenient_ip(ip.text()) {
        None => ip.invalid_as(errors, ip.text(), "must be a valid IP address"),
        Some(parsed) => not_special(parsed).into_iter().for_each(|fault| ip.invalid(errors, fault)),
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
    port.child("appProtocol").obeys_if_given(errors, label_key);
}
