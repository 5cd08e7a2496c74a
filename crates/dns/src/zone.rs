//! The cluster's names, ready to be answered.
//!
//! Records of Services are put under their owner names when they change; a question is answered by one look-up.
//! Input: a name and a type. Output: an [`Answer`]. Counterpart: plugin/kubernetes of CoreDNS.
//!
//! Invariant: a name exists if it has records or if a name below it does; everything else in the zone is NXDOMAIN.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};

use hickory_proto::rr::rdata::{CNAME, NS, SOA, TXT};
use hickory_proto::rr::{LowerName, Name, RData, Record, RecordType};
use skiff_services::ServiceKey;

use crate::records::{Entry, address_data, child};

/// Seconds a record may be kept: what CoreDNS is set to by the usual ways to install it.
pub const TTL: u32 = 30;

const SPECIFICATION_VERSION: &str = "1.1.0";
/// How many CNAMEs are followed inside the zone before a loop is assumed.
const MAX_ALIASES: usize = 8;

/// What the zone has to say to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Records {
        answers: Vec<Record>,
        /// Addresses of the names in `answers`.
        additionals: Vec<Record>,
    },
    /// `answers` end in an alias for a name of another zone, which is to be resolved there.
    Alias {
        answers: Vec<Record>,
        target: Name,
    },
    /// The name exists, but not with this type.
    NoData,
    NxDomain,
    /// The name is in another zone.
    NotOurs,
}

#[derive(Debug)]
pub struct Zone {
    origin: LowerName,
    nodes: HashMap<LowerName, Node>,
    by_service: HashMap<ServiceKey, Vec<Entry>>,
    serial: u32,
    turn: AtomicUsize,
}

#[derive(Debug, Default)]
struct Node {
    records: Vec<RData>,
    /// How many records names below this one have.
    below: usize,
}

// === impl Zone ===

impl Zone {
    /// The zone `origin`, such as `cluster.local.`, without Services.
    pub fn new(origin: &Name) -> Self {
        let mut zone = Self {
            origin: LowerName::new(origin),
            nodes: HashMap::new(),
            by_service: HashMap::new(),
            serial: 1,
            turn: AtomicUsize::new(0),
        };
        let version = child(&["dns-version"], origin).expect("a label before an origin is a name");
        let text = RData::TXT(TXT::new(vec![SPECIFICATION_VERSION.to_string()]));
        zone.insert(&(LowerName::new(&version), text));
        zone.insert(&(LowerName::new(origin), RData::NS(NS(zone.name_server()))));
        zone
    }

    fn name_server(&self) -> Name {
        child(&["ns", "dns"], &self.origin).expect("two labels before an origin are a name")
    }

    /// Replaces the records of a Service.
    pub fn set(&mut self, service: &ServiceKey, entries: Vec<Entry>) {
        for entry in self.by_service.remove(service).iter().flatten() {
            self.remove(entry);
        }
        for entry in &entries {
            self.insert(entry);
        }
        if !entries.is_empty() {
            self.by_service.insert(service.clone(), entries);
        }
        self.serial = self.serial.wrapping_add(1);
    }

    fn insert(&mut self, (name, data): &Entry) {
        for ancestor in ancestors(name) {
            self.nodes.entry(ancestor).or_default().below += 1;
        }
        self.nodes.entry(name.clone()).or_default().records.push(data.clone());
    }

    fn remove(&mut self, (name, data): &Entry) {
        for ancestor in ancestors(name) {
            self.change(&ancestor, |node| node.below -= 1);
        }
        self.change(name, |node| {
            let position = node.records.iter().position(|other| other == data);
            node.records.swap_remove(position.expect("a Service's records are in the zone"));
        });
    }

    fn change(&mut self, name: &LowerName, change: impl FnOnce(&mut Node)) {
        let node = self.nodes.get_mut(name).expect("every name of a record is in the zone");
        change(node);
        if node.records.is_empty() && node.below == 0 {
            self.nodes.remove(name);
        }
    }

    /// The start-of-authority record, which tells for how long a negative answer may be kept.
    pub fn soa(&self) -> Record {
        let host =
            child(&["hostmaster"], &self.origin).expect("a label before an origin is a name");
        let soa = SOA::new(self.name_server(), host, self.serial, 7200, 1800, 86400, TTL);
        Record::from_rdata(Name::from(&self.origin), TTL, RData::SOA(soa))
    }

