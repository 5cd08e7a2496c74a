//! Endpoints: the addresses behind a Service, in the older form.

use serde_json::Value;

use crate::kind::Strategy;
use crate::kinds::fill::{each, list, text};

pub struct Endpoints;

impl Strategy for Endpoints {
    fn default(&self, object: &mut Value) {
        let Some(root) = object.as_object_mut() else { return };
        for subset in each(root, "subsets") {
            for port in each(subset, "ports") {
                crate::kinds::fill::set(port, "protocol", "TCP");
            }
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
    let mut shown = Vec::new();
    let mut total = 0;
    for subset in list(endpoints, "/subsets") {
        let ports = list(subset, "/ports");
        for address in list(subset, "/addresses") {
            let ip = text(address, "/ip");
            let targets = match ports.is_empty() {
                true => vec![ip.to_owned()],
                false => ports.iter().map(|port| join(ip, &port["port"])).collect(),
            };
            total += targets.len();
            shown.extend(targets.into_iter().take(3usize.saturating_sub(shown.len())));
        }
    }
    match (shown.is_empty(), total - shown.len()) {
        (true, _) => "<none>".to_owned(),
        (false, 0) => shown.join(","),
        (false, more) => format!("{} + {more} more...", shown.join(",")),
    }
}

fn join(ip: &str, port: &Value) -> String {
    match ip.contains(':') {
        true => format!("[{ip}]:{port}"),
        false => format!("{ip}:{port}"),
    }
}
