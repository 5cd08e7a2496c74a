//! What plugins know of the cluster besides nodes and pods: namespaces, workloads and storage.
//!
//! Counterpart: the listers of a SharedInformerFactory. Differs from upstream: only the facts that plugins decide by
//! are kept of each object. Invariant: a lister changes between cycles only.

use std::collections::{BTreeMap, HashMap, HashSet};

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, PersistentVolume, PersistentVolumeClaim, ReplicationController, Service,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::{
    CSIDriver, CSINode, CSIStorageCapacity, StorageClass, VolumeAttachment,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use skiff_api::scheduling::{Labels, NodeTerm, Requirement, Selector, node_terms};

use crate::devices::{ClaimInfo, ClassInfo, DeviceId, SliceInfo};
use crate::informer::Change;
use crate::pod_info::PodInfo;
use skiff_api::scheduling::resources;

/// Namespace (empty for cluster-scoped kinds) and name.
pub type Key = (String, String);

#[derive(Default)]
pub struct Listers {
    pub namespaces: Lister<Labels>,
    pub services: Lister<Selector>,
    pub replication_controllers: Lister<Selector>,
    pub replica_sets: Lister<Selector>,
    pub stateful_sets: Lister<Selector>,
    pub claims: Lister<Claim>,
    pub volumes: Lister<Volume>,
    pub classes: Lister<Class>,
    pub budgets: Lister<Budget>,
    pub csi_nodes: Lister<CsiNode>,
    pub csi_drivers: Lister<CsiDriver>,
    pub capacities: Lister<Capacity>,
    pub attachments: Lister<Attachment>,
    pub resource_claims: Lister<ClaimInfo>,
    pub device_classes: Lister<ClassInfo>,
    pub resource_slices: Lister<SliceInfo>,
    /// Devices that were chosen for a claim which does not say so yet, by that claim.
    pub allocating: HashMap<Key, Allocating>,
}

#[derive(Debug)]
pub struct Allocating {
    pub claim: String,
    pub devices: Vec<DeviceId>,
}

pub struct Lister<T>(BTreeMap<Key, T>);

/// One object, as an informer parses it.
#[derive(Debug)]
pub struct Listed<T> {
    pub key: Key,
    pub facts: T,
}

#[derive(Clone, Debug, Default)]
pub struct Claim {
    pub class: String,
    pub volume: Option<String>,
    pub bound: bool,
    pub terminating: bool,
    pub uid: String,
    pub access_modes: Vec<String>,
    pub volume_mode: String,
    pub size: i64,
    pub selector: Selector,
}

#[derive(Clone, Debug, Default)]
pub struct Volume {
    pub class: String,
    /// One must match; none at all: reachable from anywhere.
    pub node_terms: Option<Vec<NodeTerm>>,
    /// Neither bound nor promised to a claim.
    pub available: bool,
    pub resource_version: String,
    pub access_modes: Vec<String>,
    pub volume_mode: String,
    pub size: i64,
    pub labels: Labels,
    /// Zones and regions it is limited to by its labels: a key, and the values it may have.
    pub zones: Vec<(String, Vec<String>)>,
    /// The CSI driver, and what it calls the volume.
    pub csi: Option<(String, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct Class {
    pub waits_for_consumer: bool,
    pub provisions: bool,
    pub provisioner: String,
    /// One must match; none at all: everywhere.
    pub topologies: Option<Vec<Selector>>,
}

/// How many volumes each CSI driver of a node attaches, where it says so.
pub type CsiNode = BTreeMap<String, i64>;

#[derive(Clone, Debug, Default)]
pub struct CsiDriver {
    /// Publishes how much room is left, which then must be enough.
    pub storage_capacity: bool,
}

/// How large a volume a storage class can still make, and on which nodes.
#[derive(Clone, Debug, Default)]
pub struct Capacity {
    pub class: String,
    /// None: nothing is known to be left.
    pub limit: Option<i64>,
    /// None: reachable from nowhere.
    pub nodes: Option<Selector>,
}

/// A volume that is attached, or being attached, to a node.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    pub node: String,
    pub volume: String,
}

/// A PodDisruptionBudget, as preemption respects it.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    selector: Selector,
    pub allowed: i64,
    /// Pods whose disruption is counted already.
    disrupted: Vec<String>,
}

// === impl Budget ===

impl Budget {
    pub fn guards(&self, pod: &str, labels: &Labels) -> bool {
        let counted = self.disrupted.iter().any(|name| name == pod);
        // A budget without a selector guards nobody.
        !counted
            && !labels.is_empty()
            && !self.selector.0.is_empty()
            && self.selector.matches(labels)
    }
}

// === impl Listers ===

impl Listers {
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get("", namespace).unwrap_or(&NONE)
    }

    /// Devices that nobody else may have: those in allocations, and those that are about to be.
    pub fn taken_devices(&self) -> HashSet<&DeviceId> {
        let claims = self.resource_claims.iter();
        let allocated = claims.filter_map(|(_, claim)| claim.allocation.as_ref());
        let allocated = allocated.flat_map(|allocation| &allocation.devices);
        allocated.chain(self.allocating.values().flat_map(|claim| &claim.devices)).collect()
    }

    /// Forgets what was about to be allocated and is, or never will be.
    pub fn settle_allocating(&mut self) {
        let claims = &self.resource_claims;
        self.allocating.retain(|(namespace, name), allocating| {
            let claim = claims.get(namespace, name);
            claim.is_some_and(|claim| claim.uid == allocating.claim && claim.allocation.is_none())
        });
    }

    /// What selects a pod and its siblings: its Services and the workload that owns it. `None`: it has no siblings.
    pub fn siblings(&self, pod: &PodInfo) -> Option<Selector> {
        let services = self.services.of_namespace(&pod.namespace);
        let services = services.filter(|s| !s.0.is_empty() && s.matches(&pod.labels));
        let owner = pod.owner.as_ref().and_then(|owner| {
            let lister = match owner.kind {
                OwnerKind::ReplicationController => &self.replication_controllers,
                OwnerKind::ReplicaSet => &self.replica_sets,
                OwnerKind::StatefulSet => &self.stateful_sets,
            };
            lister.get(&pod.namespace, &owner.name)
        });
        let all = services.chain(owner).flat_map(|selector| selector.0.iter().cloned());
        let all = Selector(all.collect());
        (!all.0.is_empty()).then_some(all)
    }
}

