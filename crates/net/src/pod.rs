//! The pod network of one node: a bridge, a veth pair per pod sandbox, and one nftables table.
//!
//! A sandbox id and the path of its network namespace come in; an interface `eth0` with an address of the node's range
//! and a default route comes out. Counterparts: the bridge, host-local and portmap CNI plugins.
//! Differs from upstream: a pod holds a /32, so that every packet to another pod goes to the node first. Replies
//! therefore always pass the address translation that the request passed, with br_netfilter or without.
//!
//! Invariant: attach, detach and retain can each be repeated after a crash at any point and end in the same state.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use ipnet::{IpNet, Ipv4Net};
use nlink::netlink::nftables::SetElementData;
use nlink::netlink::nftables::{
    BaseChain, Family, FilterHook, NatHook, NatStatement, Priority, Set, SetElement,
};
use nlink::netlink::{Connection, Nftables};
use tracing::{info, warn};

use crate::ipam::{self, Ipam};
use crate::link::{self, Mac, Namespace, VethEnd, create_veth};
use crate::nft::{self, Batch};

pub use crate::nft::Protocol;

const TABLE: &str = "skiff-pods";
const POD_INTERFACE: &str = "eth0";

/// Just after the service table, so that a Service claims a port before a pod does.
const HOST_PORT_PRIORITY: Priority = Priority::Custom(-95);

/// What a node's pod network is made of.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// Name of the bridge, for instance `cni0`.
    pub bridge: String,
    /// The node's own range; its first address is the bridge's.
    pub pod_cidr: Ipv4Net,
    /// The range of all nodes' pods: traffic into it keeps its source address.
    pub cluster_cidr: Ipv4Net,
    pub mtu: u32,
    /// Where the records of held addresses live.
    pub state_dir: PathBuf,
}

