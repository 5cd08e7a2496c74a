//! Whether a pod may run on this node, beside the pods that already do.
//!
//! Counterpart: `generalFilter` of `pkg/kubelet/lifecycle/predicate.go`; reasons and texts are upstream's.
//! Invariant: pure; of several reasons the first is told, resources before labels before ports.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::api::core::v1::{Node, Pod, PodSpec};
use skiff_api::scheduling::{RequiredNodes, resources::Resources};

use super::preemption::Need;

/// Sysctls that only touch the pod's own namespaces; any other has to be allowed by the node.
/// Counterpart: `pkg/kubelet/sysctl/safe_sysctls.go`.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
];

/// A pod that may not run here: its status will say so and it is never started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

/// Protocol, address and number of a port on the host; the address `0.0.0.0` means all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    protocol: String,
    ip: String,
    port: i32,
}

/// What a node has and how much of it is taken.
pub struct NodeRoom {
    allocatable: Resources,
    used: Resources,
    ports: Vec<HostPort>,
}

/// One resource of which too little is left.
#[derive(Debug)]
pub struct Insufficient {
    resource: String,
    requested: i64,
    used: i64,
    capacity: i64,
}

// === impl NodeRoom ===

impl NodeRoom {
    pub fn empty(allocatable: &Resources) -> Self {
        let (used, ports) = (Resources::default(), Vec::new());
        NodeRoom { allocatable: allocatable.clone(), used, ports }
    }

    pub fn take(&mut self, requests: &Resources, ports: &[HostPort]) {
        self.used.add(requests);
        self.ports.extend_from_slice(ports);
    }
}

pub fn admit(
    pod: &Pod,
    requests: &Resources,
    ports: &[HostPort],
    room: &NodeRoom,
    node: Option<&Node>,
) -> Result<(), Rejection> {
    let spec = pod.spec.as_ref().expect("a pod bound to a node has a spec");
    operating_system(spec)?;
    if let Some(lack) = insufficient(requests, room).next() {
        return reject(format!("OutOf{}", lack.resource), lack.to_string());
    }
    if let Some(node) = node.filter(|_| needs_node(spec)) {
        node_affinity(spec, node)?;
    }
    if ports.iter().any(|port| room.ports.iter().any(|taken| taken.conflicts(port))) {
        return predicate(
            "NodePorts",
            "node(s) didn't have free ports for the requested pod ports",
        );
    }
    Ok(())
}

pub fn needs_node(spec: &PodSpec) -> bool {
    spec.node_selector.as_ref().is_some_and(|selector| !selector.is_empty())
        || spec.affinity.as_ref().is_some_and(|affinity| affinity.node_affinity.is_some())
}

fn operating_system(spec: &PodSpec) -> Result<(), Rejection> {
    match &spec.os {
        Some(os) if os.name != "linux" => {
            reject("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS")
        }
        _ => Ok(()),
    }
}

/// `allowed` beside the safe ones: names, or beginnings of names with a `*`.
pub fn sysctls(spec: &PodSpec, allowed: &[String]) -> Result<(), Rejection> {
    let is_allowed = |name: &str| {
        allowed.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == allowed,
        })
    };
    let asked = spec.security_context.iter().flat_map(|s| s.sysctls.iter().flatten());
    for sysctl in asked {
        let name = sysctl.name.replace('/', ".");
        if !SAFE_SYSCTLS.contains(&name.as_str()) && !is_allowed(&name) {
            return reject(
                "SysctlForbidden",
                format!("forbidden sysctl: {name:?} not allowlisted"),
            );
        }
        let shared = match name.starts_with("net.") {
            true => spec.host_network.filter(|shared| *shared).map(|_| "Net"),
            false => spec.host_ipc.filter(|shared| *shared).map(|_| "IPC"),
        };
        if let Some(shared) = shared {
            let message =
                format!("forbidden sysctl: {name:?} not allowed with host {shared} enabled");
            return reject("SysctlForbidden", message);
        }
    }
    Ok(())
}

fn node_affinity(spec: &PodSpec, node: &Node) -> Result<(), Rejection> {
    let labels: BTreeMap<String, String> = node.metadata.labels.clone().unwrap_or_default();
    let name = node.metadata.name.as_deref().unwrap_or_default();
    if RequiredNodes::of(spec).matches(name, &labels) {
        return Ok(());
    }
    predicate("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
}

/// Every resource that does not suffice. A resource the node knows nothing of is not its to refuse: it may be one of
/// the cluster's.
pub fn insufficient(requests: &Resources, room: &NodeRoom) -> impl Iterator<Item = Insufficient> {
    let (has, used) = (&room.allocatable, &room.used);
    let named = [
        ("pods", requests.pods, used.pods, has.pods),
        ("cpu", requests.milli_cpu, used.milli_cpu, has.milli_cpu),
        ("memory", requests.memory, used.memory, has.memory),
        (
            "ephemeral-storage",
            requests.ephemeral_storage,
            used.ephemeral_storage,
            has.ephemeral_storage,
        ),
    ];
    let scalars = has
        .scalars
        .iter()
        .map(|(name, capacity)| (&**name, requests.scalar(name), used.scalar(name), *capacity));
    let lacking: Vec<Insufficient> = named
        .into_iter()
        .chain(scalars)
        .filter(|(_, requested, used, capacity)| *requested > 0 && used + requested > *capacity)
        .map(|(resource, requested, used, capacity)| Insufficient {
            resource: resource.to_owned(),
            requested,
            used,
            capacity,
        })
        .collect();
    lacking.into_iter()
}

pub fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let ports = spec.containers.iter().flat_map(|c| c.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        let ip = port.host_ip.clone().filter(|ip| !ip.is_empty());
        Some(HostPort {
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            ip: ip.unwrap_or_else(|| ANY_ADDRESS.into()),
            port: port.host_port.filter(|port| *port > 0)?,
        })
    });
    taken.collect()
}

const ANY_ADDRESS: &str = "0.0.0.0";

// === impl HostPort ===

impl HostPort {
    fn conflicts(&self, other: &HostPort) -> bool {
        let same_address = self.ip == other.ip || self.ip == ANY_ADDRESS || other.ip == ANY_ADDRESS;
        same_address && self.protocol == other.protocol && self.port == other.port
    }
}

// === impl Insufficient ===

impl Insufficient {
    pub fn resource(&self) -> &str {
        &self.resource
    }

    pub fn need(&self) -> Need {
        let quantity = self.requested - (self.capacity - self.used);
        Need { resource: self.resource.clone(), quantity }
    }
}

impl fmt::Display for Insufficient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Insufficient { resource, requested, used, capacity } = self;
        write!(
            f,
            "Node didn't have enough resource: {resource}, requested: {requested}, used: {used}, capacity: {capacity}"
        )
    }
}

fn reject(reason: impl Into<String>, message: impl Into<String>) -> Result<(), Rejection> {
    Err(Rejection { reason: reason.into(), message: message.into() })
}

fn predicate(name: &str, why: &str) -> Result<(), Rejection> {
    reject(name, format!("Predicate {name} failed: {why}"))
}
