//! A pod as the scheduler sees it: the wire object in, decided facts out.
//!
//! Counterpart: `framework.PodInfo`. Differs from upstream: the wire object is not kept, since 30,000 pods of it are
//! most of a scheduler's memory. Invariant: what a plugin needs of a pod is parsed here, once.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ObjectReference, Pod, PodCondition, PodSpec, PodStatus, PreferredSchedulingTerm,
    Taint, Toleration, Volume,
};
use skiff_api::scheduling::{Labels, NodeTerm, PodClaim, RequiredNodes, tolerates};

use crate::listers::Owner;
use crate::pod_terms::{Own, PodAffinity, Spread};
use skiff_api::scheduling::resources::PodRequests;

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
    /// Terminating because room is made for a more important pod.
    pub preempted: bool,
    pub started: Option<Timestamp>,
    /// `status.nominatedNodeName`: the node it was promised.
    pub nominated: Option<String>,
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
    /// What its `spec.resourceClaims` stand for.
    pub device_claims: Vec<PodClaim>,
    /// Volumes named in the pod itself that not every two pods of a node can share.
    pub disks: Vec<Disk>,
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

/// A network disk that a pod mounts without a claim.
#[derive(Clone, Debug, PartialEq)]
pub struct Disk {
    kind: DiskKind,
    read_only: bool,
}

#[derive(Clone, Debug, PartialEq)]
enum DiskKind {
    Gce(String),
    /// Never shared, not even for reading.
    Aws(String),
    Iscsi(String),
    Rbd {
        monitors: Vec<String>,
        pool: String,
        image: String,
    },
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
            device_claims: PodClaim::all(&spec, Some(&status)),
            disks: spec.volumes.iter().flatten().filter_map(Disk::of).collect(),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            gates: spec.scheduling_gates.into_iter().flatten().map(|gate| gate.name).collect(),
            scheduler_name: spec.scheduler_name.unwrap_or_default(),
            node_name: spec.node_name.filter(|name| !name.is_empty()),
            priority: spec.priority.unwrap_or(0),
            tolerations: spec.tolerations.unwrap_or_default(),
            terminating: metadata.deletion_timestamp.is_some(),
            preempted: metadata.deletion_timestamp.is_some() && preempted(&status),
            started: status.start_time.as_ref().map(|time| time.0),
            nominated: status.nominated_node_name.filter(|name| !name.is_empty()),
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
            && self.device_claims == other.device_claims
    }
}

fn preempted(status: &PodStatus) -> bool {
    let condition =
        status.conditions.iter().flatten().find(|condition| condition.type_ == "DisruptionTarget");
    condition.is_some_and(|condition| {
        condition.status == "True" && condition.reason.as_deref() == Some("PreemptionByScheduler")
    })
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
    pub fn of(preferred: &PreferredSchedulingTerm) -> Preferred {
        Preferred { term: NodeTerm::of(&preferred.preference), weight: preferred.weight.into() }
    }
}

// === impl Disk ===

impl Disk {
    fn of(volume: &Volume) -> Option<Disk> {
        let disk = |kind, read_only: Option<bool>| {
            Some(Disk { kind, read_only: read_only.unwrap_or(false) })
        };
        if let Some(gce) = &volume.gce_persistent_disk {
            return disk(DiskKind::Gce(gce.pd_name.clone()), gce.read_only);
        }
        if let Some(aws) = &volume.aws_elastic_block_store {
            return disk(DiskKind::Aws(aws.volume_id.clone()), None);
        }
        if let Some(iscsi) = &volume.iscsi {
            return disk(DiskKind::Iscsi(iscsi.iqn.clone()), iscsi.read_only);
        }
        let rbd = volume.rbd.as_ref()?;
        let kind = DiskKind::Rbd {
            monitors: rbd.monitors.clone(),
            pool: rbd.pool.clone().unwrap_or_default(),
            image: rbd.image.clone(),
        };
        disk(kind, rbd.read_only)
    }

    /// Whether two pods of one node cannot mount the two.
    pub fn conflicts(&self, other: &Disk) -> bool {
        let same = match (&self.kind, &other.kind) {
            (DiskKind::Aws(one), DiskKind::Aws(other)) => return one == other,
            (
                DiskKind::Rbd { monitors, pool, image },
                DiskKind::Rbd { monitors: others, pool: other_pool, image: other_image },
            ) => {
                let shared = monitors.iter().any(|monitor| others.contains(monitor));
                shared && pool == other_pool && image == other_image
            }
            (one, other) => one == other,
        };
        same && !(self.read_only && other.read_only)
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
