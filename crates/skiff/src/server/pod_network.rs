//! Plugs the pod network into the runtime: the one place that knows both.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use skiff_net::{HostPort, PodNetwork};
use skiff_runtime::{Attachment, PortMapping, SandboxNetwork};

use crate::cli::with_causes;

pub struct PodNetworkPlugin(pub Arc<PodNetwork>);

#[async_trait]
impl SandboxNetwork for PodNetworkPlugin {
    async fn attach(&self, attachment: &Attachment) -> io::Result<Vec<IpAddr>> {
        let id = &attachment.sandbox_id;
        let addresses = self.0.attach(id, &attachment.netns).await.map_err(told)?;
        let ports: Vec<HostPort> = attachment.port_mappings.iter().filter_map(host_port).collect();
        if !ports.is_empty() {
            self.0.publish(id, &ports).await.map_err(told)?;
        }
        Ok(addresses)
    }

    async fn detach(&self, attachment: &Attachment) -> io::Result<()> {
        self.0.detach(&attachment.sandbox_id).await.map_err(told)
    }
}

/// With its causes: the text ends in a pod's event, where nobody can ask for more.
fn told(error: skiff_net::pod::Error) -> io::Error {
    io::Error::other(with_causes(&error))
}

/// Frees addresses of sandboxes that ended while nobody looked.
pub async fn forget_all_but(
    network: &PodNetwork,
    live: HashSet<String>,
) -> Result<(), skiff_net::pod::Error> {
    network.retain(&live).await
}

/// A container port without a host port is documentation, not a mapping.
fn host_port(mapping: &PortMapping) -> Option<HostPort> {
    use skiff_runtime::Protocol as Named;
    let protocol = match mapping.protocol {
        Named::Tcp => skiff_net::Protocol::Tcp,
        Named::Udp => skiff_net::Protocol::Udp,
        Named::Sctp => skiff_net::Protocol::Sctp,
    };
    let host_ip = match mapping.host_ip {
        Some(IpAddr::V4(address)) if !address.is_unspecified() => Some(address),
        Some(IpAddr::V6(_)) => return None,
        _ => None,
    };
    (mapping.host_port != 0).then_some(HostPort {
        protocol,
        host_ip,
        host_port: mapping.host_port,
        container_port: mapping.container_port,
    })
}
