//! The slice of nftables that Skiff's two tables are written in.
//!
//! Register-level expressions in, one atomic [`Batch`] out. A packet's address, protocol and port are loaded side by
//! side, so that one lookup in a concatenated map both recognises a packet and yields where to send it.
//! Counterpart: the rule templates of pkg/proxy/nftables and of the portmap plugin.
//!
//! Invariant: a batch is applied whole or not at all, and no netlink message in it outgrows 64 KiB.

use std::io;
use std::net::Ipv4Addr;

use nlink::netlink::nftables::{
    BaseChain, Chain, ChainName, CmpOp, Expr, Family, FibFlags, FibResult, LookupExpr, MetaKey,
    PayloadBase, RawExpr, Register, Rule, Set, SetDataType, SetElement, SetKeyType, Transaction,
    Verdict,
};
use nlink::netlink::{Connection, Nftables};

/// Elements of one message: a nested attribute's length is 16 bits, and the largest element here takes under 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 500;

/// What a batch of 50,000 services needs; the default of 208 KiB refuses it with EMSGSIZE.
const SEND_BUFFER: usize = 256 << 20;

/// The address type `fib daddr type` yields for an address of this node.
const RTN_LOCAL: u32 = 2;

/// A transport protocol that a port can belong to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub const ALL: [Self; 3] = [Self::Tcp, Self::Udp, Self::Sctp];

    /// The name the API uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }

    /// The API's name; nothing means TCP.
    pub fn from_api(name: Option<&str>) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name.unwrap_or("TCP"))
    }

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.number() == number)
    }

    /// The IP protocol number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

// === keys and values ===

/// `ip saddr . ip daddr`
pub fn pair_key() -> SetKeyType {
    SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::Ipv4Addr])
}

/// `ip daddr . meta l4proto . th dport`
pub fn endpoint_key() -> SetKeyType {
    SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::InetProto, SetKeyType::InetService])
}

/// `meta l4proto . th dport`
pub fn port_key() -> SetKeyType {
    SetKeyType::Concat(vec![SetKeyType::InetProto, SetKeyType::InetService])
}

/// The data of a map that yields a destination: `ipv4_addr . inet_service`.
pub fn destination() -> SetDataType {
    SetDataType::Value(SetKeyType::Concat(vec![SetKeyType::Ipv4Addr, SetKeyType::InetService]))
}

pub fn pair_element(source: Ipv4Addr, destination: Ipv4Addr) -> SetElement {
    SetElement::concat([SetElement::ipv4(source), SetElement::ipv4(destination)])
}

pub fn endpoint_element(address: Ipv4Addr, protocol: Protocol, port: u16) -> SetElement {
    SetElement::concat([
        SetElement::ipv4(address),
        SetElement::inet_proto(protocol.number()),
        SetElement::port(port),
    ])
}

pub fn port_element(protocol: Protocol, port: u16) -> SetElement {
    SetElement::concat([SetElement::inet_proto(protocol.number()), SetElement::port(port)])
}

pub fn destination_element(address: Ipv4Addr, port: u16) -> SetElement {
    SetElement::concat([SetElement::ipv4(address), SetElement::port(port)])
}

pub fn chain_name(name: &str) -> ChainName {
    ChainName::new(name).expect("our chain names are short and plain")
}

pub fn goto(chain: &str) -> Verdict {
    Verdict::GotoTo(chain_name(chain))
}

pub fn jump(chain: &str) -> Verdict {
    Verdict::JumpTo(chain_name(chain))
}

// === reading elements back ===

pub fn parse_ipv4(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes.get(..4)?).ok()?))
}

pub fn parse_port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

// === expressions ===

/// The register at 32-bit word `index`; concatenated fields sit in consecutive words.
pub fn word(index: usize) -> Register {
    Register::word(index).expect("a key of ours has at most five words")
}

pub fn load_source(at: usize) -> Expr {
    Expr::Payload { dreg: word(at), base: PayloadBase::Network, offset: 12, len: 4 }
}

pub fn load_destination(at: usize) -> Expr {
    Expr::Payload { dreg: word(at), base: PayloadBase::Network, offset: 16, len: 4 }
}

pub fn load_protocol(at: usize) -> Expr {
    Expr::Meta { dreg: word(at), key: MetaKey::L4Proto }
}

/// The destination port: at the same place in TCP, UDP and SCTP.
pub fn load_port(at: usize) -> Expr {
    Expr::Payload { dreg: word(at), base: PayloadBase::Transport, offset: 2, len: 2 }
}

/// Loads `ip daddr . meta l4proto . th dport` from word `at` on.
pub fn load_endpoint(at: usize) -> [Expr; 3] {
    [load_destination(at), load_protocol(at + 1), load_port(at + 2)]
}

/// Continues only if the key at word 0 is in `set`.
pub fn in_set(set: &str) -> Expr {
    LookupExpr::new(set, word(0)).into()
}

/// Replaces the key at word 0 by its value in `map`, or ends the rule.
pub fn map_lookup(map: &str) -> Expr {
    LookupExpr::new(map, word(0)).dreg(word(0)).into()
}

