//! The service table: its chains, written once, and its elements, changed by deltas.
//!
//! A packet's destination is looked up in one verdict map, which leads to the chain of its [`Balancer`]; there one
//! random number picks the slot and one lookup yields the endpoint to translate to. Counterpart: the table layout at
//! the top of pkg/proxy/nftables/proxier.go.
//! Differs from upstream: chains belong to counts of endpoints, not to Services and endpoints.
//!
//! Invariant: every call is one transaction; after an error the table must be rewritten from an empty one.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use ipnet::Ipv4Net;
use nlink::netlink::nftables::{
    BaseChain, CtState, DynsetExpr, DynsetOp, Expr, Family, FilterHook, LookupExpr, NatHook,
    NatStatement, NumgenKind, Priority, Rule, Set, SetElement, SetElementData, SetKeyType, Verdict,
};
use nlink::netlink::{Connection, Nftables};

use super::plan::{Clients, Destination, Frontend, Refusal};
use super::ruleset::{Balancer, Delta, Elements};
use crate::link::Namespace;
use crate::nft::{self, Batch, Protocol};

const TABLE: &str = "skiff-services";

/// Set on packets whose source is to be replaced on the way out; the bit upstream uses.
const MASQUERADE_MARK: u32 = 0x4000;

const LOOPBACK: (Ipv4Addr, u8) = (Ipv4Addr::new(127, 0, 0, 0), 8);
const ICMP_PORT_UNREACHABLE: u8 = 3;

/// The ranges whose traffic the table tells apart.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    pub pods: Ipv4Net,
    pub services: Ipv4Net,
}

/// A connection to the table, and which chains are in it.
pub struct Dataplane {
    connection: Connection<Nftables>,
    ranges: Ranges,
    chains: HashSet<Balancer>,
}

// === impl Dataplane ===

impl Dataplane {
    pub fn open(namespace: &Namespace, ranges: Ranges) -> Result<Self, crate::link::Error> {
        let connection = namespace.nftables()?;
        if let Err(error) = nft::widen_send_buffer(&connection) {
            tracing::warn!(%error, "cannot widen the netlink buffer: very many Services may not fit one transaction");
        }
        Ok(Self { connection, ranges, chains: HashSet::new() })
    }

    /// Replaces the whole table, whatever it held, by these elements.
    pub async fn rewrite(&mut self, delta: &Delta) -> nlink::Result<()> {
        self.chains.clear();
        let batch = Batch::new(&self.connection, TABLE).recreate_table();
        let batch = write_skeleton(batch, self.ranges);
        self.change(batch, delta).await
    }

    /// Changes a few elements of the table.
    pub async fn apply(&mut self, delta: &Delta) -> nlink::Result<()> {
        self.change(Batch::new(&self.connection, TABLE), delta).await
    }

    async fn change(&mut self, mut batch: Batch, delta: &Delta) -> nlink::Result<()> {
        let wanted = delta.add.balanced.iter().map(|(_, balancer)| *balancer);
        let missing: HashSet<_> =
            wanted.filter(|balancer| !self.chains.contains(balancer)).collect();
        for balancer in &missing {
            batch = write_balancer(batch, *balancer);
        }
        for (maps, elements) in encode(&delta.delete) {
            batch = batch.delete_elements(&maps, &elements);
        }
        for (maps, elements) in encode(&delta.add) {
            batch = batch.add_elements(&maps, &elements);
        }
        batch.commit(&self.connection).await?;
        self.chains.extend(missing);
        Ok(())
    }

