//! Cluster IPs and node ports: handed out when a Service is written, taken back when it changes or goes.
//!
//! Service -> Service with addresses + [`Allocation`]. Counterpart: `pkg/registry/core/service/storage/alloc.go`. What is taken is
//! derived from the live Services at start and kept as sets in memory; the IPAddress object of a cluster IP is written in the
//! Service's own transaction. Invariant: an address or port is in the set if and only if a stored Service, or a
//! write under way, has it.

use std::collections::{BTreeSet, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Mutex;

use serde_json::{Map, Value, json};
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
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Claim {
    Address(Ipv4Addr),
    /// A port is taken per protocol.
    NodePort(u16, String),
}

/// The claims of a write under way. Dropped without [`Allocation::keep`], the new ones are given back.
pub struct Allocation<'a> {
    network: Option<&'a ServiceNetwork>,
    new: BTreeSet<Claim>,
    freed: BTreeSet<Claim>,
    /// Name and namespace of the Service, for the IPAddress objects.
    owner: (String, String),
}

const NONE: &str = "None";
/// The first addresses are left to explicit requests, so that random ones rarely collide with them.
const MAX_STATIC_BAND: u32 = 256;

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

    /// What an update leaves out and keeps, and what its new type no longer has; before validation.
    pub fn prepare_change(&self, kind: &KindDef, service: &mut Value, old: &Value) {
        if is_service(kind) {
            keep_allocated(service, old);
            drop_by_type(service, old);
        }
    }

    /// Fills in what the Service leaves open and claims what it asks for; after validation.
    pub fn assign(
        &self,
        kind: &KindDef,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocation<'_>, Status> {
        if !is_service(kind) {
            return Ok(Allocation::none());
        }
        let before: BTreeSet<Claim> = old.map(claims).unwrap_or_default();
        let owner = (meta(service).namespace().to_owned(), meta(service).name().to_owned());
        let mut allocation =
            Allocation { network: Some(self), new: BTreeSet::new(), freed: BTreeSet::new(), owner };
        let mut errors = ErrorList::default();
        self.families(service, &mut errors);
        check_address_kept(service, old, &mut errors);
        if errors.is_empty() {
            self.addresses(service, &before, &mut allocation, &mut errors);
            self.ports(service, &before, &mut allocation, &mut errors);
        }
        if !errors.is_empty() {
            return Err(Status::invalid(
                &GroupKind::new("", "Service"),
                meta(service).name(),
                errors,
            ));
        }
        let after = claims(service);
        allocation.freed = before.into_iter().filter(|claim| !after.contains(claim)).collect();
        Ok(allocation)
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

    fn families(&self, service: &mut Value, errors: &mut ErrorList) {
        let at = Path::new("spec");
        let Some(spec) = service["spec"].as_object_mut() else { return };
        if spec["type"] == "ExternalName" {
            return;
        }
        let families: Vec<String> = texts(spec.get("ipFamilies"));
        let policy = spec.get("ipFamilyPolicy").and_then(Value::as_str).unwrap_or("").to_owned();
        let headless = spec.get("clusterIP").is_some_and(|ip| ip == NONE);
        let selectorless =
            spec.get("selector").and_then(Value::as_object).is_none_or(Map::is_empty);
        if headless && selectorless && policy.is_empty() && families.is_empty() {
            spec.insert("ipFamilyPolicy".to_owned(), "RequireDualStack".into());
            spec.insert("ipFamilies".to_owned(), json!(["IPv4", "IPv6"]));
            return;
        }
        let policy = if policy.is_empty() { "SingleStack" } else { &policy };
        if families.len() > 1 && policy == "SingleStack" {
            let why = "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified";
            return errors.invalid(&at.child("ipFamilyPolicy"), policy, why);
        }
        if !(headless && selectorless) {
            if policy == "RequireDualStack" {
                return errors.invalid(
                    &at.child("ipFamilyPolicy"),
                    policy,
                    "this cluster is not configured for dual-stack services",
                );
            }
            if let Some(i) = families.iter().position(|family| family != "IPv4") {
                return errors.invalid(
                    &at.child("ipFamilies").index(i),
                    families[i].as_str(),
                    "not configured on this cluster",
                );
            }
        }
        spec.insert("ipFamilyPolicy".to_owned(), policy.into());
        if families.is_empty() {
            spec.insert("ipFamilies".to_owned(), json!(["IPv4"]));
        }
    }

    fn addresses(
        &self,
        service: &mut Value,
        before: &BTreeSet<Claim>,
        allocation: &mut Allocation<'_>,
        errors: &mut ErrorList,
    ) {
        let Some(spec) = service["spec"].as_object_mut() else { return };
        if spec["type"] == "ExternalName" {
            return;
        }
        let asked = spec.get("clusterIP").and_then(Value::as_str).unwrap_or("").to_owned();
        let asked = if asked.is_empty() {
            texts(spec.get("clusterIPs")).into_iter().next().unwrap_or_default()
        } else {
            asked
        };
        let address = match asked.as_str() {
            NONE => NONE.to_owned(),
            "" => match self.draw_address(allocation) {
                Some(address) => address.to_string(),
                None => {
                    return errors.invalid(
                        &Path::new("spec").child("clusterIPs"),
                        json!([]),
                        "failed to allocate a serviceIP: range is full",
                    );
                }
            },
            text => {
                if let Err(why) = self.claim_address(text, before, allocation) {
                    let why = format!("failed to allocate IP {text}: {why}");
                    return errors.invalid(
                        &Path::new("spec").child("clusterIPs"),
                        json!([text]),
                        why,
                    );
                }
                text.to_owned()
            }
        };
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.insert("clusterIP".to_owned(), address.into());
    }

    fn claim_address(
        &self,
        text: &str,
        before: &BTreeSet<Claim>,
        allocation: &mut Allocation<'_>,
    ) -> Result<(), &'static str> {
        const OUTSIDE: &str = "the provided network does not match the current range";
        let address: Ipv4Addr = text.parse().map_err(|_| OUTSIDE)?;
        let at = self.cidr.position(address).ok_or(OUTSIDE)?;
        if at == 0 || at == self.cidr.size() - 1 {
            return Err(OUTSIDE);
        }
        match self.claim(Claim::Address(address), before, allocation) {
            true => Ok(()),
            false => Err("provided IP is already allocated"),
        }
    }

    /// A free address at random, from the upper band first.
    fn draw_address(&self, allocation: &mut Allocation<'_>) -> Option<Ipv4Addr> {
        let last = self.cidr.size() - 1;
        let band = (last / 16).clamp(1, MAX_STATIC_BAND).min(last - 1);
        let upper = last - band;
        let start = random() % upper.max(1);
        let candidates = (0..upper).map(|i| band + (start + i) % upper).chain(1..band);
        let nobody = BTreeSet::new();
        candidates
            .map(|at| self.cidr.nth(at.max(1)))
            .find(|address| self.claim(Claim::Address(*address), &nobody, allocation))
    }

    fn ports(
        &self,
        service: &mut Value,
        before: &BTreeSet<Claim>,
        allocation: &mut Allocation<'_>,
        errors: &mut ErrorList,
    ) {
        let spec_path = Path::new("spec");
        let ports_path = spec_path.child("ports");
        let wants = wants_node_ports(service);
        let wants_check = wants_health_check(service);
        let mut chosen: Vec<u16> = Vec::new();
        for (i, port) in ports_mut(service).enumerate() {
            let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
            let asked = port["nodePort"].as_u64().unwrap_or(0);
            if asked != 0 {
                if let Err(why) = self.claim_port(asked, &protocol, before, allocation) {
                    errors.invalid(&ports_path.index(i).child("nodePort"), asked, why);
                }
                chosen.push(asked as u16);
            } else if wants {
                // One number serves the same port of several protocols.
                match self.draw_port(&protocol, allocation) {
                    Some(number) => port["nodePort"] = number.into(),
                    None => errors.invalid(
                        &ports_path.index(i).child("nodePort"),
                        0,
                        "failed to allocate a nodePort: range is full",
                    ),
                }
            }
        }
        if wants_check {
            let asked = service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0);
            let path = spec_path.child("healthCheckNodePort");
            match asked {
                0 => match self.draw_port("TCP", allocation) {
                    Some(number) => service["spec"]["healthCheckNodePort"] = number.into(),
                    None => {
                        errors.invalid(&path, 0, "failed to allocate a nodePort: range is full")
                    }
                },
                asked => {
                    if let Err(why) = self.claim_port(asked, "TCP", before, allocation) {
                        errors.invalid(&path, asked, why);
                    }
                }
            }
        }
    }

    fn claim_port(
        &self,
        asked: u64,
        protocol: &str,
        before: &BTreeSet<Claim>,
        allocation: &mut Allocation<'_>,
    ) -> Result<(), String> {
        let port = u16::try_from(asked).ok().filter(|port| self.node_ports.contains(port)).ok_or_else(|| {
            let (from, to) = (self.node_ports.start(), self.node_ports.end());
            format!("provided port is not in the valid range. The range of valid ports is {from}-{to}")
        })?;
        let claim = Claim::NodePort(port, protocol.to_owned());
        let twice = allocation.new.contains(&claim);
        match !twice && self.claim(claim, before, allocation) {
            true => Ok(()),
            false => Err("provided port is already allocated".to_owned()),
        }
    }

    fn draw_port(&self, protocol: &str, allocation: &mut Allocation<'_>) -> Option<u16> {
        let (from, to) = (u32::from(*self.node_ports.start()), u32::from(*self.node_ports.end()));
        let size = to - from + 1;
        let start = random() % size;
        let nobody = BTreeSet::new();
        (0..size).filter_map(|i| u16::try_from(from + (start + i) % size).ok()).find(|port| {
            self.claim(Claim::NodePort(*port, protocol.to_owned()), &nobody, allocation)
        })
    }

    /// Takes a claim unless another Service has it. What this Service had before stays its own.
    fn claim(
        &self,
        claim: Claim,
        before: &BTreeSet<Claim>,
        allocation: &mut Allocation<'_>,
    ) -> bool {
        if before.contains(&claim) {
            return true;
        }
        let free = self.taken.lock().expect("no panic while held").insert(claim.clone());
        if free {
            allocation.new.insert(claim);
        }
        free
    }
}

