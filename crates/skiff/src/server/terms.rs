//! The terms a server runs on: flags, and what this machine says where a flag is silent.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::Ipv4Net;
use skiff_apiserver::{ApiServerConfig, AuditConfig, AuditLogTerms, Cidr};
use tokio::net::TcpListener;

use super::Result;
use super::images::ImageArgs;
use crate::cli::ServerArgs;

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
    pub images: ImageArgs,
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
    #[error("--audit-webhook-config-file is not supported: record to --audit-log-path")]
    AuditWebhook,
    #[error("--{flag}: {value:?} is no IPv4 network such as 10.96.0.0/16")]
    Network { flag: &'static str, value: String },
    #[error("--cluster-cidr: {0} is too small for a node's /24")]
    TooSmall(Ipv4Net),
}

impl Terms {
    pub async fn of(args: &ServerArgs) -> Result<Terms> {
        if args.audit_webhook_config_file.is_some() {
            return Err(Error::AuditWebhook.into());
        }
        if !args.no_node && !nix::unistd::geteuid().is_root() {
            return Err(Error::NotRoot.into());
        }
        let listener = bind(args.bind_address, args.port)?;
        let port = listener.local_addr()?.port();
        let node_name = args.node_name.clone().unwrap_or_else(host_name);
        let node_ip = args.node_ip.unwrap_or_else(|| own_address(args.bind_address));
        let service_cidr = network("service-cluster-ip-range", &args.service_cluster_ip_range)?;
        let cluster_cidr = network("cluster-cidr", &args.cluster_cidr)?;
        let mut node_ranges =
            cluster_cidr.subnets(24).map_err(|_| Error::TooSmall(cluster_cidr))?;
        let pod_cidr = node_ranges.next().ok_or(Error::TooSmall(cluster_cidr))?;
        let mut api = ApiServerConfig::new(&args.data_dir);
        api.advertise_address = args.advertise_address.unwrap_or(node_ip);
        api.port = port;
        api.service_cidr = service_cidr.to_string().parse::<Cidr>()?;
        api.issuer = args.service_account_issuer.clone();
        api.allow_privileged = args.allow_privileged;
        args.access.apply(&mut api)?;
        api.enable_admission_plugins = args.enable_admission_plugins.clone();
        api.disable_admission_plugins = args.disable_admission_plugins.clone();
        api.legacy_apis = args.legacy_apis;
        api.audit = audit(args);
        for name in &args.tls_san {
            match name.parse() {
                Ok(address) => api.extra_addresses.push(address),
                Err(_) => api.extra_names.push(name.clone()),
            }
        }
        api.extra_addresses.push(node_ip);
        api.extra_names.push(node_name.clone());
        Ok(Terms {
            data_dir: args.data_dir.clone(),
            api,
            bind_address: args.bind_address,
            node_name,
            node_ip,
            service_cidr,
            cluster_cidr,
            pod_cidr,
            cluster_domain: args.cluster_domain.clone(),
            cluster_dns: Ipv4Addr::from(u32::from(service_cidr.network()) + 10),
            cgroup_root: args.cgroup_root.clone(),
            images: args.images.checked()?,
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

/// Without a log, a policy has nowhere to write to.
fn audit(args: &ServerArgs) -> Option<AuditConfig> {
    const DEFAULT_MEGABYTES: u32 = 100;
    let (policy, path) = (args.audit_policy_file.clone()?, args.audit_log_path.clone()?);
    let megabytes = match args.audit_log_maxsize {
        0 => DEFAULT_MEGABYTES,
        some => some,
    };
    let log = AuditLogTerms {
        path,
        max_size: u64::from(megabytes) << 20,
        max_age: Duration::from_secs(u64::from(args.audit_log_maxage) * 24 * 3600),
        max_backups: args.audit_log_maxbackup,
    };
    Some(AuditConfig { policy, log })
}

fn bind(address: IpAddr, port: u16) -> Result<std::net::TcpListener> {
    let failed = |source| Error::Listen { address, port, source };
    let listener = std::net::TcpListener::bind((address, port)).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Ok(listener)
}

fn network(flag: &'static str, value: &str) -> Result<Ipv4Net> {
    let net: Ipv4Net =
        value.parse().map_err(|_| Error::Network { flag, value: value.to_owned() })?;
    Ok(net.trunc())
}

fn host_name() -> String {
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
