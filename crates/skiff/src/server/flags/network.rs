//! Where the server is reached, and which addresses and names the cluster uses.

use std::net::IpAddr;

use clap::Args;
use ipnet::Ipv4Net;
use skiff_apiserver::ApiServerConfig;

#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// Address on which the API server listens
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port on which the API server listens; 0 for any free one
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Address under which other nodes and pods reach this server [default: the node's]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Further names and addresses in the serving certificate
    #[arg(long, value_name = "NAME")]
    tls_san: Vec<String>,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/16")]
    service_cluster_ip_range: String,
    /// Addresses of pods; every node gets a part
    #[arg(long, default_value = "10.244.0.0/16")]
    cluster_cidr: String,
    /// How large the part of --cluster-cidr is that a node gets, as the length of its prefix
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u8).range(8..=29), value_name = "BITS")]
    node_cidr_mask_size: u8,
    /// Domain of the cluster's DNS names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
}

#[derive(Debug, thiserror::Error)]
#[error("--{flag}: {value:?} is no IPv4 network such as 10.96.0.0/16")]
pub struct NoNetwork {
    flag: &'static str,
    value: String,
}

#[derive(Debug, thiserror::Error)]
#[error("--cluster-cidr: {cluster} is too small for a node's /{node}")]
pub struct TooSmall {
    cluster: Ipv4Net,
    node: u8,
}

// === impl NetworkArgs ===

impl NetworkArgs {
    pub fn service_cidr(&self) -> Result<Ipv4Net, NoNetwork> {
        network("service-cluster-ip-range", &self.service_cluster_ip_range)
    }

    pub fn cluster_cidr(&self) -> Result<Ipv4Net, NoNetwork> {
        network("cluster-cidr", &self.cluster_cidr)
    }

    /// Every node's pods get a part of the cluster's range; this server's node has the first.
    pub fn first_node_range(&self, cluster: Ipv4Net) -> Result<Ipv4Net, TooSmall> {
        let node = self.node_cidr_mask_size;
        let ranges = cluster.subnets(node).ok();
        ranges.and_then(|mut ranges| ranges.next()).ok_or(TooSmall { cluster, node })
    }

    pub fn name_in_certificate(&self, api: &mut ApiServerConfig) {
        for name in &self.tls_san {
            match name.parse() {
                Ok(address) => api.extra_addresses.push(address),
                Err(_) => api.extra_names.push(name.clone()),
            }
        }
    }
}

fn network(flag: &'static str, value: &str) -> Result<Ipv4Net, NoNetwork> {
    let net: Ipv4Net = value.parse().map_err(|_| NoNetwork { flag, value: value.to_owned() })?;
    Ok(net.trunc())
}
