//! All nodes with their pods: watch events and own decisions in, what a scheduling cycle looks at out.
//!
//! Counterpart: `backend/cache`. Differs from upstream: there is no separate snapshot to copy. One task applies events
//! and runs cycles in turn, so the cache cannot change during a cycle and is its own snapshot.
//! Invariant: a pod is counted on one node at most; an assumed pod is counted until it is confirmed or forgotten.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use crate::groups::{GroupId, Groups};
use crate::node_info::{NodeFacts, NodeInfo};
use crate::pod_info::PodInfo;
use crate::zoning::{Rules, Zoning};

/// So many kinds of replicas may take turns before anything is found out twice.
const ZONINGS: usize = 16;

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
    /// What was found out about domains since nodes last changed, the last asked for first.
    zonings: RefCell<Vec<Arc<Zoning>>>,
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

    /// The domains of the nodes by these rules.
    pub fn zoning(&self, rules: Rules) -> Arc<Zoning> {
        let mut known = self.zonings.borrow_mut();
        let zoning = match known.iter().position(|zoning| zoning.rules == rules) {
            Some(at) => known.remove(at),
            None => Arc::new(Zoning::of(rules, &self.nodes)),
        };
        known.truncate(ZONINGS - 1);
        known.insert(0, zoning.clone());
        zoning
    }

    /// Takes a new or changed node and answers what was known of it before.
    pub fn set_node(&mut self, facts: NodeFacts) -> Option<Arc<NodeFacts>> {
        let facts = Arc::new(facts);
        if let Some(known) = self.node_mut(&facts.name) {
            let before = std::mem::replace(&mut known.facts, facts.clone());
            self.stale |= before.zone() != facts.zone();
            if before.labels != facts.labels || before.taints != facts.taints {
                self.zonings.get_mut().clear();
            }
            self.count_images(&before, -1);
            self.count_images(&facts, 1);
            return Some(before);
        }
        self.count_images(&facts, 1);
        let place = self.nodes.len();
        let mut node = NodeInfo { facts: facts.clone(), place, ..NodeInfo::default() };
        for (pod, group) in self.homeless.remove(&facts.name).unwrap_or_default() {
            self.groups.came(group, place, 1);
            node.add(pod, group);
        }
        self.index.insert(facts.name.clone(), place);
        self.nodes.push(node);
        self.zonings.get_mut().clear();
        self.stale = true;
        None
    }

    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let node = self.nodes.swap_remove(at);
        self.zonings.get_mut().clear();
        self.count_images(&node.facts, -1);
        node.groups.iter().for_each(|(group, pods)| self.groups.went(*group, at, *pods));
        if let Some(moved) = self.nodes.get_mut(at) {
            self.index.insert(moved.name().to_owned(), at);
            let before = std::mem::replace(&mut moved.place, at);
            for (group, pods) in &moved.groups {
                self.groups.went(*group, before, *pods);
                self.groups.came(*group, at, *pods);
            }
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
        match self.node_mut(&placed.node) {
            Some(node) => {
                node.remove(uid, placed.group);
                let place = node.place;
                self.groups.went(placed.group, place, 1);
            }
            None => self.remove_homeless(&placed.node, uid),
        }
        self.groups.leave(placed.group);
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
            Some(known) => {
                known.add(pod.clone(), group);
                let place = known.place;
                self.groups.came(group, place, 1);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cycle::Chance;
    use crate::pod_info::PodInfo;
    use crate::pod_terms::Spread;

    fn node(name: u64, zone: u64) -> NodeFacts {
        let labels = [("zone".to_owned(), format!("z{zone}"))].into();
        NodeFacts { name: format!("n{name}"), labels, ..NodeFacts::default() }
    }

    fn pod(uid: u64, node: u64, app: u64) -> Arc<PodInfo> {
        let labels = [("app".to_owned(), format!("a{app}"))].into();
        let node_name = Some(format!("n{node}"));
        Arc::new(PodInfo { uid: format!("p{uid}"), labels, node_name, ..PodInfo::default() })
    }

    /// What the groups say of where their pods are is what the nodes say.
    fn check(cache: &Cache) {
        for (place, node) in cache.nodes.iter().enumerate() {
            assert_eq!((node.place, cache.index[node.name()]), (place, place));
        }
        let mut counted = BTreeMap::new();
        let all = cache.nodes.iter().flat_map(|node| {
            node.groups.iter().map(|(group, pods)| ((*group, node.place), i64::from(*pods)))
        });
        counted.extend(all);
        let mut told = BTreeMap::new();
        for group in cache.pods.values().map(|placed| placed.group) {
            told.extend(cache.groups.places(group).map(|(place, pods)| ((group, place), pods)));
        }
        assert_eq!(told, counted);
    }

    #[test]
    fn groups_know_their_places_whatever_comes_and_goes() {
        for seed in 1..=100 {
            let mut chance = Chance(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(seed));
            let mut cache = Cache::default();
            for _ in 0..80 {
                let (name, uid) = (chance.below(6), chance.below(12));
                match chance.below(6) {
                    0 => drop(cache.set_node(node(name, chance.below(3)))),
                    1 => cache.remove_node(&format!("n{name}")),
                    2 => drop(cache.remove_pod(&format!("p{uid}"))),
                    // Also on nodes that are not there (yet).
                    _ => cache.set_pod(pod(uid, name, chance.below(3))),
                }
                check(&cache);
            }
        }
    }

    #[test]
    fn a_node_that_changes_zone_changes_domains_that_were_found_out_before() {
        let mut cache = Cache::default();
        (0..3).for_each(|name| drop(cache.set_node(node(name, name % 2))));
        let spread = Spread::preferred("zone", 1);
        let domains = |cache: &Cache| {
            let zoning = cache.zoning(Rules::of(&spread, Vec::new(), &PodInfo::default()));
            let of_nodes: Vec<_> = cache.nodes.iter().map(|node| zoning.domain(node)).collect();
            (zoning.len(), of_nodes)
        };
        assert_eq!(domains(&cache), (2, vec![Some(0), Some(1), Some(0)]));
        cache.set_node(node(2, 7));
        assert_eq!(domains(&cache), (3, vec![Some(0), Some(1), Some(2)]));
        cache.remove_node("n0");
        assert_eq!(domains(&cache), (2, vec![Some(0), Some(1)]));
    }
}