/// A port of the node that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    pub protocol: Protocol,
    /// Only this address of the node; all of them when absent.
    pub host_ip: Option<Ipv4Addr>,
    pub host_port: u16,
    pub container_port: u16,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error(transparent)]
    Ipam(#[from] ipam::Error),
    #[error("cannot program the pod network's nftables table")]
    Nftables(#[source] nlink::Error),
    #[error("sandbox {sandbox} is not attached to the pod network")]
    NotAttached { sandbox: String },
    #[error("host port {port}/{} is taken by the pod at {holder}", protocol.as_str())]
    HostPortTaken { protocol: Protocol, port: u16, holder: Ipv4Addr },
}

type Result<T> = std::result::Result<T, Error>;

/// A published port: the node's side of a [`HostPort`].
type Published = (Option<Ipv4Addr>, Protocol, u16);

/// Handle to the pod network of one node; share it behind an `Arc`.
pub struct PodNetwork {
    config: PodNetworkConfig,
    node: Namespace,
    bridge: u32,
    nftables: Connection<Nftables>,
    state: Mutex<State>,
}

struct State {
    ipam: Ipam,
    published: BTreeMap<Published, (Ipv4Addr, u16)>,
}

// === impl PodNetwork ===

impl PodNetwork {
    /// Brings up the bridge and the rules in the calling thread's network namespace.
    pub async fn open(config: PodNetworkConfig) -> Result<Self> {
        Self::open_in(Namespace::current()?, config).await
    }

    /// Brings up the bridge and the rules in `node`. Pods and host ports of an earlier run keep working throughout.
    pub async fn open_in(node: Namespace, config: PodNetworkConfig) -> Result<Self> {
        let ipam = Ipam::open(config.pod_cidr, &config.state_dir)?;
        let bridge = open_bridge(&node, &config, ipam.gateway()).await?;
        let nftables = node.nftables()?;
        let published = read_published(&nftables).await;
        write_table(&nftables, &config, &published).await.map_err(Error::Nftables)?;
        Ok(Self { config, node, bridge, nftables, state: Mutex::new(State { ipam, published }) })
    }

    pub fn gateway(&self) -> Ipv4Addr {
        ipam::gateway(self.config.pod_cidr)
    }

    /// The sandbox's addresses, if it is attached.
    pub fn addresses(&self, sandbox: &str) -> Vec<IpAddr> {
        self.state().ipam.address_of(sandbox).map(IpAddr::V4).into_iter().collect()
    }

    /// Connects a sandbox's network namespace and returns its addresses. A second call returns the same ones.
    pub async fn attach(&self, sandbox: &str, netns: &Path) -> Result<Vec<IpAddr>> {
        let pod = Namespace::open(netns)?;
        let address = self.state().ipam.allocate(sandbox)?;
        if let Err(error) = self.connect(&pod, address).await {
            if let Err(error) = self.detach(sandbox).await {
                warn!(sandbox, %error, "cannot undo a failed attach");
            }
            return Err(error);
        }
        Ok(vec![IpAddr::V4(address)])
    }

    /// Disconnects a sandbox, whether or not its namespace still exists, and frees its address and host ports.
    pub async fn detach(&self, sandbox: &str) -> Result<()> {
        let Some(address) = self.state().ipam.address_of(sandbox) else {
            return Ok(());
        };
        self.unpublish(address).await?;
        self.node.delete_link(&host_interface(address)).await?;
        self.state().ipam.release(sandbox)?;
        Ok(())
    }

    /// Detaches every sandbox that is not in `live`, and deletes interfaces that belong to none.
    pub async fn retain(&self, live: &HashSet<String>) -> Result<()> {
        let (dead, kept): (Vec<_>, Vec<_>) = {
            let state = self.state();
            let holders =
                state.ipam.holders().map(|(address, sandbox)| (address, sandbox.to_string()));
            holders.partition(|(_, sandbox)| !live.contains(sandbox))
        };
        for (address, sandbox) in dead {
            info!(sandbox, %address, "freeing the address of a sandbox that is gone");
            self.detach(&sandbox).await?;
        }
        let expected: HashSet<String> =
            kept.iter().map(|(address, _)| host_interface(*address)).collect();
        let ours = |link: &link::Link| {
            link.master == Some(self.bridge) && link.kind.as_deref() == Some("veth")
        };
        for link in self.node.links().await?.iter().filter(|link| ours(link)) {
            let attached_since =
                || self.state().ipam.holders().any(|(a, _)| host_interface(a) == link.name);
            if !expected.contains(&link.name) && !attached_since() {
                self.node.delete_link(&link.name).await?;
            }
        }
        Ok(())
    }

    /// Replaces the host ports of an attached sandbox.
    pub async fn publish(&self, sandbox: &str, ports: &[HostPort]) -> Result<()> {
        let missing = || Error::NotAttached { sandbox: sandbox.to_string() };
        let address = self.state().ipam.address_of(sandbox).ok_or_else(missing)?;
        let wanted: BTreeMap<_, _> = ports.iter().map(|port| published(port, address)).collect();
        if let Some((taken, holder)) = self.conflict(&wanted, address) {
            return Err(Error::HostPortTaken { protocol: taken.1, port: taken.2, holder });
        }
        self.replace_published(address, wanted).await
    }

    fn conflict(
        &self,
        wanted: &BTreeMap<Published, (Ipv4Addr, u16)>,
        of: Ipv4Addr,
    ) -> Option<(Published, Ipv4Addr)> {
        let state = self.state();
        let overlaps = |a: &Published, b: &Published| {
            (a.1, a.2) == (b.1, b.2) && (a.0.is_none() || b.0.is_none() || a.0 == b.0)
        };
        let others = || state.published.iter().filter(|(_, (holder, _))| *holder != of);
        let clash = |port: &Published| {
            others().find(|(other, _)| overlaps(port, other)).map(|(_, to)| to.0)
        };
        wanted.keys().find_map(|port| Some((*port, clash(port)?)))
    }

    async fn unpublish(&self, address: Ipv4Addr) -> Result<()> {
        self.replace_published(address, BTreeMap::new()).await
    }

    async fn replace_published(
        &self,
        of: Ipv4Addr,
        wanted: BTreeMap<Published, (Ipv4Addr, u16)>,
    ) -> Result<()> {
        let current: BTreeMap<_, _> = self
            .state()
            .published
            .iter()
            .filter(|(_, to)| to.0 == of)
            .map(|(port, to)| (*port, *to))
            .collect();
        if current == wanted {
            return Ok(());
        }
        let batch =
            add_published(delete_published(Batch::new(&self.nftables, TABLE), &current), &wanted);
        batch.commit(&self.nftables).await.map_err(Error::Nftables)?;
        let mut state = self.state();
        state.published.retain(|_, to| to.0 != of);
        state.published.extend(wanted);
        Ok(())
    }

    /// Makes sure the pod has its `eth0`; an interface left by an attach that was cut short is finished or replaced.
    async fn connect(&self, pod: &Namespace, address: Ipv4Addr) -> Result<()> {
        let near = host_interface(address);
        if pod.link(POD_INTERFACE).await?.is_none() {
            self.node.delete_link(&near).await?;
            let near = VethEnd { namespace: &self.node, name: &near, mac: None };
            let far = VethEnd { namespace: pod, name: POD_INTERFACE, mac: Some(mac_of(address)) };
            create_veth(near, far, Some(self.bridge), self.config.mtu).await?;
        }
        // Where br_netfilter is loaded, the bridge itself forwards a translated frame, even back to its sender.
        self.node.set_hairpin(self.node.require_link(&near).await?.index).await?;
        configure_pod(pod, address, self.gateway()).await
    }

    /// Never held across an await: it guards bookkeeping only.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no bookkeeping step panics")
    }
}

