//! Cluster IPs and node ports: handed out when a Service is written, taken back when it changes or goes.
//!
//! Service -> Service with addresses + [`Allocation`], before anything else is decided about it: its strategy and its
//! validation see what was handed out. Counterpart: `pkg/registry/core/service/storage`. What is taken is derived from the
//! live Services at start and kept as a set in memory; the IPAddress object of a cluster IP is written in the Service's own
//! transaction. Invariant: an address or port is in the set if and only if a stored Service, or a write under way, has it.

mod addresses;
mod carried;
mod families;
mod node_ports;

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use serde_json::{Value, json};
use skiff_api::field::{ErrorList, Path};
use skiff_api::meta::meta;
use skiff_api::{GroupKind, KindDef, Kinds, Status};
use skiff_store::{Expect, Op, RangeRequest, Store};

use crate::config::Cidr;
use crate::objects;
use crate::ownership;

pub struct ServiceNetwork {
    cidr: Cidr,
    node_ports: RangeInclusive<u16>,
    taken: Mutex<HashSet<Claim>>,
}

/// One thing only one Service can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Claim {
    Address(Ipv4Addr),
    /// A number serves one Service, whatever the protocol.
    NodePort(u16),
}

/// The claims of a write under way. Dropped without [`Allocation::keep`], the new ones are given back.
pub struct Allocation<'a> {
    network: Option<&'a ServiceNetwork>,
    /// What the Service had before stays its own.
    before: BTreeSet<Claim>,
    new: BTreeSet<Claim>,
    /// A dry run asks for nothing, so that it is refused nothing.
    dry_run: bool,
    /// Name and namespace of the Service, for the IPAddress objects.
    owner: (String, String),
}

const NONE: &str = "None";

// === impl ServiceNetwork ===

impl ServiceNetwork {
    pub fn new(cidr: Cidr, node_ports: RangeInclusive<u16>) -> ServiceNetwork {
        ServiceNetwork { cidr, node_ports, taken: Mutex::default() }
    }

    /// The address of the `kubernetes` Service.
    pub fn first_address(&self) -> Ipv4Addr {
        self.cidr.nth(1)
    }

    pub fn cidr(&self) -> Cidr {
        self.cidr
    }

    /// Learns what the stored Services have.
    pub async fn load(&self, store: &Store) -> Result<(), Status> {
        let services = store
            .range(RangeRequest::prefix("/registry/services/specs/"))
            .await
            .map_err(objects::store_status)?;
        let mut taken = self.taken.lock().expect("no panic while held");
        for entry in services.entries {
            taken.extend(claims(&skiff_api::codec::decode_stored(&entry.value)?));
        }
        Ok(())
    }

    /// Fills in what the Service leaves open and claims what it asks for.
    pub fn assign(
        &self,
        kind: &KindDef,
        service: &mut Value,
        old: Option<&Value>,
        dry_run: bool,
    ) -> Result<Allocation<'_>, Status> {
        if !is_service(kind) {
            return Ok(Allocation::none());
        }
        let mut allocation = Allocation {
            network: Some(self),
            before: old.map(claims).unwrap_or_default(),
            new: BTreeSet::new(),
            dry_run,
            owner: (meta(service).namespace().to_owned(), meta(service).name().to_owned()),
        };
        match old {
            Some(old) => carried::keep_allocated(service, old),
            None => carried::complete_addresses(service),
        }
        families::settle(service, old)?;
        addresses::assign(self, service, old, &mut allocation)?;
        node_ports::assign(self, service, old, &mut allocation)?;
        Ok(allocation)
    }

    /// What a changed Service no longer has because of its type, and was not asked for again.
    pub fn drop_by_type(&self, kind: &KindDef, service: &mut Value, old: &Value) {
        if is_service(kind) {
            carried::drop_by_type(service, old);
        }
    }

    /// A Service is gone.
    pub fn release(&self, kind: &KindDef, service: &Value) {
        if is_service(kind) {
            let gone = claims(service);
            self.taken.lock().expect("no panic while held").retain(|claim| !gone.contains(claim));
        }
    }

    /// The operations that remove the IPAddress objects of a Service that goes.
    pub fn removal_ops(&self, kind: &KindDef, service: &Value) -> Vec<Op> {
        match is_service(kind) {
            true => claims(service).iter().filter_map(delete_address).collect(),
            false => Vec::new(),
        }
    }

    /// Takes a claim unless another Service has it.
    fn claim(&self, claim: Claim, allocation: &mut Allocation<'_>) -> bool {
        // Nobody looks for a free address on a dry run; ports are looked up, and not taken.
        let unchecked = allocation.dry_run && matches!(claim, Claim::Address(_));
        if unchecked || allocation.before.contains(&claim) {
            return true;
        }
        let mut taken = self.taken.lock().expect("no panic while held");
        let free = match allocation.dry_run {
            true => !taken.contains(&claim) && !allocation.new.contains(&claim),
            false => taken.insert(claim),
        };
        if free {
            allocation.new.insert(claim);
        }
        free
    }
}