    /// Answers a question. Records come back in a different order each time, to spread clients.
    pub fn answer(&self, name: &Name, kind: RecordType) -> Answer {
        let (mut asked, mut aliases) = (name.clone(), Vec::new());
        for _ in 0..MAX_ALIASES {
            let key = LowerName::new(&asked);
            let Some(found) = self.look_up(&key, kind) else {
                return self.nothing(&key, aliases, asked);
            };
            let mut answers: Vec<_> = found.iter().map(|data| record(&asked, data)).collect();
            if let ([RData::CNAME(CNAME(target))], true) =
                (&found[..], !matches!(kind, RecordType::CNAME))
            {
                aliases.append(&mut answers);
                asked = target.clone();
                continue;
            }
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let middle = turn % answers.len().max(1);
            answers.rotate_left(middle);
            aliases.append(&mut answers);
            let additionals = self.additionals(&aliases);
            return Answer::Records { answers: aliases, additionals };
        }
        Answer::Records { answers: aliases, additionals: Vec::new() }
    }

    /// The records of this type, or the alias that stands for all types. None when there are none.
    fn look_up(&self, key: &LowerName, kind: RecordType) -> Option<Vec<RData>> {
        if *key == self.origin && kind == RecordType::SOA {
            return Some(vec![self.soa().data]);
        }
        let wanted = |data: &&RData| {
            let of = data.record_type();
            of == kind || of == RecordType::CNAME || kind == RecordType::ANY
        };
        if let Some(node) = self.nodes.get(key) {
            let found: Vec<_> = node.records.iter().filter(wanted).cloned().collect();
            return (!found.is_empty()).then_some(found);
        }
        let data = address_data(self.pod_address(key)?);
        wanted(&&data).then(|| vec![data])
    }

    /// The address spelled in `1-2-3-4.<namespace>.pod.<zone>`. Such a name exists for every address: upstream answers
    /// them without looking for the pod, too.
    fn pod_address(&self, key: &LowerName) -> Option<IpAddr> {
        let labels = self.labels_below_origin(key)?;
        let [address, _namespace, b"pod"] = labels[..] else {
            return None;
        };
        let address = std::str::from_utf8(address).ok()?;
        let v4 = || address.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        let v6 = || address.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
        v4().or_else(v6)
    }

    fn labels_below_origin<'a>(&self, key: &'a LowerName) -> Option<Vec<&'a [u8]>> {
        let below =
            usize::from(key.num_labels()).checked_sub(usize::from(self.origin.num_labels()))?;
        self.origin.zone_of(key).then(|| key.iter().take(below).collect())
    }

    fn nothing(&self, key: &LowerName, aliases: Vec<Record>, asked: Name) -> Answer {
        let ours = self.origin.zone_of(key);
        match (ours, aliases.is_empty()) {
            // A reverse name of ours, asked for something else than its PTR record.
            (false, true) if self.nodes.get(key).is_some_and(|node| !node.records.is_empty()) => {
                Answer::NoData
            }
            (false, true) => Answer::NotOurs,
            (false, false) => Answer::Alias { answers: aliases, target: asked },
            (true, false) => Answer::Records { answers: aliases, additionals: Vec::new() },
            (true, true) if self.exists(key) => Answer::NoData,
            (true, true) => Answer::NxDomain,
        }
    }

    fn exists(&self, key: &LowerName) -> bool {
        *key == self.origin || self.nodes.contains_key(key) || self.pod_address(key).is_some()
    }

    /// Addresses of the SRV targets among `answers`, which saves the client a round trip.
    fn additionals(&self, answers: &[Record]) -> Vec<Record> {
        let targets = answers.iter().filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(&srv.target),
            _ => None,
        });
        let mut seen = std::collections::HashSet::new();
        let targets = targets.filter(|target| seen.insert((*target).clone()));
        let addresses = targets.flat_map(|target| {
            let node = self.nodes.get(&LowerName::new(target));
            let records = node
                .map_or(&[][..], |node| &node.records)
                .iter()
                .filter(|data| data.ip_addr().is_some());
            records.map(|data| record(target, data)).collect::<Vec<_>>()
        });
        addresses.collect()
    }
}

fn record(name: &Name, data: &RData) -> Record {
    Record::from_rdata(name.clone(), TTL, data.clone())
}

/// Every name above this one but the root. Names above the zone are harmless: questions never reach them as ours.
fn ancestors(name: &LowerName) -> impl Iterator<Item = LowerName> {
    std::iter::successors(Some(name.base_name()), |name| Some(name.base_name()))
        .take_while(|name| !name.is_root())
}
