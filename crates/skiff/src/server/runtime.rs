//! What runs this node's pods: the runtime that is built in, with the pod network of this process, or one behind a CRI socket, with
//! its own.
//!
//! Terms -> [`NodeRuntime`]. Invariant: the kubelet sees a `Runtime` and nothing of which it is.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use skiff_cri::{CriServer, RemoteConfig, RemoteRuntime};
use skiff_net::{PodNetwork, PodNetworkConfig};
use skiff_runtime::{Embedded, EmbeddedConfig, PodSandboxState, Runtime};

use super::Result;
use super::flags::RuntimeTerms;
use super::node::BRIDGE;
use super::pod_network::{PodNetworkPlugin, forget_all_but};
use super::terms::Terms;
use crate::node_socket::Images;

const MTU: u32 = 1500;

pub struct NodeRuntime {
    pub runtime: Arc<dyn Runtime>,
    pub name: String,
    /// Whose images these are, for the command line.
    pub images: Images,
    /// Where pods find DNS.
    pub dns: IpAddr,
    /// Answers for the built-in runtime.
    pub cri: Option<CriServer>,
}

// === impl NodeRuntime ===

impl NodeRuntime {
    pub async fn open(terms: &Terms) -> Result<NodeRuntime> {
        let (runtime, images, dns, cri): (Arc<dyn Runtime>, _, _, _) = match &terms.runtime {
            RuntimeTerms::Embedded { cri_socket } => {
                let (runtime, dns) = embedded(terms).await?;
                let cri = CriServer::bind(runtime.clone(), cri_socket).await;
                let cri = cri.map_err(|error| format!("{}: {error}", cri_socket.display()))?;
                let images = Images::Here(runtime.clone());
                (runtime, images, dns, Some(cri))
            }
            RuntimeTerms::Remote { endpoint, runtime, images } => {
                let config = RemoteConfig {
                    runtime: runtime.clone(),
                    images: images.clone(),
                    cgroup_root: terms.cgroup_root.clone(),
                };
                let opened = RemoteRuntime::open(config).await;
                let runtime = opened.map_err(|error| format!("container runtime: {error}"))?;
                let images = Images::Elsewhere(endpoint.clone());
                (runtime, images, terms.node_ip, None)
            }
        };
        let name = runtime.version().await?.runtime_name;
        Ok(NodeRuntime { runtime, name, images, dns, cri })
    }
}

/// The runtime, and the address on its pods' bridge.
async fn embedded(terms: &Terms) -> Result<(Arc<Embedded>, IpAddr)> {
    let dir = terms.data_dir.join("node");
    let network = Arc::new(
        PodNetwork::open(PodNetworkConfig {
            bridge: BRIDGE.to_owned(),
            pod_cidr: terms.pod_cidr,
            cluster_cidr: terms.cluster_cidr,
            mtu: MTU,
            state_dir: dir.join("network"),
        })
        .await?,
    );
    let runtime = Embedded::open(EmbeddedConfig {
        root: dir.join("runtime"),
        cgroup_root: terms.cgroup_root.clone(),
        network: Arc::new(PodNetworkPlugin(network.clone())),
        shim: Default::default(),
        registries: Some(terms.images.registries.clone()),
    })
    .await?;
    forget_all_but(&network, live_sandboxes(&*runtime).await?).await?;
    Ok((runtime, network.gateway().into()))
}

async fn live_sandboxes(runtime: &dyn Runtime) -> Result<HashSet<String>> {
    let all = runtime.list_pod_sandboxes().await?;
    let live = all.into_iter().filter(|sandbox| sandbox.state == PodSandboxState::Ready);
    Ok(live.map(|sandbox| sandbox.id).collect())
}
