//! From a Service to the address of one of its ready endpoints.
//!
//! Namespace, name and port -> the Service's port of that number -> a ready endpoint of its EndpointSlices, chosen at random.
//! Counterpart: `util/proxy.ResolveEndpoint`. Endpoints rather than the cluster IP: they are
//! reachable before a service proxy runs, and where none ever does.

use serde_json::Value;
use skiff_api::codec::decode_stored;
use skiff_api::meta::meta;
use skiff_store::{RangeRequest, Store};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ResolveError {
    #[error("service {0:?} not found")]
    NotFound(String),
    #[error("unsupported service type {0:?}")]
    Unsupported(String),
    #[error("no service port {port} found for service {service:?}")]
    NoPort { port: u16, service: String },
    #[error("no endpoints available for service {0:?}")]
    NoEndpoints(String),
    #[error("the store cannot be read: {0}")]
    Store(String),
}

/// Host and port to dial.
pub async fn resolve(
    store: &Store,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), ResolveError> {
    let unreadable = |error: &dyn std::fmt::Display| ResolveError::Store(error.to_string());
    let key = format!("/registry/services/specs/{namespace}/{name}");
    let entry = store.get(&key).await.map_err(|error| unreadable(&error))?;
    let entry = entry.ok_or_else(|| ResolveError::NotFound(name.to_owned()))?;
    let service = decode_stored(&entry.value).map_err(|status| unreadable(&status))?;
    let port_name = port_name(&service, name, port)?;
    let prefix = format!("/registry/endpointslices/{namespace}/");
    let found = store.range(RangeRequest::prefix(prefix)).await;
    let found = found.map_err(|error| unreadable(&error))?;
    let slices: Vec<Value> =
        found.entries.iter().filter_map(|entry| decode_stored(&entry.value).ok()).collect();
    let mut ready: Vec<(String, u16)> = slices
        .iter()
        .filter(|slice| meta(slice).label("kubernetes.io/service-name") == Some(name))
        .flat_map(|slice| ready_endpoints(slice, &port_name))
        .collect();
    if ready.is_empty() {
        return Err(ResolveError::NoEndpoints(name.to_owned()));
    }
    let at = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % ready.len();
    Ok(ready.swap_remove(at))
}

/// The name by which EndpointSlices know the Service's port.
fn port_name(service: &Value, name: &str, port: u16) -> Result<String, ResolveError> {
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer") {
        return Err(ResolveError::Unsupported(kind.to_owned()));
    }
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let found = ports.find(|entry| entry["port"] == port);
    let found = found.ok_or_else(|| ResolveError::NoPort { port, service: name.to_owned() })?;
    Ok(found["name"].as_str().unwrap_or("").to_owned())
}

fn ready_endpoints(slice: &Value, port_name: &str) -> Vec<(String, u16)> {
    let list = |field: &str| slice[field].as_array().into_iter().flatten();
    let number = list("ports")
        .find(|port| port["name"].as_str().unwrap_or("") == port_name)
        .and_then(|port| u16::try_from(port["port"].as_u64()?).ok());
    let Some(number) = number else { return Vec::new() };
    list("endpoints")
        .filter(|endpoint| endpoint["conditions"]["ready"] != false)
        .filter_map(|endpoint| Some((endpoint["addresses"][0].as_str()?.to_owned(), number)))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_endpoints_with_the_port_serve() {
        let slice = json!({
            "ports": [{ "name": "https", "port": 8443 }],
            "endpoints": [
                { "addresses": ["10.0.0.1"], "conditions": { "ready": false } },
                { "addresses": ["10.0.0.2"], "conditions": {} },
            ],
        });
        assert_eq!(ready_endpoints(&slice, "https"), [("10.0.0.2".to_owned(), 8443)]);
        assert_eq!(ready_endpoints(&slice, "http"), []);
    }

    #[test]
    fn the_service_says_which_port() {
        let service = json!({ "spec": { "ports": [{ "port": 443, "name": "tls" }] } });
        assert_eq!(port_name(&service, "s", 443), Ok("tls".to_owned()));
        let refused = port_name(&service, "s", 80).expect_err("no such port");
        assert_eq!(refused.to_string(), r#"no service port 80 found for service "s""#);
        let external = json!({ "spec": { "type": "ExternalName" } });
        let refused = port_name(&external, "s", 443).expect_err("no endpoints of its own");
        assert_eq!(refused.to_string(), r#"unsupported service type "ExternalName""#);
    }
}
