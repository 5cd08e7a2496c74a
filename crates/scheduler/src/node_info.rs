//! A node with what is placed on it: facts of the Node object and running sums over its pods.
//!
//! Counterpart: `framework.NodeInfo`. Invariant: the sums are those of `pods`, at any time; adding and removing a pod
//! costs no more than that pod.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};
use skiff_api::scheduling::Labels;

use crate::groups::GroupId;
use crate::pod_info::{HostPort, PodInfo};
use skiff_api::scheduling::resources::Resources;

/// The Node object, parsed once per version of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFacts {
    pub name: String,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    /// Size in bytes of each image present, under every name it has.
    pub images: HashMap<String, i64>,
}

#[derive(Clone, Debug, Default)]
pub struct NodeInfo {
    pub facts: Arc<NodeFacts>,
    /// Where it stands among the nodes of the cache, until one goes.
    pub place: usize,
    pub pods: Vec<Arc<PodInfo>>,
    /// How many of `pods` are in each group.
    pub groups: Vec<(GroupId, u32)>,
    pub requested: Resources,
    /// Sums with defaults for what pods leave open, for scoring.
    pub assumed_milli_cpu: i64,
    pub assumed_memory: i64,
    pub ports: Vec<HostPort>,
}

// === impl NodeFacts ===

impl NodeFacts {
    pub fn of(node: Node) -> NodeFacts {
        let (spec, status) = (node.spec.unwrap_or_default(), node.status.unwrap_or_default());
        let mut images = HashMap::new();
        for image in status.images.into_iter().flatten() {
            let size = image.size_bytes.unwrap_or(0);
            images.extend(image.names.into_iter().flatten().map(|name| (name, size)));
        }
        NodeFacts {
            name: node.metadata.name.unwrap_or_default(),
            labels: node.metadata.labels.unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: status.allocatable.as_ref().map(Resources::of).unwrap_or_default(),
            images,
        }
    }

    /// Nodes take turns by zone, so that a search that stops early still sees every zone.
    pub fn zone(&self) -> (&str, &str) {
        let label = |name: &str| self.labels.get(name).map_or("", String::as_str);
        (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
    }
}

// === impl NodeInfo ===

impl NodeInfo {
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    pub fn add(&mut self, pod: Arc<PodInfo>, group: GroupId) {
        match self.groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, pods)) => *pods += 1,
            None => self.groups.push((group, 1)),
        }
        self.hold(pod);
    }

    pub fn remove(&mut self, uid: &str, group: GroupId) {
        if !self.release(uid) {
            return;
        }
        if let Some(at) = self.groups.iter().position(|(known, _)| *known == group) {
            self.groups[at].1 -= 1;
            if self.groups[at].1 == 0 {
                self.groups.swap_remove(at);
            }
        }
    }

    /// Counts what the pod takes of the node, but not in which group it is: enough for a filter to answer what if.
    pub fn hold(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests.declared);
        self.assumed_milli_cpu += pod.requests.assumed_milli_cpu;
        self.assumed_memory += pod.requests.assumed_memory;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// The opposite of `hold`. Answers whether the pod was there.
    pub fn release(&mut self, uid: &str) -> bool {
        let Some(at) = self.pods.iter().position(|pod| pod.uid == uid) else { return false };
        let pod = self.pods.swap_remove(at);
        self.requested.sub(&pod.requests.declared);
        self.assumed_milli_cpu -= pod.requests.assumed_milli_cpu;
        self.assumed_memory -= pod.requests.assumed_memory;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        true
    }
}
