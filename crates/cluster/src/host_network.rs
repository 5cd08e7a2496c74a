//! The host's side of a cluster's network: a bridge, a veth per node, and the way out.
//!
//! Invariant: every interface and table carries the cluster's tag in its name, and removing the
//! bridge and the table removes all of it.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use ipnet::{IpNet, Ipv4Net};
use nlink::netlink::nftables::{BaseChain, Chain, Family, NatHook, NatStatement, Priority, Rule};
use nlink::netlink::{Connection, Nftables};
use skiff_net::link::{Namespace, VethEnd, create_veth};

use crate::error::{Doing, Error, Result, network};
use crate::state::State;

/// Where cluster networks are taken from; outside of the pod and Service ranges.
const POOL: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(10, 231, 0, 0), 16);
const MTU: u32 = 1500;
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Names on the host, short enough for an interface.
struct Names {
    bridge: String,
    veth: String,
    table: String,
}

/// A /24 of the pool that overlaps with no network of this machine and of no other cluster.
pub(crate) async fn choose_subnet(taken: &[Ipv4Net]) -> Result<Ipv4Net> {
    let host = Namespace::current().map_err(network("opening the host's network"))?;
    let addresses =
        host.addresses().await.map_err(network("listing the addresses of this machine"))?;
    let used: Vec<Ipv4Net> = addresses
        .into_iter()
        .filter_map(|(_, net)| match net {
            IpNet::V4(net) => Some(net),
            IpNet::V6(_) => None,
        })
        .chain(taken.iter().copied())
        .collect();
    let overlaps = |a: &Ipv4Net, b: &Ipv4Net| a.contains(&b.network()) || b.contains(&a.network());
    POOL.subnets(24)
        .expect("a /16 has /24 subnets")
        .find(|net| !used.iter().any(|other| overlaps(net, other)))
        .ok_or_else(|| Error::NoFreeSubnet(POOL.to_string()))
}

/// Joins the node to the host: bridge and veth, addresses on both sides, routes.
pub(crate) async fn connect(cluster: &str, state: &State, node_pid: i32) -> Result<()> {
    let names = Names::of(cluster);
    let host = Namespace::current().map_err(network("opening the host's network"))?;
    let inside = Namespace::open(Path::new(&format!("/proc/{node_pid}/ns/net")))
        .map_err(network("opening the node's network"))?;
    let bridge = host
        .ensure_bridge(&names.bridge, None, MTU)
        .await
        .map_err(network("making the cluster's bridge"))?;
    let prefix = state.subnet.prefix_len();
    host.add_address(bridge.index, net(state.host_address(), prefix))
        .await
        .map_err(network("giving the bridge its address"))?;
    host.set_up(bridge.index).await.map_err(network("setting the bridge up"))?;
    host.delete_link(&names.veth).await.map_err(network("removing a stale interface"))?;
    let near = VethEnd { namespace: &host, name: &names.veth, mac: None };
    let far = VethEnd { namespace: &inside, name: "eth0", mac: None };
    create_veth(near, far, Some(bridge.index), MTU)
        .await
        .map_err(network("joining the node to the bridge"))?;
    configure_node(&inside, state).await
}

async fn configure_node(inside: &Namespace, state: &State) -> Result<()> {
    let lo = inside.require_link("lo").await.map_err(network("finding the node's loopback"))?;
    inside.set_up(lo.index).await.map_err(network("setting the node's loopback up"))?;
    let eth0 =
        inside.require_link("eth0").await.map_err(network("finding the node's interface"))?;
    inside
        .add_address(eth0.index, net(state.node_address(), state.subnet.prefix_len()))
        .await
        .map_err(network("giving the node its address"))?;
    inside.set_up(eth0.index).await.map_err(network("setting the node's interface up"))?;
    let everywhere = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    inside
        .add_route(everywhere, Some(state.host_address().into()), eth0.index)
        .await
        .map_err(network("giving the node its default route"))
}

/// Lets the cluster out to where this machine can go itself. Answers whether forwarding had to
/// be turned on. A machine without a default route is left as it is.
pub(crate) async fn open_way_out(cluster: &str, state: &State) -> Result<bool> {
    if !has_default_route() {
        return Ok(false);
    }
    let names = Names::of(cluster);
    let connection = Connection::<Nftables>::new().map_err(network("opening nftables"))?;
    let chain = Chain::new(names.table.as_str(), "postrouting")
        .map_err(network("naming a chain"))?
        .family(Family::Ip)
        .base(BaseChain::nat(NatHook::Postrouting, Priority::SrcNat));
    let rule = Rule::new(names.table.as_str(), "postrouting")
        .family(Family::Ip)
        .match_oif_not(&names.bridge)
        .match_saddr_v4(state.subnet.network(), state.subnet.prefix_len())
        .nat(NatStatement::masquerade());
    connection
        .transaction()
        .update_table(&names.table, Family::Ip, 0)
        .del_table(&names.table, Family::Ip)
        .add_table(&names.table, Family::Ip)
        .add_chain(chain)
        .add_rule(rule)
        .commit(&connection)
        .await
        .map_err(network("masquerading the cluster's traffic"))?;
    enable_forwarding()
}

/// Takes away what [`connect`] and [`open_way_out`] made. Safe to repeat.
pub(crate) async fn remove(cluster: &str) -> Result<()> {
    let names = Names::of(cluster);
    let host = Namespace::current().map_err(network("opening the host's network"))?;
    host.delete_link(&names.veth).await.map_err(network("removing the node's interface"))?;
    host.delete_link(&names.bridge).await.map_err(network("removing the cluster's bridge"))?;
    let connection = Connection::<Nftables>::new().map_err(network("opening nftables"))?;
    connection
        .transaction()
        .update_table(&names.table, Family::Ip, 0)
        .del_table(&names.table, Family::Ip)
        .commit(&connection)
        .await
        .map_err(network("removing the cluster's rules"))
}

/// Turns forwarding off again that was on only for clusters.
pub(crate) fn disable_forwarding() -> Result<()> {
    fs::write(FORWARDING, "0").doing(|| format!("writing {FORWARDING}"))
}

fn enable_forwarding() -> Result<bool> {
    let now = fs::read_to_string(FORWARDING).doing(|| format!("reading {FORWARDING}"))?;
    if now.trim() != "0" {
        return Ok(false);
    }
    fs::write(FORWARDING, "1").doing(|| format!("writing {FORWARDING}"))?;
    Ok(true)
}

fn has_default_route() -> bool {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    routes.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace();
        fields.nth(1) == Some("00000000") && fields.nth(5) == Some("00000000")
    })
}

fn net(address: Ipv4Addr, prefix: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(address, prefix))
}

// === impl Names ===

impl Names {
    fn of(cluster: &str) -> Names {
        let tag = match cluster.len() <= 9 {
            true => cluster.to_owned(),
            false => format!("{:09x}", fnv(cluster) & 0xf_ffff_ffff),
        };
        Names {
            bridge: format!("sk-{tag}"),
            veth: format!("sk-{tag}.0"),
            table: format!("skiff-{tag}"),
        }
    }
}

/// Spreads long names; interface names have 15 characters.
fn fnv(text: &str) -> u64 {
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, mix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit_and_differ() {
        let (a, b) =
            (Names::of("a-rather-long-cluster-name"), Names::of("a-rather-long-cluster-nam"));
        assert!(a.veth.len() <= 15 && a.bridge != b.bridge);
        assert_eq!(Names::of("skiff").bridge, "sk-skiff");
    }
}
