//! The scheduler's picture of the cluster: nodes with what is placed on them, kept current by single changes.
//!
//! Watch events and our own decisions in; `NodeInfo`s for plugins out. Counterpart: the scheduler cache and snapshot.
//! One thread owns it and schedules from it directly, so there is no copy to refresh per cycle.
//! Invariant: a pod counts on at most one node, from the moment it is assumed there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Service, Taint};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::pod_info::PodInfo;
use crate::resources::Resources;
use crate::selectors::{Labels, NodeTerm, Selector};

/// Namespace and name.
pub type Key = (String, String);

#[derive(Default)]
pub struct Cluster {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// Every placed pod by uid, with its node, known or not.
    placed: HashMap<String, (Arc<PodInfo>, String)>,
    /// Placed pods whose node has not been seen (yet).
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    pub namespaces: HashMap<String, Labels>,
    pub services: BTreeMap<Key, Selector>,
    /// Pod selectors of ReplicaSets and StatefulSets, by kind and key: what the pods of one workload have in common.
    pub workloads: HashMap<(&'static str, Key), Selector>,
    pub claims: HashMap<Key, Claim>,
    pub volumes: HashMap<String, Volume>,
    /// StorageClasses by name; true: bind when the first consumer is scheduled.
    pub classes: HashMap<String, bool>,
}

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub name: String,
    pub labels: Labels,
    pub unschedulable: bool,
    pub taints: Vec<Taint>,
    pub allocatable: Resources,
    pub allowed_pods: i64,
    pub requested: Resources,
    pub scoring_requested: Resources,
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of `pods` have pod affinity terms of their own: usually none, which saves a walk.
    pub pods_with_affinity: usize,
    /// Image name to size in bytes.
    pub images: HashMap<String, i64>,
}

#[derive(Clone, Debug)]
pub struct Claim {
    pub volume: Option<String>,
    pub class: Option<String>,
    pub bound: bool,
    pub terminating: bool,
}

#[derive(Clone, Debug)]
pub struct Volume {
    /// Node terms, one of which must match; none: reachable from anywhere.
    pub node_terms: Option<Vec<NodeTerm>>,
}

// === impl Cluster ===

impl Cluster {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    #[cfg(test)]
    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    pub fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    pub fn namespace_labels(&self, namespace: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(namespace).unwrap_or(&NONE)
    }