/// The workloads whose pods are spread.
#[derive(Clone, Debug, PartialEq)]
pub struct Owner {
    pub kind: OwnerKind,
    pub name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerKind {
    ReplicationController,
    ReplicaSet,
    StatefulSet,
}

// === impl Owner ===

impl Owner {
    pub fn of(meta: &ObjectMeta) -> Option<Owner> {
        let owners = meta.owner_references.iter().flatten();
        let owner = owners.into_iter().find(|owner| owner.controller == Some(true))?;
        let kind = match owner.kind.as_str() {
            "ReplicationController" => OwnerKind::ReplicationController,
            "ReplicaSet" => OwnerKind::ReplicaSet,
            "StatefulSet" => OwnerKind::StatefulSet,
            _ => return None,
        };
        Some(Owner { kind, name: owner.name.clone() })
    }
}

// === impl Lister ===

impl<T> Default for Lister<T> {
    fn default() -> Self {
        Lister(BTreeMap::new())
    }
}

impl<T> Lister<T> {
    pub fn get(&self, namespace: &str, name: &str) -> Option<&T> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn of_namespace(&self, namespace: &str) -> impl Iterator<Item = &T> {
        let from = (namespace.to_owned(), String::new());
        let all = self.0.range(from..).take_while(move |((of, _), _)| of == namespace);
        all.map(|(_, facts)| facts)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.0.iter()
    }

    pub fn get_mut(&mut self, namespace: &str, name: &str) -> Option<&mut T> {
        self.0.get_mut(&(namespace.to_owned(), name.to_owned()))
    }