/// Follows the verdict of the key at word 0 in `map`, if it has one.
pub fn verdict_lookup(map: &str) -> Expr {
    LookupExpr::new(map, word(0)).dreg(Register::Verdict).into()
}

/// Continues only if the packet is for an address of this node.
pub fn to_local_address() -> [Expr; 2] {
    if_local(FibFlags::DADDR)
}

/// Continues only if the packet is from an address of this node.
pub fn from_local_address() -> [Expr; 2] {
    if_local(FibFlags::SADDR)
}

fn if_local(flags: FibFlags) -> [Expr; 2] {
    [
        Expr::Fib { dreg: word(0), result: FibResult::AddrType, flags },
        Expr::Cmp { sreg: word(0), op: CmpOp::Eq, data: RTN_LOCAL.to_ne_bytes().to_vec() },
    ]
}

/// `dnat ip to <word 0> : <word 1>`
pub fn dnat_to_words() -> Expr {
    const DNAT: u32 = 1;
    const NFPROTO_IPV4: u32 = 2;
    const RANGE_MAP_IPS_AND_PORT: u32 = 1 | 2;
    let (address, port) = (word(0).wire(), word(1).wire());
    // NFTA_NAT_TYPE, FAMILY, REG_ADDR_MIN, REG_ADDR_MAX, REG_PROTO_MIN, REG_PROTO_MAX, FLAGS in that order.
    let values = [DNAT, NFPROTO_IPV4, address, address, port, port, RANGE_MAP_IPS_AND_PORT];
    let attributes = values.iter().zip(1u16..);
    let encode = |(value, kind): (&u32, u16)| {
        let mut attribute = Vec::with_capacity(8);
        attribute.extend_from_slice(&8u16.to_ne_bytes());
        attribute.extend_from_slice(&kind.to_ne_bytes());
        attribute.extend_from_slice(&value.to_be_bytes());
        attribute
    };
    RawExpr::new("nat", attributes.flat_map(encode).collect()).into()
}

// === Batch ===

/// A table's name and family, and the transaction being built for it.
pub struct Batch {
    table: &'static str,
    transaction: Transaction,
}

impl Batch {
    pub fn new(connection: &Connection<Nftables>, table: &'static str) -> Self {
        Self { table, transaction: connection.transaction() }
    }

    /// Empties the table, whatever it held, or makes it.
    pub fn recreate_table(self) -> Self {
        // Adding first is how to delete what may not exist, on kernels without a destroy message.
        self.with(|t, table| {
            t.update_table(table, Family::Ip, 0)
                .del_table(table, Family::Ip)
                .add_table(table, Family::Ip)
        })
    }

    pub fn set(self, set: Set) -> Self {
        self.with(|t, _| t.add_set(set))
    }

    pub fn chain(self, name: &str) -> Self {
        self.with(|t, table| t.add_chain(chain(table, name)))
    }

    pub fn base_chain(self, name: &str, base: BaseChain) -> Self {
        self.with(|t, table| t.add_chain(chain(table, name).base(base)))
    }

    /// Appends a rule made of raw expressions.
    pub fn rule(self, chain: &str, expressions: impl IntoIterator<Item = Expr>) -> Self {
        let expressions = expressions.into_iter().collect();
        self.with(|t, table| {
            t.add_rule(Rule::new(table, chain).family(Family::Ip).expressions(expressions))
        })
    }

    /// Appends a rule built from matches and statements.
    pub fn rule_with(self, chain: &str, build: impl FnOnce(Rule) -> Rule) -> Self {
        self.with(|t, table| t.add_rule(build(Rule::new(table, chain).family(Family::Ip))))
    }

    pub fn add_elements(self, set: &Set, elements: &[SetElement]) -> Self {
        let chunks = elements.chunks(ELEMENTS_PER_MESSAGE);
        self.with(|t, _| chunks.fold(t, |t, chunk| t.add_set_elements(set, chunk)))
    }

    pub fn delete_elements(self, set: &Set, elements: &[SetElement]) -> Self {
        let chunks = elements.chunks(ELEMENTS_PER_MESSAGE);
        self.with(|t, _| chunks.fold(t, |t, chunk| t.del_set_elements(set, chunk)))
    }

    pub async fn commit(self, connection: &Connection<Nftables>) -> nlink::Result<()> {
        self.transaction.commit(connection).await
    }

    fn with(self, step: impl FnOnce(Transaction, &'static str) -> Transaction) -> Self {
        Self { table: self.table, transaction: step(self.transaction, self.table) }
    }
}

fn chain(table: &str, name: &str) -> Chain {
    Chain::new(table, name)
        .expect("our table and chain names are short and plain")
        .family(Family::Ip)
}

/// A set of ours in `table`.
pub fn set(table: &str, name: &str, key: SetKeyType) -> Set {
    Set::new(table, name).family(Family::Ip).key_type(key)
}

/// Lets the socket carry a transaction that rewrites everything.
pub fn widen_send_buffer(connection: &Connection<Nftables>) -> io::Result<()> {
    use nix::sys::socket::{setsockopt, sockopt};
    Ok(setsockopt(connection.socket(), sockopt::SndBufForce, &SEND_BUFFER)?)
}
