//! All nodes with their pods: watch events and own decisions in, what a scheduling cycle looks at out.
//!
//! Counterpart: `backend/cache`. Differs from upstream: there is no separate snapshot to copy. One task applies events
//! and runs cycles in turn, so the cache cannot change during a cycle and is its own snapshot.
//! Invariant: a pod is counted on one node at most; an assumed pod is counted until it is confirmed or forgotten.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::groups::{GroupId, Groups};
use crate::node_info::{NodeFacts, NodeInfo};
use crate::pod_info::PodInfo;

#[derive(Default)]
pub struct Cache {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    /// Places in `nodes`, zone by zone in turn.
    order: Vec<usize>,
    /// Nodes came, went or changed zone since `order` was made.
    stale: bool,
    /// On how many nodes each image is.
    images: HashMap<String, i64>,
    pods: HashMap<String, Placed>,
    groups: Groups,
    /// Pods whose node is not known (yet).
    homeless: HashMap<String, Vec<(Arc<PodInfo>, GroupId)>>,
}

struct Placed {
    pod: Arc<PodInfo>,
    node: String,
    group: GroupId,
    /// Decided here, not yet seen in the API.
    assumed: bool,
}

// === impl Cache ===

impl Cache {
    /// Must be called before a cycle looks at the nodes: many may come before one is needed.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.stale) {
            self.order = self.zones_in_turn();
        }
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// The node at a place of the search order.
    pub fn at(&self, place: usize) -> &NodeInfo {
        debug_assert!(!self.stale, "the cache is settled before a cycle");
        &self.nodes[self.order[place]]
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    pub fn nodes_with_image(&self, image: &str) -> i64 {
        self.images.get(image).copied().unwrap_or(0)
    }

    /// Takes a new or changed node and answers what was known of it before.
    pub fn set_node(&mut self, facts: NodeFacts) -> Option<Arc<NodeFacts>> {
        let facts = Arc::new(facts);
        if let Some(known) = self.node_mut(&facts.name) {
            let before = std::mem::replace(&mut known.facts, facts.clone());
            self.stale |= before.zone() != facts.zone();
            self.count_images(&before, -1);
            self.count_images(&facts, 1);
            return Some(before);
        }
        self.count_images(&facts, 1);
        let mut node = NodeInfo { facts: facts.clone(), ..NodeInfo::default() };
        let pods = self.homeless.remove(&facts.name).unwrap_or_default();
        pods.into_iter().for_each(|(pod, group)| node.add(pod, group));
        self.index.insert(facts.name.clone(), self.nodes.len());
        self.nodes.push(node);
        self.stale = true;
        None
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let node = self.nodes.swap_remove(at);
        self.count_images(&node.facts, -1);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name().to_owned(), at);
        }
        if !node.pods.is_empty() {
            let with_group = |pod: Arc<PodInfo>| {
                let group = self.pods[&pod.uid].group;
                (pod, group)
            };
            let pods = node.pods.into_iter().map(with_group).collect();
            self.homeless.insert(name.to_owned(), pods);
        }
        self.stale = true;
    }

    /// Counts a pod that the API says is bound, whether or not it was assumed.
    pub fn set_pod(&mut self, pod: Arc<PodInfo>) {
        self.place(pod, false);
    }

    /// Counts a pod on the node it is about to be bound to.
    pub fn assume(&mut self, pod: Arc<PodInfo>) {
        self.place(pod, true);
    }

    /// Takes back an assumption that did not come true. A pod that was confirmed meanwhile stays.
    pub fn forget(&mut self, uid: &str) {
        if self.is_assumed(uid) {
            self.remove_pod(uid);
        }
    }

    pub fn is_assumed(&self, uid: &str) -> bool {
        self.pods.get(uid).is_some_and(|placed| placed.assumed)
    }

    pub fn pod(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.pods.get(uid).map(|placed| &placed.pod)
    }

    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let placed = self.pods.remove(uid)?;
        self.groups.leave(placed.group);
        match self.node_mut(&placed.node) {
            Some(node) => node.remove(uid, placed.group),
            None => self.remove_homeless(&placed.node, uid),
        }
        Some(placed.pod)
    }

    pub fn uids(&self) -> Vec<String> {
        self.pods.keys().cloned().collect()
    }

    fn place(&mut self, pod: Arc<PodInfo>, assumed: bool) {
        self.remove_pod(&pod.uid);
        let group = self.groups.join(&pod);
        let node = pod.node_name.clone().expect("only pods with a node are counted");
        match self.node_mut(&node) {
            Some(known) => known.add(pod.clone(), group),
            None => self.homeless.entry(node.clone()).or_default().push((pod.clone(), group)),
        }
        self.pods.insert(pod.uid.clone(), Placed { pod, node, group, assumed });
    }

    fn remove_homeless(&mut self, node: &str, uid: &str) {
        if let Some(pods) = self.homeless.get_mut(node) {
            pods.retain(|(pod, _)| pod.uid != uid);
            if pods.is_empty() {
                self.homeless.remove(node);
            }
        }
    }

    fn node_mut(&mut self, name: &str) -> Option<&mut NodeInfo> {
        self.index.get(name).map(|at| &mut self.nodes[*at])
    }

    fn count_images(&mut self, facts: &NodeFacts, change: i64) {
        for name in facts.images.keys() {
            let nodes = self.images.entry(name.clone()).or_insert(0);
            *nodes += change;
            if *nodes == 0 {
                self.images.remove(name);
            }
        }
    }

    fn zones_in_turn(&self) -> Vec<usize> {
        let mut zones: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (place, node) in self.nodes.iter().enumerate() {
            zones.entry(node.facts.zone()).or_default().push(place);
        }
        let mut zones: VecDeque<_> = zones.into_values().map(Vec::into_iter).collect();
        let mut order = Vec::with_capacity(self.nodes.len());
        while let Some(mut zone) = zones.pop_front() {
            if let Some(place) = zone.next() {
                order.push(place);
                zones.push_back(zone);
            }
        }
        order
    }
}