// === impl Allocation ===

impl<'a> Allocation<'a> {
    fn none() -> Allocation<'a> {
        Allocation {
            network: None,
            new: BTreeSet::new(),
            freed: BTreeSet::new(),
            owner: Default::default(),
        }
    }

    /// What belongs into the Service's own transaction.
    pub fn ops(&self, kinds: &Kinds) -> Vec<Op> {
        let mut ops: Vec<Op> = self.freed.iter().filter_map(delete_address).collect();
        ops.extend(self.new.iter().filter_map(|claim| self.put_address(kinds, claim)));
        ops
    }

    /// The write is done: what it freed is free.
    pub fn keep(mut self) {
        if let Some(network) = self.network.take() {
            network
                .taken
                .lock()
                .expect("no panic while held")
                .retain(|claim| !self.freed.contains(claim));
        }
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
        if let Some(network) = self.network {
            network
                .taken
                .lock()
                .expect("no panic while held")
                .retain(|claim| !self.new.contains(claim));
        }
    }
}

fn delete_address(claim: &Claim) -> Option<Op> {
    let Claim::Address(address) = claim else { return None };
    Some(Op::Delete { key: format!("/registry/ipaddresses/{address}").into(), expect: Expect::Any })
}

/// An address, once given, stays for as long as the Service has addresses.
fn check_address_kept(service: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    let Some(old) = old else { return };
    let has = |of: &Value| {
        of["spec"]["type"] != "ExternalName" && !texts(of["spec"].get("clusterIPs")).is_empty()
    };
    let list = |of: &Value| texts(of["spec"].get("clusterIPs"));
    if has(service) && has(old) && list(service) != list(old) {
        let spec = Path::new("spec");
        errors.invalid(
            &spec.child("clusterIPs").index(0),
            json!(list(service)),
            "may not change once set",
        );
    }
}

