//! Which pod, service or node port `[scheme:]name[:port]` in the path of a proxy request means.
//!
//! Name in the path + stored objects -> [`Backend`]. Counterpart: `ResourceLocation` of upstream's pods and services. Invariant: a
//! request is led to an address of a pod only, whatever else an Endpoints object may name: who may write one would otherwise reach
//! whatever the server reaches.

use std::net::IpAddr;

use serde_json::Value;
use skiff_api::{GroupResource, Status};

use super::connect::{self, Backend, Scheme};
use crate::call::Call;
use crate::objects;

/// The parts of `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub scheme: Scheme,
    pub name: &'a str,
    pub port: &'a str,
}

impl<'a> Target<'a> {
    pub fn parse(text: &'a str, what: &str) -> Result<Target<'a>, Status> {
        let parts: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match *parts.as_slice() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => ("", "", ""),
        };
        let scheme = match scheme {
            "" | "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        };
        match scheme {
            Some(scheme) if !name.is_empty() => Ok(Target { scheme, name, port }),
            _ => Err(invalid(text, what)),
        }
    }

    fn number(&self, port: &str, what: &str) -> Result<u16, Status> {
        port.parse().map_err(|_| invalid(&format!("{}:{port}", self.name), what))
    }

    fn at(&self, host: &str, port: u16) -> Backend {
        let path_and_query = String::new();
        Backend { host: host.to_owned(), port, scheme: self.scheme, path_and_query }
    }
}

fn invalid(text: &str, what: &str) -> Status {
    Status::bad_request(format!("invalid {what} request {text:?}"))
}

/// Without a port, the first that the pod declares.
pub async fn pod(call: &Call) -> Result<Backend, Status> {
    let target = Target::parse(&call.info.name, "pod")?;
    let pod = object(call, "pods", target.name).await?;
    let address = pod["status"]["podIP"].as_str().unwrap_or("");
    if !address.parse().is_ok_and(leads_to_a_pod) {
        return Err(Status::bad_request("address not allowed"));
    }
    let port = match target.port {
        "" => first_port(&pod).unwrap_or(target.scheme.default_port()),
        port => target.number(port, "pod")?,
    };
    Ok(target.at(address, port))
}

/// Its kubelet, or what else listens on the node.
pub async fn node(call: &Call) -> Result<Backend, Status> {
    let target = Target::parse(&call.info.name, "node")?;
    let kubelet = connect::kubelet(call, target.name).await?;
    match target.port {
        "" => Ok(kubelet),
        port if port == kubelet.port.to_string() => Ok(kubelet),
        port => Ok(target.at(&kubelet.host, target.number(port, "node")?)),
    }
}

fn first_port(pod: &Value) -> Option<u16> {
    let containers = pod["spec"]["containers"].as_array()?;
    let port = containers.iter().find_map(|one| one["ports"][0]["containerPort"].as_u64())?;
    u16::try_from(port).ok()
}

fn leads_to_a_pod(address: IpAddr) -> bool {
    let local = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(local || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

/// One of the service's ready endpoints, any of them.
pub async fn service(call: &Call) -> Result<Backend, Status> {
    let target = Target::parse(&call.info.name, "service")?;
    let port = port_name(call, &target).await?;
    let endpoints = object(call, "services/endpoints", target.name).await?;
    let subsets = endpoints["subsets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let none =
        |name: &str| Status::unavailable(format!("no endpoints available for service {name:?}"));
    if subsets.is_empty() {
        return Err(none(target.name));
    }
    for subset in any_first(subsets) {
        let Some(number) = number_of(subset, &port) else { continue };
        let addresses = subset["addresses"].as_array().map(Vec::as_slice).unwrap_or_default();
        for address in any_first(addresses) {
            if let Some(host) = address_of_a_pod(call, address).await {
                return Ok(target.at(host, number));
            }
        }
    }
    Err(none(&call.info.name))
}

/// The name of the service's port that is asked for by number; a name is taken as it is.
async fn port_name(call: &Call, target: &Target<'_>) -> Result<String, Status> {
    let Ok(number) = target.port.parse::<i64>() else { return Ok(target.port.to_owned()) };
    let service = object(call, "services/specs", target.name).await?;
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = ports.find(|port| port["port"] == number).ok_or_else(|| {
        Status::unavailable(format!("no service port {number} found for service {:?}", target.name))
    })?;
    Ok(port["name"].as_str().unwrap_or("").to_owned())
}

fn number_of(subset: &Value, port: &str) -> Option<u16> {
    let mut ports = subset["ports"].as_array()?.iter();
    let port = ports.find(|entry| entry["name"].as_str().unwrap_or("") == port)?;
    u16::try_from(port["port"].as_u64()?).ok()
}

/// The address, if it is that of the pod it claims to be.
async fn address_of_a_pod<'a>(call: &Call, address: &'a Value) -> Option<&'a str> {
    let (host, pod) = (address["ip"].as_str()?, &address["targetRef"]);
    if pod["namespace"] != call.info.namespace.as_str() {
        return None;
    }
    let pod = object(call, "pods", pod["name"].as_str()?).await.ok()?;
    let mut own = pod["status"]["podIPs"].as_array()?.iter();
    own.any(|own| own["ip"] == host).then_some(host)
}

/// All of them, beginning anywhere.
fn any_first<T>(items: &[T]) -> impl Iterator<Item = &T> {
    let start = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % items.len().max(1);
    items[start..].iter().chain(&items[..start])
}

/// What is missing is told by the name of the resource that was asked for.
async fn object(call: &Call, under: &str, name: &str) -> Result<Value, Status> {
    let found = objects::find(&call.server, under, &call.info.namespace, name).await?;
    let resource = GroupResource::new("", call.info.resource.as_str());
    found.ok_or_else(|| Status::not_found(&resource, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_name_scheme_and_port() {
        let check = |text: &str, scheme, name, port| {
            assert_eq!(Target::parse(text, "pod").ok(), Some(Target { scheme, name, port }));
        };
        check("web", Scheme::Http, "web", "");
        check("web:8080", Scheme::Http, "web", "8080");
        check("http:web:", Scheme::Http, "web", "");
        check("https:web:443", Scheme::Https, "web", "443");
    }

    #[test]
    fn what_is_no_target_is_told() {
        for text in [":80", "ftp:web:21", "a:b:c:d"] {
            let status = Target::parse(text, "pod").expect_err("refused");
            assert_eq!(status.message, format!("invalid pod request {text:?}"));
        }
    }

    #[test]
    fn nothing_on_the_servers_own_machine_is_a_pod() {
        for (address, pod) in [
            ("10.244.0.7", true),
            ("fd00::7", true),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("0.0.0.0", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("fe80::1", false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!(leads_to_a_pod(address), pod, "{address}");
        }
    }
}
