//! Connection-tracking entries that a change of endpoints has left behind.
//!
//! A UDP flow has no end that the kernel could see: it would be sent to a dead endpoint, or past a Service that has
//! got its first one, for as long as the client keeps talking. Counterpart: pkg/proxy/conntrack/cleanup.go.

use std::net::{IpAddr, Ipv4Addr};

use nlink::netlink::netfilter::{ConntrackEntry, ConntrackFilter, ConntrackTuple, IpProtocol};
use nlink::netlink::{Connection, Netfilter};

use super::plan::Destination;
use super::ruleset::Delta;
use crate::nft::Protocol;

/// Deletes the entries of disturbed UDP frontends that lead anywhere but to an endpoint they have now.
pub async fn flush(connection: &Connection<Netfilter>, delta: &Delta) -> nlink::Result<usize> {
    if delta.disturbed.keys().all(|frontend| frontend.protocol != Protocol::Udp) {
        return Ok(0);
    }
    let entries =
        connection.get_conntrack_matching(&ConntrackFilter::new().proto(IpProtocol::Udp)).await?;
    let mut flushed = 0;
    for entry in entries.iter().filter(|entry| is_stale(entry, delta)) {
        match connection.del_conntrack_entry(entry).await {
            Ok(()) => flushed += 1,
            // It ended by itself in the meantime.
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(flushed)
}

fn is_stale(entry: &ConntrackEntry, delta: &Delta) -> bool {
    let (Some((address, port)), Some(answering)) =
        (v4(&entry.orig, Side::To), v4(&entry.reply, Side::From))
    else {
        return false;
    };
    let endpoint = Destination { address: answering.0, port: answering.1 };
    // Untranslated flows to this port of another machine are none of a node port's business.
    let translated = answering != (address, port);
    delta.lost(Some(address), Protocol::Udp, port, endpoint)
        || translated && delta.lost(None, Protocol::Udp, port, endpoint)
}

enum Side {
    From,
    To,
}

fn v4(tuple: &ConntrackTuple, side: Side) -> Option<(Ipv4Addr, u16)> {
    let (address, port) = match side {
        Side::From => (tuple.src_ip, tuple.src_port),
        Side::To => (tuple.dst_ip, tuple.dst_port),
    };
    match address? {
        IpAddr::V4(address) => Some((address, port?)),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::proxy::plan::{Clients, Frontend};

    const NODE_PORT: Frontend =
        Frontend { clients: Clients::Any, address: None, protocol: Protocol::Udp, port: 53 };
    const DNS: Frontend = Frontend { address: Some(Ipv4Addr::new(10, 96, 0, 10)), ..NODE_PORT };

    fn check(frontend: Frontend, to: [u8; 4], answering: ([u8; 4], u16), stale: bool) {
        let endpoint = Destination { address: Ipv4Addr::new(10, 42, 0, 2), port: 5353 };
        let disturbed = BTreeMap::from([(frontend, BTreeSet::from([endpoint]))]);
        let delta = Delta { disturbed, ..Delta::default() };
        let client = Ipv4Addr::new(10, 42, 0, 9);
        let mut entry = ConntrackEntry::default();
        entry.orig = ConntrackTuple::v4(client, to.into()).ports(4000, 53);
        entry.reply = ConntrackTuple::v4(answering.0.into(), client).ports(answering.1, 4000);
        assert_eq!(is_stale(&entry, &delta), stale, "{to:?} answered by {answering:?}");
    }

    #[test]
    fn flows_to_anything_but_an_endpoint_are_stale() {
        check(DNS, [10, 96, 0, 10], ([10, 42, 0, 2], 5353), false);
        check(DNS, [10, 96, 0, 10], ([10, 42, 0, 3], 5353), true);
        check(DNS, [10, 96, 0, 10], ([10, 42, 0, 2], 9953), true);
        check(DNS, [10, 96, 0, 10], ([10, 96, 0, 10], 53), true);
        check(DNS, [10, 96, 0, 11], ([10, 42, 0, 3], 5353), false);
    }

    #[test]
    fn node_ports_leave_flows_to_other_machines_alone() {
        check(NODE_PORT, [192, 168, 0, 1], ([10, 42, 0, 3], 5353), true);
        check(NODE_PORT, [192, 168, 0, 1], ([10, 42, 0, 2], 5353), false);
        check(NODE_PORT, [8, 8, 8, 8], ([8, 8, 8, 8], 53), false);
    }
}