fn is_service(kind: &KindDef) -> bool {
    kind.group.is_empty() && kind.resource == "services"
}

fn claims(service: &Value) -> BTreeSet<Claim> {
    let spec = &service["spec"];
    let addresses = texts(spec.get("clusterIPs"))
        .into_iter()
        .filter_map(|text| text.parse().ok())
        .map(Claim::Address);
    let port = |number: &Value, protocol: &str| {
        Some(Claim::NodePort(
            u16::try_from(number.as_u64()?).ok().filter(|port| *port > 0)?,
            protocol.to_owned(),
        ))
    };
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports = ports
        .filter_map(|entry| port(&entry["nodePort"], entry["protocol"].as_str().unwrap_or("TCP")));
    addresses.chain(ports).chain(port(&spec["healthCheckNodePort"], "TCP")).collect()
}

fn wants_node_ports(service: &Value) -> bool {
    match service["spec"]["type"].as_str() {
        Some("NodePort") => true,
        Some("LoadBalancer") => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        _ => false,
    }
}

fn wants_health_check(service: &Value) -> bool {
    service["spec"]["type"] == "LoadBalancer" && service["spec"]["externalTrafficPolicy"] == "Local"
}

/// What was allocated stays when an update says nothing about it.
fn keep_allocated(service: &mut Value, old: &Value) {
    let has_address = |of: &Value| of["spec"]["type"] != "ExternalName";
    if has_address(service) && has_address(old) {
        normalize_addresses(service, old);
        let first = service["spec"]["clusterIP"].as_str().unwrap_or("").to_owned();
        if first.is_empty() {
            copy(service, old, &["clusterIP"]);
        }
        let list = texts(service["spec"].get("clusterIPs"));
        if list.is_empty() && service["spec"]["clusterIP"] == old["spec"]["clusterIP"] {
            copy(service, old, &["clusterIPs"]);
        }
    }
    if wants_node_ports(service) && wants_node_ports(old) {
        keep_node_ports(service, old);
    }
    if wants_health_check(service)
        && wants_health_check(old)
        && service["spec"]["healthCheckNodePort"].as_u64().unwrap_or(0) == 0
    {
        copy(service, old, &["healthCheckNodePort"]);
    }
}

