//! A pod as the scheduler sees it: the wire object in, decided facts out.
//!
//! Counterpart: `framework.PodInfo`. Differs from upstream: the wire object is not kept, since 30,000 pods of it are
//! most of a scheduler's memory. Invariant: what a plugin needs of a pod is parsed here, once.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ObjectReference, Pod, PodCondition, PodSpec, PreferredSchedulingTerm, Taint,
    Toleration,
};
use skiff_api::scheduling::{Labels, NodeTerm, RequiredNodes, tolerates};

use crate::listers::Owner;
use crate::pod_terms::{Own, PodAffinity, Spread};
use crate::resources::PodRequests;

#[derive(Clone, Debug, Default)]
pub struct PodInfo {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub resource_version: String,
    pub generation: Option<i64>,
    pub labels: Labels,
    pub created: Timestamp,
    pub scheduler_name: String,
    /// Where it runs; `None` until it is bound.
    pub node_name: Option<String>,
    pub priority: i32,
    pub never_preempts: bool,
    pub gates: Vec<String>,
    pub terminating: bool,
    /// Succeeded or failed: it holds no resources any more.
    pub finished: bool,
    pub requests: PodRequests,
    pub ports: Vec<HostPort>,
    pub node_affinity: RequiredNodes,
    pub preferred_nodes: Vec<Preferred>,
    pub affinity: PodAffinity,
    pub spread: Vec<Spread>,
    /// The workload it is a replica of.
    pub owner: Option<Owner>,
    pub claims: Vec<ClaimName>,
    pub tolerations: Vec<Toleration>,
    /// Of every container, in order.
    pub images: Vec<String>,
    /// The PodScheduled condition it carries, to write it only when it changes.
    pub scheduled: Option<Condition>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    pub status: String,
    pub reason: String,
    pub message: String,
}

/// A claim the pod mounts.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimName {
    pub name: String,
    /// Made for this pod by a controller.
    pub ephemeral: bool,
}

/// A port taken on the node itself; an empty address is every address.
#[derive(Clone, Debug, PartialEq)]
pub struct HostPort {
    pub address: String,
    pub protocol: String,
    pub port: i32,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Preferred {
    pub term: NodeTerm,
    pub weight: i64,
}

// === impl PodInfo ===

impl PodInfo {
    pub fn of(pod: Pod) -> Arc<PodInfo> {
        let Pod { metadata, spec, status } = pod;
        let (spec, status) = (spec.unwrap_or_default(), status.unwrap_or_default());
        let namespace = metadata.namespace.clone().unwrap_or_default();
        let labels = metadata.labels.clone().unwrap_or_default();
        let own = Own { namespace: &namespace, labels: &labels };
        let constraints = spec.topology_spread_constraints.iter().flatten();
        let affinity = spec.affinity.as_ref();
        let nodes = affinity.and_then(|affinity| affinity.node_affinity.as_ref());
        let preferred = nodes
            .and_then(|nodes| nodes.preferred_during_scheduling_ignored_during_execution.as_ref());
        Arc::new(PodInfo {
            requests: PodRequests::of(&spec, &status),
            ports: host_ports(&spec),
            node_affinity: RequiredNodes::of(&spec),
            preferred_nodes: preferred.into_iter().flatten().map(Preferred::of).collect(),
            images: images(&spec),
            affinity: affinity.map(|affinity| PodAffinity::of(affinity, own)).unwrap_or_default(),
            spread: constraints.map(|constraint| Spread::of(constraint, own)).collect(),
            owner: Owner::of(&metadata),
            claims: claims(&spec, metadata.name.as_deref().unwrap_or_default()),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            gates: spec.scheduling_gates.into_iter().flatten().map(|gate| gate.name).collect(),
            scheduler_name: spec.scheduler_name.unwrap_or_default(),
            node_name: spec.node_name.filter(|name| !name.is_empty()),
            priority: spec.priority.unwrap_or(0),
            tolerations: spec.tolerations.unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
            finished: matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")),
            scheduled: status.conditions.into_iter().flatten().find_map(Condition::scheduled),
            created: metadata.creation_timestamp.map_or(Timestamp::UNIX_EPOCH, |time| time.0),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: metadata.resource_version.unwrap_or_default(),
            generation: metadata.generation,
            namespace,
            labels,
        })
    }

    pub fn reference(&self) -> ObjectReference {
        ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(self.namespace.clone()),
            name: Some(self.name.clone()),
            uid: Some(self.uid.clone()),
            resource_version: Some(self.resource_version.clone()),
            ..ObjectReference::default()
        }
    }

    /// Whether some toleration of the pod bears this taint.
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.tolerations.iter().any(|toleration| tolerates(toleration, taint))
    }

    /// Whether the two differ in anything a plugin decides by.
    pub fn schedules_like(&self, other: &PodInfo) -> bool {
        self.labels == other.labels
            && self.gates == other.gates
            && self.requests == other.requests
            && self.tolerations == other.tolerations
            && self.priority == other.priority
            && self.node_affinity == other.node_affinity
            && self.affinity == other.affinity
            && self.spread == other.spread
    }
}

// === impl Condition ===

impl Condition {
    /// Why the pod has no node.
    pub fn unscheduled(reason: &str, message: &str) -> Condition {
        let (reason, message) = (reason.to_owned(), message.to_owned());
        Condition { status: "False".into(), reason, message }
    }

    fn scheduled(condition: PodCondition) -> Option<Condition> {
        (condition.type_ == "PodScheduled").then(|| Condition {
            status: condition.status,
            reason: condition.reason.unwrap_or_default(),
            message: condition.message.unwrap_or_default(),
        })
    }
}

// === impl Preferred ===

impl Preferred {
    fn of(preferred: &PreferredSchedulingTerm) -> Preferred {
        Preferred { term: NodeTerm::of(&preferred.preference), weight: preferred.weight.into() }
    }
}

// === impl HostPort ===

impl HostPort {
    /// Two pods cannot have the same port of the same protocol unless each keeps to its own address.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let overlap =
            self.address.is_empty() || other.address.is_empty() || self.address == other.address;
        self.port == other.port && self.protocol == other.protocol && overlap
    }
}

/// Generic ephemeral volumes have a claim named after the pod and the volume.
fn claims(spec: &PodSpec, pod: &str) -> Vec<ClaimName> {
    let volumes = spec.volumes.iter().flatten();
    let claim = volumes.filter_map(|volume| match &volume.persistent_volume_claim {
        Some(claim) => Some(ClaimName { name: claim.claim_name.clone(), ephemeral: false }),
        None => volume
            .ephemeral
            .as_ref()
            .map(|_| ClaimName { name: format!("{pod}-{}", volume.name), ephemeral: true }),
    });
    claim.collect()
}

fn images(spec: &PodSpec) -> Vec<String> {
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    containers.map(|container| container.image.clone().unwrap_or_default()).collect()
}

/// Ports of containers and sidecars; those of ordinary init containers are free again when the pod runs.
fn host_ports(spec: &PodSpec) -> Vec<HostPort> {
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = spec.containers.iter().chain(sidecars).flat_map(container_ports);
    ports.collect()
}

fn container_ports(container: &Container) -> impl Iterator<Item = HostPort> + '_ {
    let ports = container.ports.iter().flatten();
    ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|address| *address != "0.0.0.0");
        Some(HostPort {
            address: address.unwrap_or_default().to_owned(),
            protocol: port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port: number,
        })
    })
}