    /// Adds or updates a node; says what about it changed.
    pub fn set_node(&mut self, node: &Node) -> Vec<ClusterEvent> {
        let mut new = NodeInfo::new(node);
        match self.index.get(&new.name) {
            Some(at) => {
                let old = &mut self.nodes[*at];
                let events = old.differences(&new);
                old.replace_facts(new);
                events
            }
            None => {
                for pod in self.homeless.remove(&new.name).unwrap_or_default() {
                    new.add(pod);
                }
                self.index.insert(new.name.clone(), self.nodes.len());
                self.nodes.push(new);
                vec![ClusterEvent::NodeAdded]
            }
        }
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name.clone(), at);
        }
        // Its pods still exist until somebody deletes them, and the node may come back.
        if !gone.pods.is_empty() {
            self.homeless.insert(gone.name, gone.pods);
        }
    }

    /// Counts a pod on a node: assumed by us or reported by the watch.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        self.placed.insert(pod.uid.clone(), (pod.clone(), node.to_owned()));
        match self.index.get(node) {
            Some(at) => self.nodes[*at].add(pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// Forgets a placed pod; true if it was placed.
    pub fn remove_pod(&mut self, uid: &str) -> bool {
        let Some((pod, node)) = self.placed.remove(uid) else { return false };
        if let Some(at) = self.index.get(&node) {
            self.nodes[*at].remove(&pod);
        } else if let Some(pods) = self.homeless.get_mut(&node) {
            pods.retain(|other| other.uid != uid);
            if pods.is_empty() {
                self.homeless.remove(&node);
            }
        }
        true
    }

    /// What the pods like this one are selected by: its services and its workload. None: it belongs to nothing.
    pub fn default_selector(&self, pod: &PodInfo) -> Option<Selector> {
        let in_namespace = self.services.range((pod.namespace.clone(), String::new())..);
        let in_namespace =
            in_namespace.take_while(|((namespace, _), _)| *namespace == pod.namespace);
        let mut all = Selector::default();
        for (_, selector) in in_namespace.filter(|(_, selector)| selector.matches(&pod.labels)) {
            all.extend(selector.clone());
        }
        if let Some((kind, name)) = &pod.owner {
            let key = (pod.namespace.clone(), name.clone());
            let of = |kind: &'static str| self.workloads.get(&(kind, key.clone()));
            let selector = match kind.as_str() {
                "ReplicaSet" => of("ReplicaSet"),
                "StatefulSet" => of("StatefulSet"),
                _ => None,
            };
            selector.into_iter().for_each(|selector| all.extend(selector.clone()));
        }
        (!all.is_empty()).then_some(all)
    }

    pub fn set_service(&mut self, key: Key, service: &Service) {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        match selector.filter(|selector| !selector.is_empty()) {
            Some(selector) => drop(self.services.insert(key, Selector::from_map(selector))),
            None => drop(self.services.remove(&key)),
        }
    }

    pub fn set_claim(&mut self, key: Key, claim: &PersistentVolumeClaim) {
        let spec = claim.spec.clone().unwrap_or_default();
        let volume = spec.volume_name.filter(|name| !name.is_empty());
        let annotations = claim.metadata.annotations.as_ref();
        let bound = annotations
            .is_some_and(|all| all.contains_key("pv.kubernetes.io/bind-completed"))
            || claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
        let terminating = claim.metadata.deletion_timestamp.is_some();
        self.claims
            .insert(key, Claim { volume, class: spec.storage_class_name, bound, terminating });
    }

    pub fn set_volume(&mut self, name: String, volume: &PersistentVolume) {
        let affinity = volume.spec.as_ref().and_then(|spec| spec.node_affinity.as_ref());
        let required = affinity.and_then(|affinity| affinity.required.as_ref());
        let node_terms = required.map(|required| {
            required.node_selector_terms.iter().filter_map(NodeTerm::new).collect()
        });
        self.volumes.insert(name, Volume { node_terms });
    }

    pub fn set_class(&mut self, name: String, class: &StorageClass) {
        self.classes
            .insert(name, class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    }
}

/// A change that may make a pod fit that did not fit before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterEvent {
    NodeAdded,
    NodeAllocatable,
    NodeLabels,
    NodeTaints,
    /// A placed pod went away, finished or asks for less.
    PodRemoved,
    /// A pod was placed, or a placed pod's labels changed.
    PodPlaced,
    StorageChanged,
    NamespaceChanged,
}

// === impl NodeInfo ===

impl NodeInfo {
    pub fn new(node: &Node) -> NodeInfo {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.clone().unwrap_or_default();
        let allocatable = status.allocatable.as_ref();
        let pods = allocatable.and_then(|all| all.get("pods"));
        let images = status.images.into_iter().flatten().flat_map(|image| {
            let size = image.size_bytes.unwrap_or(0);
            image.names.into_iter().flatten().map(move |name| (name, size))
        });
        NodeInfo {
            name: node.metadata.name.clone().unwrap_or_default(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            unschedulable: spec.unschedulable == Some(true),
            taints: spec.taints.unwrap_or_default(),
            allocatable: Resources::parse(allocatable),
            allowed_pods: pods
                .map_or(0, |quantity| crate::resources::parse_quantity(&quantity.0, 1)),
            images: images.collect(),
            ..NodeInfo::default()
        }
    }

    fn differences(&self, new: &NodeInfo) -> Vec<ClusterEvent> {
        let changes = [
            (
                ClusterEvent::NodeAllocatable,
                self.allocatable != new.allocatable || self.allowed_pods != new.allowed_pods,
            ),
            (ClusterEvent::NodeLabels, self.labels != new.labels),
            (
                ClusterEvent::NodeTaints,
                self.taints != new.taints || self.unschedulable != new.unschedulable,
            ),
        ];
        changes.into_iter().filter(|(_, changed)| *changed).map(|(event, _)| event).collect()
    }

    /// Takes over what the API says of the node; what is placed on it stays.
    fn replace_facts(&mut self, new: NodeInfo) {
        *self = NodeInfo {
            requested: std::mem::take(&mut self.requested),
            scoring_requested: std::mem::take(&mut self.scoring_requested),
            pods: std::mem::take(&mut self.pods),
            pods_with_affinity: self.pods_with_affinity,
            ..new
        };
    }

    pub fn add(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scoring_requested.add(&pod.scoring_requests);
        self.pods_with_affinity += usize::from(has_affinity(&pod));
        self.pods.push(pod);
    }

    fn remove(&mut self, pod: &PodInfo) {
        let Some(at) = self.pods.iter().position(|other| other.uid == pod.uid) else { return };
        self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.scoring_requested.subtract(&pod.scoring_requests);
        self.pods_with_affinity -= usize::from(has_affinity(pod));
    }
}

fn has_affinity(pod: &PodInfo) -> bool {
    let affinity = &pod.pod_affinity;
    !(affinity.required.is_empty()
        && affinity.required_anti.is_empty()
        && affinity.preferred.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, cpu: &str) -> Node {
        serde_saphyr::from_str(&format!(
            "{{metadata: {{name: {name}}}, status: {{allocatable: {{cpu: {cpu}, pods: 5}}}}}}"
        ))
        .unwrap()
    }

    fn pod(uid: &str, milli_cpu: i64) -> Arc<PodInfo> {
        let requests = Resources { milli_cpu, ..Resources::default() };
        Arc::new(PodInfo { uid: uid.into(), requests, ..PodInfo::default() })
    }

    #[test]
    fn a_pod_counts_once_wherever_it_is_reported() {
        let mut cluster = Cluster::default();
        cluster.set_node(&node("a", "1"));
        cluster.set_node(&node("b", "1"));
        cluster.place(pod("p", 100), "a");
        cluster.place(pod("p", 150), "a");
        assert_eq!(cluster.node("a").unwrap().requested.milli_cpu, 150);
        cluster.place(pod("p", 100), "b");
        assert_eq!(cluster.node("a").unwrap().requested.milli_cpu, 0);
        assert!(cluster.remove_pod("p"));
        assert_eq!(cluster.node("b").unwrap().requested.milli_cpu, 0);
    }

    #[test]
    fn pods_wait_for_their_node_and_survive_it() {
        let mut cluster = Cluster::default();
        cluster.place(pod("early", 100), "a");
        assert_eq!(cluster.set_node(&node("a", "1")), [ClusterEvent::NodeAdded]);
        assert_eq!(cluster.node("a").unwrap().requested.milli_cpu, 100);
        cluster.remove_node("a");
        cluster.set_node(&node("a", "2"));
        assert_eq!(cluster.node("a").unwrap().requested.milli_cpu, 100);
        assert_eq!(cluster.set_node(&node("a", "4")), [ClusterEvent::NodeAllocatable]);
        assert_eq!(cluster.set_node(&node("a", "4")), []);
    }
}
