//! What plugins know of the cluster besides nodes and pods: namespaces, workloads and storage.
//!
//! Counterpart: the listers of a SharedInformerFactory. Differs from upstream: only the facts that plugins decide by
//! are kept of each object. Invariant: a lister changes between cycles only.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, PersistentVolume, PersistentVolumeClaim, ReplicationController, Service,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use skiff_api::scheduling::{Labels, NodeTerm, Requirement, Selector, node_terms};

use crate::informer::Change;
use crate::pod_info::PodInfo;
use crate::resources;

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
}

pub struct Lister<T>(BTreeMap<Key, T>);

/// One object, as an informer parses it.
#[derive(Debug)]
pub struct Listed<T> {
    key: Key,
    facts: T,
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
}

#[derive(Clone, Debug, Default)]
pub struct Class {
    pub waits_for_consumer: bool,
    pub provisions: bool,
    /// One must match; none at all: everywhere.
    pub topologies: Option<Vec<Selector>>,
}

// === impl Listers ===

impl Listers {
    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get("", namespace).unwrap_or(&NONE)
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
    fn new(meta: ObjectMeta, facts: T) -> Listed<T> {
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
        labels: metadata.labels.clone().unwrap_or_default(),
    };
    Listed::new(metadata, facts)
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
        topologies: terms.filter(|terms| !terms.is_empty()),
    };
    Listed::new(class.metadata, facts)
}