/// A client that knows one of the two fields only means both: the list follows the single address.
fn normalize_addresses(service: &mut Value, old: &Value) {
    let of = |object: &Value| object["spec"]["clusterIP"].as_str().unwrap_or("").to_owned();
    let (first, was) = (of(service), of(old));
    let same_list = service["spec"].get("clusterIPs") == old["spec"].get("clusterIPs");
    if first != was && same_list {
        match first.is_empty() {
            true => drop_field(service, "clusterIPs"),
            false => service["spec"]["clusterIPs"] = json!([first]),
        }
    }
}

/// A port is the same port if protocol and number are.
fn keep_node_ports(service: &mut Value, old: &Value) {
    let asked: Vec<u64> = service["spec"]["ports"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|port| port["nodePort"].as_u64())
        .collect();
    for port in ports_mut(service) {
        if port["nodePort"].as_u64().unwrap_or(0) != 0 {
            continue;
        }
        let same = old["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|was| was["protocol"] == port["protocol"] && was["port"] == port["port"]);
        if let Some(number) =
            same.and_then(|was| was["nodePort"].as_u64()).filter(|number| !asked.contains(number))
        {
            port["nodePort"] = number.into();
        }
    }
}

/// What a Service had because of its old type, and was not asked for again, goes with the type.
fn drop_by_type(service: &mut Value, old: &Value) {
    let external =
        service["spec"]["type"] == "ExternalName" && old["spec"]["type"] != "ExternalName";
    let unchanged =
        |service: &Value, field: &str| service["spec"].get(field) == old["spec"].get(field);
    if external {
        for field in
            ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"]
        {
            if unchanged(service, field) || field.starts_with("clusterIP") {
                drop_field(service, field);
            }
        }
    }
    if wants_node_ports(old) && !wants_node_ports(service) {
        let was: Vec<Value> = old["spec"]["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|port| port["nodePort"].clone())
            .collect();
        for port in ports_mut(service) {
            if was.contains(&port["nodePort"])
                && let Some(port) = port.as_object_mut()
            {
                port.remove("nodePort");
            }
        }
    }
    if wants_health_check(old)
        && !wants_health_check(service)
        && unchanged(service, "healthCheckNodePort")
    {
        drop_field(service, "healthCheckNodePort");
    }
    let balanced = |of: &Value| of["spec"]["type"] == "LoadBalancer";
    if balanced(old) && !balanced(service) {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if unchanged(service, field) {
                drop_field(service, field);
            }
        }
    }
    let reachable =
        |of: &Value| matches!(of["spec"]["type"].as_str(), Some("NodePort" | "LoadBalancer"));
    if reachable(old) && !reachable(service) && unchanged(service, "externalTrafficPolicy") {
        drop_field(service, "externalTrafficPolicy");
    }
}

fn copy(service: &mut Value, old: &Value, fields: &[&str]) {
    for field in fields {
        if let Some(value) = old["spec"].get(*field) {
            service["spec"][*field] = value.clone();
        }
    }
}

/// Without making the list where there is none.
fn ports_mut(service: &mut Value) -> impl Iterator<Item = &mut Value> {
    service.pointer_mut("/spec/ports").and_then(Value::as_array_mut).into_iter().flatten()
}

fn drop_field(service: &mut Value, field: &str) {
    if let Some(spec) = service["spec"].as_object_mut() {
        spec.remove(field);
    }
}

fn texts(list: Option<&Value>) -> Vec<String> {
    list.and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

fn random() -> u32 {
    uuid::Uuid::new_v4().as_fields().0
}