    /// Forgets which endpoint clients were bound to, where it is no longer one of its frontend's.
    pub async fn forget_clients(&self, delta: &Delta) -> nlink::Result<()> {
        if self.chains.iter().all(|balancer| balancer.affinity.is_none()) {
            return Ok(());
        }
        let map = affinity_map();
        for element in self.connection.list_set_elements(TABLE, map.name(), Family::Ip).await? {
            if !parse_affinity(&element).is_some_and(|bound| bound.is_lost(delta)) {
                continue;
            }
            match self
                .connection
                .del_set_elements(&map, &[SetElement::new(element.key().to_vec())])
                .await
            {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

// === sets and maps ===

/// Frontends with an address that have endpoints, to the chain of their balancer.
fn services(clients: Clients) -> Set {
    let name = match clients {
        Clients::Any => "services",
        Clients::Cluster => "cluster-services",
    };
    nft::set(TABLE, name, nft::endpoint_key()).vmap()
}

fn node_ports(clients: Clients) -> Set {
    let name = match clients {
        Clients::Any => "node-ports",
        Clients::Cluster => "cluster-node-ports",
    };
    nft::set(TABLE, name, nft::port_key()).vmap()
}

/// Frontends without endpoints, to what becomes of the packet.
fn refused_services() -> Set {
    nft::set(TABLE, "refused-services", nft::endpoint_key()).vmap()
}

fn refused_node_ports() -> Set {
    nft::set(TABLE, "refused-node-ports", nft::port_key()).vmap()
}

/// `slot . frontend` to the endpoint in that slot; a node port's address is 0.0.0.0.
fn endpoints() -> Set {
    let key = vec![
        SetKeyType::Mark,
        SetKeyType::Ipv4Addr,
        SetKeyType::InetProto,
        SetKeyType::InetService,
    ];
    nft::set(TABLE, "endpoints", SetKeyType::Concat(key)).map(nft::destination())
}

/// `client . frontend` to the endpoint the client stays with; filled by packets, emptied by time.
fn affinity_map() -> Set {
    let key = vec![
        SetKeyType::Ipv4Addr,
        SetKeyType::Ipv4Addr,
        SetKeyType::InetProto,
        SetKeyType::InetService,
    ];
    nft::set(TABLE, "affinity", SetKeyType::Concat(key))
        .map(nft::destination())
        .dynamic()
        .per_element_timeouts()
        .size(1 << 20)
}

/// Local endpoints paired with themselves.
fn hairpin() -> Set {
    nft::set(TABLE, "hairpin", nft::pair_key())
}

fn encode(elements: &Elements) -> [(Set, Vec<SetElement>); 8] {
    let balanced = |frontend: &Frontend, balancer: &Balancer| {
        key(frontend).verdict(nft::goto(&chain_name(*balancer)))
    };
    let refused =
        |frontend: &Frontend, refusal: &Refusal| key(frontend).verdict(refusal_verdict(*refusal));
    let slot = |(frontend, slot, to): &(Frontend, u32, Destination)| {
        slot_element(frontend, *slot).value(nft::destination_element(to.address, to.port))
    };
    let pair = |address: &Ipv4Addr| nft::pair_element(*address, *address);
    let (cluster, any): (Vec<_>, Vec<_>) =
        elements.balanced.iter().partition(|(frontend, _)| frontend.clients == Clients::Cluster);
    let (at_address, at_node) = split(&any, balanced);
    let (cluster_at_address, cluster_at_node) = split(&cluster, balanced);
    let (refused_at_address, refused_at_node) = split(&elements.refused, refused);
    [
        (services(Clients::Any), at_address),
        (node_ports(Clients::Any), at_node),
        (services(Clients::Cluster), cluster_at_address),
        (node_ports(Clients::Cluster), cluster_at_node),
        (refused_services(), refused_at_address),
        (refused_node_ports(), refused_at_node),
        (endpoints(), elements.slots.iter().map(slot).collect()),
        (hairpin(), elements.hairpin.iter().map(pair).collect()),
    ]
}

/// Elements of frontends with an address, and of node ports.
fn split<T>(
    of: &[(Frontend, T)],
    element: impl Fn(&Frontend, &T) -> SetElement,
) -> (Vec<SetElement>, Vec<SetElement>) {
    let (mut at_address, mut at_node) = (Vec::new(), Vec::new());
    for (frontend, value) in of {
        let side = if frontend.address.is_some() { &mut at_address } else { &mut at_node };
        side.push(element(frontend, value));
    }
    (at_address, at_node)
}

fn key(frontend: &Frontend) -> SetElement {
    match frontend.address {
        Some(address) => nft::endpoint_element(address, frontend.protocol, frontend.port),
        None => nft::port_element(frontend.protocol, frontend.port),
    }
}

fn slot_element(frontend: &Frontend, slot: u32) -> SetElement {
    SetElement::concat([
        SetElement::mark(first_slot(frontend.clients) + slot),
        SetElement::ipv4(frontend.address.unwrap_or(Ipv4Addr::UNSPECIFIED)),
        SetElement::inet_proto(frontend.protocol.number()),
        SetElement::port(frontend.port),
    ])
}

/// Both kinds of frontend share the map of endpoints; their slots are far apart.
fn first_slot(clients: Clients) -> u32 {
    match clients {
        Clients::Any => 0,
        Clients::Cluster => 1 << 31,
    }
}

fn refusal_verdict(refusal: Refusal) -> Verdict {
    match refusal {
        Refusal::Reject => nft::goto("reject"),
        Refusal::Drop => Verdict::Drop,
    }
}

/// An element of the affinity map: the frontend a client called, and the endpoint it is bound to.
struct Bound {
    address: Option<Ipv4Addr>,
    protocol: Protocol,
    port: u16,
    destination: Destination,
}

impl Bound {
    fn is_lost(&self, delta: &Delta) -> bool {
        delta.lost(self.address, self.protocol, self.port, self.destination)
    }
}

fn parse_affinity(element: &SetElement) -> Option<Bound> {
    let Some(SetElementData::Value(value)) = element.data() else {
        return None;
    };
    let frontend = element.key().get(4..)?;
    let address = nft::parse_ipv4(frontend)?;
    Some(Bound {
        address: (!address.is_unspecified()).then_some(address),
        protocol: Protocol::from_number(*frontend.get(4)?)?,
        port: nft::parse_port(frontend.get(8..)?)?,
        destination: Destination {
            address: nft::parse_ipv4(value)?,
            port: nft::parse_port(value.get(4..)?)?,
        },
    })
}

// === chains ===

fn write_skeleton(batch: Batch, ranges: Ranges) -> Batch {
    let sets = [
        services(Clients::Any),
        node_ports(Clients::Any),
        services(Clients::Cluster),
        node_ports(Clients::Cluster),
        refused_services(),
        refused_node_ports(),
        endpoints(),
        affinity_map(),
        hairpin(),
    ];
    let batch = sets.into_iter().fold(batch, Batch::set);
    let batch = write_guard(batch);
    let batch = write_dispatch(batch, ranges);
    let batch = write_refusals(batch, ranges);
    write_masquerade(batch)
}

/// Keeps other machines off the node's loopback, which `route_localnet` would otherwise open to them.
fn write_guard(batch: Batch) -> Batch {
    batch
        .base_chain("guard", BaseChain::filter(FilterHook::Prerouting, Priority::Raw))
        .rule_with("guard", |rule| {
            rule.match_iif_not("lo").match_daddr_v4(LOOPBACK.0, LOOPBACK.1).drop()
        })
}

/// Finds the balancer of a new connection, from pods and neighbours (prerouting) and from the node itself (output).
fn write_dispatch(batch: Batch, ranges: Ranges) -> Batch {
    let from_outside = |rule: Rule| {
        // Only this node can undo the translation, so a client beyond the pod network must see its address.
        rule.match_daddr_v4(ranges.services.network(), ranges.services.prefix_len())
            .match_saddr_v4_not(ranges.pods.network(), ranges.pods.prefix_len())
            .set_mark_masked(MASQUERADE_MARK, MASQUERADE_MARK)
    };
    let from_pods = |rule: Rule| {
        rule.match_saddr_v4(ranges.pods.network(), ranges.pods.prefix_len())
            .jump(nft::chain_name("dispatch-cluster"))
    };
    let from_node = [Expr::Verdict(nft::jump("dispatch-cluster"))];
    let batch = batch
        .chain("dispatch-cluster")
        .rule("dispatch-cluster", by_address("cluster-services"))
        .rule("dispatch-cluster", by_node_port("cluster-node-ports"))
        .chain("dispatch")
        .rule_with("dispatch", from_outside)
        .rule_with("dispatch", from_pods)
        .rule("dispatch", nft::from_local_address().into_iter().chain(from_node))
        .rule("dispatch", by_address("services"))
        .rule("dispatch", by_node_port("node-ports"));
    [("prerouting", NatHook::Prerouting), ("output", NatHook::Output)].into_iter().fold(
        batch,
        |batch, (name, hook)| {
            batch
                .base_chain(name, BaseChain::nat(hook, Priority::DstNat))
                .rule(name, [Expr::Verdict(nft::jump("dispatch"))])
        },
    )
}

/// Answers for frontends without endpoints, and for service addresses where nothing listens.
fn write_refusals(batch: Batch, ranges: Ranges) -> Batch {
    let batch = batch
        .chain("reject")
        .rule_with("reject", |rule| rule.match_l4proto(Protocol::Tcp.number()).reject_tcp_reset())
        .rule_with("reject", |rule| rule.reject_icmp(ICMP_PORT_UNREACHABLE))
        .chain("refuse")
        .rule("refuse", by_address("refused-services"))
        .rule("refuse", by_node_port("refused-node-ports"))
        .rule_with("refuse", |rule| {
            let services = ranges.services;
            rule.match_daddr_v4(services.network(), services.prefix_len())
                .goto(nft::chain_name("reject"))
        });
    let hooks = [
        ("refuse-input", FilterHook::Input),
        ("refuse-forward", FilterHook::Forward),
        ("refuse-output", FilterHook::Output),
    ];
    hooks.into_iter().fold(batch, |batch, (name, hook)| {
        batch.base_chain(name, BaseChain::filter(hook, Priority::Filter)).rule_with(name, |rule| {
            rule.match_ct_state(CtState::NEW).jump(nft::chain_name("refuse"))
        })
    })
}

fn write_masquerade(batch: Batch) -> Batch {
    let to_node = || NatStatement::masquerade().fully_random();
    let itself = [nft::load_source(0), nft::load_destination(1), nft::in_set("hairpin")];
    batch
        .base_chain("postrouting", BaseChain::nat(NatHook::Postrouting, Priority::SrcNat))
        .rule_with("postrouting", |rule| {
            // Cleared first: an encapsulated packet keeps the mark and must not be translated a second time.
            rule.match_mark_masked(MASQUERADE_MARK, MASQUERADE_MARK)
                .set_mark_masked(0, MASQUERADE_MARK)
                .nat(to_node())
        })
        .rule_with("postrouting", |rule| {
            rule.match_oif_not("lo").match_saddr_v4(LOOPBACK.0, LOOPBACK.1).nat(to_node())
        })
        .rule_with("postrouting", |rule| {
            itself.into_iter().fold(rule, |rule, e| rule.expr(e)).nat(to_node())
        })
}

fn by_address(map: &str) -> Vec<Expr> {
    nft::load_endpoint(0).into_iter().chain([nft::verdict_lookup(map)]).collect()
}

fn by_node_port(map: &str) -> Vec<Expr> {
    let port = [nft::load_protocol(0), nft::load_port(1), nft::verdict_lookup(map)];
    nft::to_local_address().into_iter().chain(port).collect()
}

// === balancers ===

fn chain_name(balancer: Balancer) -> String {
    let Balancer { endpoints, masquerade, affinity, clients, node_port } = balancer;
    let mut name = format!("balance-{endpoints}");
    if let Some(seconds) = affinity {
        name += &format!("-sticky-{seconds}");
    }
    name += if masquerade { "-masquerade" } else { "" };
    name += if clients == Clients::Cluster { "-cluster" } else { "" };
    name + if node_port { "-node-port" } else { "" }
}

fn write_balancer(mut batch: Batch, balancer: Balancer) -> Batch {
    let chain = chain_name(balancer);
    batch = batch.chain(&chain);
    if balancer.masquerade {
        batch =
            batch.rule_with(&chain, |rule| rule.set_mark_masked(MASQUERADE_MARK, MASQUERADE_MARK));
    }
    let slot = Expr::Numgen {
        dreg: nft::word(0),
        kind: NumgenKind::Random,
        modulus: balancer.endpoints,
        offset: first_slot(balancer.clients),
    };
    let [address, protocol, port] = load_frontend(balancer, 1);
    let pick = [slot, address, protocol, port, nft::map_lookup("endpoints")];
    let Some(seconds) = balancer.affinity else {
        return batch.rule(&chain, pick.into_iter().chain([nft::dnat_to_words()]));
    };
    let stay = [LookupExpr::new("affinity", nft::word(CLIENT)).dreg(nft::word(0)).into()];
    let remember = || [remember_client(seconds), nft::dnat_to_words()];
    batch
        .rule(&chain, load_client(balancer).into_iter().chain(stay).chain(remember()))
        .rule(&chain, load_client(balancer).into_iter().chain(pick).chain(remember()))
}

/// The word where `client . frontend` starts, beside the words that pick the endpoint.
const CLIENT: usize = 4;

fn load_frontend(balancer: Balancer, at: usize) -> [Expr; 3] {
    let [address, protocol, port] = nft::load_endpoint(at);
    let any =
        Expr::Immediate { dreg: nft::word(at), data: Ipv4Addr::UNSPECIFIED.octets().to_vec() };
    [if balancer.node_port { any } else { address }, protocol, port]
}

fn load_client(balancer: Balancer) -> [Expr; 4] {
    let [address, protocol, port] = load_frontend(balancer, CLIENT + 1);
    [nft::load_source(CLIENT), address, protocol, port]
}

/// Binds the client to the endpoint in words 0 and 1, or binds it anew for as long.
fn remember_client(seconds: u32) -> Expr {
    DynsetExpr::new(DynsetOp::Update, "affinity", nft::word(CLIENT))
        .sreg_data(nft::word(0))
        .timeout(Duration::from_secs(seconds.into()))
        .into()
}