// === impl Allocation ===

impl<'a> Allocation<'a> {
    /// For what has no addresses.
    pub fn none() -> Allocation<'a> {
        Allocation {
            network: None,
            before: BTreeSet::new(),
            new: BTreeSet::new(),
            dry_run: false,
            owner: Default::default(),
        }
    }

    /// What belongs into the transaction of the Service as it is going to be stored.
    pub fn ops(&self, kinds: &Kinds, service: &Value) -> Vec<Op> {
        let mut ops: Vec<Op> = self.freed(service).iter().filter_map(delete_address).collect();
        ops.extend(self.new.iter().filter_map(|claim| self.put_address(kinds, claim)));
        ops
    }

    /// The write is done: what it freed is free.
    pub fn keep(mut self, service: &Value) {
        let freed = self.freed(service);
        if let Some(network) = self.network.take() {
            let mut taken = network.taken.lock().expect("no panic while held");
            taken.retain(|claim| !freed.contains(claim));
        }
    }

    /// What the Service had and has no longer.
    fn freed(&self, service: &Value) -> BTreeSet<Claim> {
        if self.before.is_empty() {
            return BTreeSet::new();
        }
        let after = claims(service);
        self.before.iter().filter(|claim| !after.contains(claim)).copied().collect()
    }

    fn put_address(&self, kinds: &Kinds, claim: &Claim) -> Option<Op> {
        let Claim::Address(address) = claim else { return None };
        let kind = kinds.get("networking.k8s.io", "v1", "ipaddresses")?;
        let (namespace, name) = &self.owner;
        let mut object = json!({
            "metadata": {
                "name": address.to_string(),
                "uid": uuid::Uuid::new_v4().to_string(),
                "creationTimestamp": skiff_api::time::format(skiff_api::time::now()),
                "labels": { "ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io" },
            },
            "spec": { "parentRef": { "resource": "services", "namespace": namespace, "name": name } },
        });
        ownership::track_own(kind, None, &mut object, "");
        let value = objects::encode(kind, &mut object);
        Some(Op::Put { key: kind.key("", &address.to_string()).into(), value, expect: Expect::Any })
    }
}

impl Drop for Allocation<'_> {
    fn drop(&mut self) {
        if let Some(network) = self.network.filter(|_| !self.dry_run) {
            let mut taken = network.taken.lock().expect("no panic while held");
            taken.retain(|claim| !self.new.contains(claim));
        }
    }
}

fn delete_address(claim: &Claim) -> Option<Op> {
    let Claim::Address(address) = claim else { return None };
    Some(Op::Delete { key: format!("/registry/ipaddresses/{address}").into(), expect: Expect::Any })
}

// === reading Services ===

fn is_service(kind: &KindDef) -> bool {
    kind.group.is_empty() && kind.resource == "services"
}

fn claims(service: &Value) -> BTreeSet<Claim> {
    let spec = &service["spec"];
    let port = |number: &Value| {
        let number = u16::try_from(number.as_u64()?).ok().filter(|port| *port > 0)?;
        Some(Claim::NodePort(number))
    };
    let addresses = texts(spec, "clusterIPs").into_iter().filter_map(|text| text.parse().ok());
    let ports = spec["ports"].as_array().into_iter().flatten();
    addresses
        .map(Claim::Address)
        .chain(ports.filter_map(|entry| port(&entry["nodePort"])))
        .chain(port(&spec["healthCheckNodePort"]))
        .collect()
}

fn is_external_name(service: &Value) -> bool {
    service["spec"]["type"] == "ExternalName"
}

fn has_node_ports(service: &Value) -> bool {
    matches!(service["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"))
}

/// Whether ports that ask for none get one too.
fn draws_node_ports(service: &Value) -> bool {
    match service["spec"]["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn has_health_check(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// Without making the list where there is none.
fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten()
}

fn node_port(port: &Value) -> i64 {
    port["nodePort"].as_i64().unwrap_or(0)
}

fn texts(spec: &Value, field: &str) -> Vec<String> {
    let list = spec.get(field).and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn invalid(service: &Value, errors: ErrorList) -> Status {
    Status::invalid(&GroupKind::new("", "Service"), meta(service).name(), errors)
}

/// The one fault of a field of the spec.
fn fault(service: &Value, place: &Path<'_>, value: impl Into<Value>, why: String) -> Status {
    let mut errors = ErrorList::default();
    errors.invalid(place, value, why);
    invalid(service, errors)
}

fn random() -> u32 {
    uuid::Uuid::new_v4().as_fields().0
}