/// Gives the pod's interface its address and the route that leads everywhere.
async fn configure_pod(pod: &Namespace, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<()> {
    let eth0 = pod.require_link(POD_INTERFACE).await?.index;
    let loopback = pod.require_link("lo").await?.index;
    pod.set_up(loopback).await?;
    pod.add_address(eth0, IpNet::new_assert(address.into(), 32)).await?;
    pod.set_up(eth0).await?;
    pod.add_route(IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0), Some(gateway.into()), eth0)
        .await?;
    Ok(())
}

async fn open_bridge(
    node: &Namespace,
    config: &PodNetworkConfig,
    gateway: Ipv4Addr,
) -> Result<u32> {
    let bridge = node.ensure_bridge(&config.bridge, Some(mac_of(gateway)), config.mtu).await?.index;
    node.add_address(bridge, IpNet::new_assert(gateway.into(), config.pod_cidr.prefix_len()))
        .await?;
    let of_bridge = |setting: &str| format!("net.ipv4.conf.{}.{setting}", config.bridge);
    let sysctls = [
        ("net.ipv4.ip_forward".to_string(), "1"),
        // Pods reach each other through the node; a redirect would tell them to talk past it.
        ("net.ipv4.conf.all.send_redirects".to_string(), "0"),
        (of_bridge("send_redirects"), "0"),
        // Lets 127.0.0.1:<hostPort> on the node be translated to a pod; `guard` keeps pods off the node's loopback.
        (of_bridge("route_localnet"), "1"),
    ];
    for (key, value) in sysctls {
        node.set_sysctl(&key, value)?;
    }
    Ok(bridge)
}

/// The node's end of the pair: unique because the address is, and within the 15 bytes of an interface name.
fn host_interface(address: Ipv4Addr) -> String {
    format!("veth{:08x}", u32::from(address))
}

