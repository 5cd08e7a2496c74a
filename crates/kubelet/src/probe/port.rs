//! Where a probe or hook connects to.

use std::net::IpAddr;

use k8s_openapi::{api::core::v1::Container, apimachinery::pkg::util::intstr::IntOrString};
use skiff_runtime::PodSandboxStatus;

use crate::pod::desired::DesiredPod;

/// The pod's address, or the node's for a pod on the host's network.
pub fn host(pod: &DesiredPod, sandbox: Option<&PodSandboxStatus>, node_ips: &[IpAddr]) -> String {
    let ips = if pod.host_network() { node_ips } else { sandbox.map_or(&[][..], |s| &s.ips) };
    ips.first().map(IpAddr::to_string).unwrap_or_default()
}

/// A port by its number, or by its name among the container's ports.
pub fn resolve(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            match container.ports.iter().flatten().find(|p| p.name.as_ref() == Some(name)) {
                Some(port) => port.container_port,
                None => name.parse().map_err(|_| format!("couldn't find port: {name:?}"))?,
            }
        }
    };
    u16::try_from(number)
        .ok()
        .filter(|p| *p > 0)
        .ok_or_else(|| format!("invalid port number: {number}"))
}
