//! The terms a server runs on: flags, and what this machine says where a flag is silent.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use skiff_apiserver::ApiServerConfig;
use skiff_kubelet::{EvictionConfig, KubeletConfiguration, ShutdownGrace};
use tokio::net::TcpListener;

use super::Result;
use super::flags::{ImageArgs, NodeArgs, RuntimeTerms, ServerArgs};

/// Decided once, before anything runs.
pub struct Terms {
    pub data_dir: PathBuf,
    pub api: ApiServerConfig,
    bind_address: IpAddr,
    pub node_name: String,
    pub node_ip: IpAddr,
    pub service_cidr: Ipv4Net,
    /// Addresses of all nodes' pods, and of this node's.
    pub cluster_cidr: Ipv4Net,
    pub pod_cidr: Ipv4Net,
    pub cluster_domain: String,
    pub cluster_dns: Ipv4Addr,
    pub cgroup_root: String,
    pub runtime: RuntimeTerms,
    pub images: ImageArgs,
    pub eviction: EvictionConfig,
    pub static_pod_path: Option<PathBuf>,
    pub kubelet_configuration: Option<KubeletConfiguration>,
    /// Where the node agent keeps pods and finds plugins.
    pub kubelet_dir: PathBuf,
    pub shutdown: ShutdownGrace,
    pub max_pods: u32,
    listener: std::net::TcpListener,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("cannot listen on {address} port {port}: {source}; choose another with --port")]
    Listen { address: IpAddr, port: u16, source: std::io::Error },
    #[error(
        "running pods needs root to make namespaces, cgroups and mounts: use sudo, or --no-node"
    )]
    NotRoot,
    #[error(
        "--shutdown-grace-period-critical-pods {critical} must not exceed --shutdown-grace-period {total}"
    )]
    TooCritical { total: u64, critical: u64 },
}

impl Terms {
    pub fn of(args: &ServerArgs) -> Result<Terms> {
        let mut api = args.api()?;
        let (node, network) = (&args.node, &args.network);
        if !node.no_node && !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot.into());
        }
        let (service_cidr, cluster_cidr) = (network.service_cidr()?, network.cluster_cidr()?);
        let pod_cidr = network.first_node_range(cluster_cidr)?;
        let listener = bind(network.bind_address, network.port)?;
        let node_name = node.node_name.clone().unwrap_or_else(host_name);
        let node_ip = node.node_ip.unwrap_or_else(|| own_address(network.bind_address));
        api.advertise_address = network.advertise_address.unwrap_or(node_ip);
        api.port = listener.local_addr()?.port();
        api.extra_addresses.push(node_ip);
        api.extra_names.push(node_name.clone());
        let kubelet_configuration =
            node.kubelet_config.as_deref().map(KubeletConfiguration::read).transpose()?;
        Ok(Terms {
            data_dir: args.data_dir.clone(),
            api,
            bind_address: network.bind_address,
            node_name,
            node_ip,
            service_cidr,
            cluster_cidr,
            pod_cidr,
            cluster_domain: network.cluster_domain.clone(),
            cluster_dns: Ipv4Addr::from(u32::from(service_cidr.network()) + 10),
            cgroup_root: node.cgroup_root.clone(),
            runtime: args.runtime.terms(&args.data_dir, kubelet_configuration.as_ref())?,
            images: args.images.checked()?,
            eviction: args.eviction.config()?,
            shutdown: shutdown(node)?,
            max_pods: node.max_pods,
            static_pod_path: node
                .pod_manifest_path
                .as_ref()
                .map(std::path::absolute)
                .transpose()?,
            kubelet_configuration,
            kubelet_dir: kubelet_dir(args)?,
            listener,
        })
    }

    pub fn listen(&self) -> Result<TcpListener> {
        Ok(TcpListener::from_std(self.listener.try_clone()?)?)
    }

    /// The API server as seen from this machine.
    pub fn local_url(&self) -> String {
        let host = match self.bind_address.is_unspecified() {
            true => IpAddr::from(Ipv4Addr::LOCALHOST),
            false => self.bind_address,
        };
        match host {
            IpAddr::V4(host) => format!("https://{host}:{}", self.api.port),
            IpAddr::V6(host) => format!("https://[{host}]:{}", self.api.port),
        }
    }
}

fn kubelet_dir(args: &ServerArgs) -> std::io::Result<PathBuf> {
    match &args.node.root_dir {
        Some(dir) => std::path::absolute(dir),
        None => Ok(args.data_dir.join("node/kubelet")),
    }
}

fn shutdown(args: &NodeArgs) -> std::result::Result<ShutdownGrace, Error> {
    let (total, critical) = (args.shutdown_grace_period, args.shutdown_grace_period_critical_pods);
    match critical <= total {
        true => Ok(ShutdownGrace {
            total: Duration::from_secs(total),
            critical: Duration::from_secs(critical),
        }),
        false => Err(Error::TooCritical { total, critical }),
    }
}

fn bind(address: IpAddr, port: u16) -> Result<std::net::TcpListener> {
    let failed = |source| Error::Listen { address, port, source };
    let listener = std::net::TcpListener::bind((address, port)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

pub fn host_name() -> String {
    let name = nix::unistd::gethostname().unwrap_or_default();
    name.to_string_lossy().to_lowercase()
}

/// The address this machine would use towards others. Connecting a datagram socket sends nothing.
fn own_address(bound: IpAddr) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    let route = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).map(|()| socket))
        .and_then(|socket| socket.local_addr());
    route.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}