/// Derived from the address, so that an address that is handed out again still matches its neighbours' ARP entries.
fn mac_of(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn published(port: &HostPort, address: Ipv4Addr) -> (Published, (Ipv4Addr, u16)) {
    ((port.host_ip, port.protocol, port.host_port), (address, port.container_port))
}

// === the table ===

/// Host ports on every address of the node, and on one.
fn host_port_maps() -> [Set; 2] {
    [
        nft::set(TABLE, "host-ports", nft::port_key()).map(nft::destination()),
        nft::set(TABLE, "host-ports-ip", nft::endpoint_key()).map(nft::destination()),
    ]
}

/// Pairs of a pod's address with itself: what a pod that reaches itself through the node looks like.
fn hairpin_set() -> Set {
    nft::set(TABLE, "hairpin", nft::pair_key())
}

async fn write_table(
    connection: &Connection<Nftables>,
    config: &PodNetworkConfig,
    published: &BTreeMap<Published, (Ipv4Addr, u16)>,
) -> nlink::Result<()> {
    let [any, specific] = host_port_maps();
    let batch =
        Batch::new(connection, TABLE).recreate_table().set(any).set(specific).set(hairpin_set());
    let batch = guard(batch, config);
    let batch = translate_host_ports(batch);
    let batch = masquerade(batch, config);
    let pairs: Vec<_> =
        config.pod_cidr.hosts().map(|address| nft::pair_element(address, address)).collect();
    let batch = add_published(batch.add_elements(&hairpin_set(), &pairs), published);
    batch.commit(connection).await
}

/// A pod must not reach what listens on the node's loopback, although the bridge may route such addresses.
fn guard(batch: Batch, config: &PodNetworkConfig) -> Batch {
    batch
        .base_chain("guard", BaseChain::filter(FilterHook::Prerouting, Priority::Raw))
        .rule_with("guard", |rule| {
            rule.match_iif(&config.bridge).match_daddr_v4(Ipv4Addr::new(127, 0, 0, 0), 8).drop()
        })
}

fn translate_host_ports(batch: Batch) -> Batch {
    let hooks = [("prerouting", NatHook::Prerouting), ("output", NatHook::Output)];
    hooks.into_iter().fold(batch, |batch, (chain, hook)| {
        let one_address = nft::load_endpoint(0)
            .into_iter()
            .chain([nft::map_lookup("host-ports-ip"), nft::dnat_to_words()]);
        let any_address = nft::to_local_address().into_iter().chain([
            nft::load_protocol(0),
            nft::load_port(1),
            nft::map_lookup("host-ports"),
            nft::dnat_to_words(),
        ]);
        batch
            .base_chain(chain, BaseChain::nat(hook, HOST_PORT_PRIORITY))
            .rule(chain, one_address)
            .rule(chain, any_address)
    })
}

/// Source addresses that the far side could not answer are replaced by the node's.
fn masquerade(batch: Batch, config: &PodNetworkConfig) -> Batch {
    let to_node = || NatStatement::masquerade().fully_random();
    let (pods, all_pods) = (config.pod_cidr, config.cluster_cidr);
    let hairpin = [nft::load_source(0), nft::load_destination(1), nft::in_set("hairpin")];
    batch
        .base_chain("postrouting", BaseChain::nat(NatHook::Postrouting, Priority::SrcNat))
        .rule_with("postrouting", |rule| {
            hairpin.into_iter().fold(rule, |rule, e| rule.expr(e)).nat(to_node())
        })
        .rule_with("postrouting", |rule| {
            rule.match_oif(&config.bridge)
                .match_saddr_v4(Ipv4Addr::new(127, 0, 0, 0), 8)
                .nat(to_node())
        })
        .rule_with("postrouting", |rule| {
            rule.match_oif_not(&config.bridge)
                .match_saddr_v4(pods.network(), pods.prefix_len())
                .match_daddr_v4_not(all_pods.network(), all_pods.prefix_len())
                .nat(to_node())
        })
}

// === published ports as elements ===

fn add_published(batch: Batch, ports: &BTreeMap<Published, (Ipv4Addr, u16)>) -> Batch {
    let ([any, specific], (to_any, to_specific)) = (host_port_maps(), elements(ports));
    batch.add_elements(&any, &to_any).add_elements(&specific, &to_specific)
}

fn delete_published(batch: Batch, ports: &BTreeMap<Published, (Ipv4Addr, u16)>) -> Batch {
    let ([any, specific], (to_any, to_specific)) = (host_port_maps(), elements(ports));
    batch.delete_elements(&any, &to_any).delete_elements(&specific, &to_specific)
}

fn elements(ports: &BTreeMap<Published, (Ipv4Addr, u16)>) -> (Vec<SetElement>, Vec<SetElement>) {
    let (mut any, mut specific) = (Vec::new(), Vec::new());
    for ((host_ip, protocol, port), (address, container_port)) in ports {
        let to = nft::destination_element(*address, *container_port);
        match host_ip {
            Some(ip) => specific.push(nft::endpoint_element(*ip, *protocol, *port).value(to)),
            None => any.push(nft::port_element(*protocol, *port).value(to)),
        }
    }
    (any, specific)
}

/// The host ports an earlier run left in the kernel: the only place they are kept. None when there is no table yet.
async fn read_published(connection: &Connection<Nftables>) -> BTreeMap<Published, (Ipv4Addr, u16)> {
    let mut ports = BTreeMap::new();
    for map in host_port_maps() {
        let Ok(elements) = connection.list_set_elements(TABLE, map.name(), Family::Ip).await else {
            continue;
        };
        ports.extend(elements.iter().filter_map(parse_element));
    }
    ports
}

fn parse_element(element: &SetElement) -> Option<(Published, (Ipv4Addr, u16))> {
    let Some(SetElementData::Value(value)) = element.data() else {
        return None;
    };
    let (host_ip, rest) = match element.key() {
        key if key.len() == 12 => (Some(nft::parse_ipv4(key)?), &key[4..]),
        key => (None, key),
    };
    let protocol = Protocol::from_number(*rest.first()?)?;
    let destination = (nft::parse_ipv4(value)?, nft::parse_port(value.get(4..)?)?);
    Some(((host_ip, protocol, nft::parse_port(rest.get(4..)?)?), destination))
}