    pub fn apply(&mut self, change: Change<Listed<T>>) {
        match change {
            Change::Set(listed) => drop(self.0.insert(listed.key, listed.facts)),
            Change::Deleted(listed) => drop(self.0.remove(&listed.key)),
            Change::Replaced(all) => {
                self.0 = all.into_iter().map(|listed| (listed.key, listed.facts)).collect();
            }
        }
    }
}

// === impl Listed ===

impl<T> Listed<T> {
    pub fn new(meta: ObjectMeta, facts: T) -> Listed<T> {
        let key = (meta.namespace.unwrap_or_default(), meta.name.unwrap_or_default());
        Listed { key, facts }
    }
}

// What an informer keeps of each kind.

pub fn namespace(mut namespace: Namespace) -> Listed<Labels> {
    let labels = namespace.metadata.labels.take().unwrap_or_default();
    Listed::new(namespace.metadata, labels)
}

pub fn service(service: Service) -> Listed<Selector> {
    let selector = service.spec.and_then(|spec| spec.selector);
    Listed::new(service.metadata, selector.as_ref().map(Selector::of_map).unwrap_or_default())
}

pub fn replication_controller(controller: ReplicationController) -> Listed<Selector> {
    let selector = controller.spec.and_then(|spec| spec.selector);
    Listed::new(controller.metadata, selector.as_ref().map(Selector::of_map).unwrap_or_default())
}

pub fn replica_set(set: ReplicaSet) -> Listed<Selector> {
    Listed::new(set.metadata, workload(set.spec.map(|spec| spec.selector)))
}

pub fn stateful_set(set: StatefulSet) -> Listed<Selector> {
    Listed::new(set.metadata, workload(set.spec.map(|spec| spec.selector)))
}

fn workload(selector: Option<LabelSelector>) -> Selector {
    selector.as_ref().map(Selector::of).unwrap_or_default()
}

pub fn budget(budget: PodDisruptionBudget) -> Listed<Budget> {
    let status = budget.status.unwrap_or_default();
    let facts = Budget {
        selector: workload(budget.spec.and_then(|spec| spec.selector)),
        allowed: status.disruptions_allowed.unwrap_or(0).into(),
        disrupted: status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect(),
    };
    Listed::new(budget.metadata, facts)
}

pub fn claim(claim: PersistentVolumeClaim) -> Listed<Claim> {
    let PersistentVolumeClaim { metadata, spec, .. } = claim;
    let spec = spec.unwrap_or_default();
    let completed = "pv.kubernetes.io/bind-completed";
    let annotations = metadata.annotations.as_ref();
    let requests = spec.resources.and_then(|resources| resources.requests);
    let volume = spec.volume_name.filter(|name| !name.is_empty());
    let facts = Claim {
        bound: volume.is_some() && annotations.is_some_and(|all| all.contains_key(completed)),
        volume,
        class: spec.storage_class_name.unwrap_or_default(),
        terminating: metadata.deletion_timestamp.is_some(),
        uid: metadata.uid.clone().unwrap_or_default(),
        access_modes: spec.access_modes.unwrap_or_default(),
        volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
        size: requests.and_then(|all| all.get("storage").and_then(resources::value)).unwrap_or(0),
        selector: spec.selector.as_ref().map(Selector::of).unwrap_or_default(),
    };
    Listed::new(metadata, facts)
}

pub fn volume(volume: PersistentVolume) -> Listed<Volume> {
    let PersistentVolume { metadata, spec, status } = volume;
    let spec = spec.unwrap_or_default();
    let phase = status.and_then(|status| status.phase).unwrap_or_default();
    let required = spec.node_affinity.and_then(|affinity| affinity.required);
    let facts = Volume {
        class: spec.storage_class_name.unwrap_or_default(),
        node_terms: required.as_ref().map(node_terms),
        available: spec.claim_ref.is_none()
            && phase == "Available"
            && metadata.deletion_timestamp.is_none(),
        resource_version: metadata.resource_version.clone().unwrap_or_default(),
        access_modes: spec.access_modes.unwrap_or_default(),
        volume_mode: spec.volume_mode.unwrap_or_else(|| "Filesystem".into()),
        size: spec
            .capacity
            .and_then(|all| all.get("storage").and_then(resources::value))
            .unwrap_or(0),
        zones: zones(metadata.labels.as_ref()),
        csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        labels: metadata.labels.clone().unwrap_or_default(),
    };
    Listed::new(metadata, facts)
}

/// Where a node or a volume is, under the names of today and of old.
pub const ZONE_LABELS: [&str; 4] = [
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// A label may name several zones, for a volume that is copied between them.
fn zones(labels: Option<&Labels>) -> Vec<(String, Vec<String>)> {
    let named = ZONE_LABELS.iter().filter_map(|key| Some((*key, labels?.get(*key)?)));
    named
        .map(|(key, value)| {
            let zones = value.split("__").map(|zone| zone.trim().to_owned());
            (key.to_owned(), zones.collect())
        })
        .collect()
}

pub fn csi_node(node: CSINode) -> Listed<CsiNode> {
    let limits = node.spec.drivers.into_iter().filter_map(|driver| {
        let count = driver.allocatable?.count?;
        Some((driver.name, count.into()))
    });
    Listed::new(node.metadata, limits.collect())
}

pub fn csi_driver(driver: CSIDriver) -> Listed<CsiDriver> {
    let storage_capacity = driver.spec.storage_capacity.unwrap_or(false);
    Listed::new(driver.metadata, CsiDriver { storage_capacity })
}

pub fn capacity(capacity: CSIStorageCapacity) -> Listed<Capacity> {
    // The largest single volume is the more exact of the two.
    let limit = capacity.maximum_volume_size.or(capacity.capacity);
    let facts = Capacity {
        class: capacity.storage_class_name,
        limit: limit.as_ref().and_then(resources::value),
        nodes: capacity.node_topology.as_ref().map(Selector::of),
    };
    Listed::new(capacity.metadata, facts)
}

pub fn attachment(attachment: VolumeAttachment) -> Listed<Attachment> {
    let spec = attachment.spec;
    let volume = spec.source.persistent_volume_name.unwrap_or_default();
    Listed::new(attachment.metadata, Attachment { node: spec.node_name, volume })
}

pub fn class(class: StorageClass) -> Listed<Class> {
    let terms = class.allowed_topologies.map(|terms| {
        let selector = |term: k8s_openapi::api::core::v1::TopologySelectorTerm| {
            let labels = term.match_label_expressions.into_iter().flatten();
            Selector(labels.map(|label| Requirement::is_in(&label.key, label.values)).collect())
        };
        terms.into_iter().map(selector).collect::<Vec<_>>()
    });
    let facts = Class {
        waits_for_consumer: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        provisions: class.provisioner != "kubernetes.io/no-provisioner",
        provisioner: class.provisioner,
        topologies: terms.filter(|terms| !terms.is_empty()),
    };
    Listed::new(class.metadata, facts)
}
