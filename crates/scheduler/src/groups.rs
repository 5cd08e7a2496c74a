//! Pods that are alike to their neighbours, as one number: same namespace, labels and wishes, all staying or all going.
//!
//! Counting the pods of a node that match a selector is then a look at the few groups on it, and finding all pods that match
//! a look at where the matching groups are; the selector is tried once per group and cycle. Upstream tries every pod of every
//! node. Invariant: a group's number is given out again only when its last pod is gone, and its places are those of the cache.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use skiff_api::scheduling::Labels;

use crate::pod_info::PodInfo;
use crate::pod_terms::PodAffinity;

pub type GroupId = u32;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Group {
    pub namespace: String,
    pub labels: Labels,
    pub terminating: bool,
    pub affinity: PodAffinity,
}

#[derive(Default)]
pub struct Groups {
    ids: HashMap<Arc<Group>, GroupId>,
    /// By id.
    known: Vec<Known>,
    free: Vec<GroupId>,
    /// Those with affinity terms of their own; usually none.
    with_affinity: BTreeSet<GroupId>,
}

struct Known {
    group: Arc<Group>,
    /// How many pods are in it, those included whose node is not known.
    pods: usize,
    /// How many of them are on which node, by its place.
    places: HashMap<usize, u32>,
}

// === impl Groups ===

impl Groups {
    /// The group of a pod that is placed now; given back by `leave`.
    pub fn join(&mut self, pod: &PodInfo) -> GroupId {
        let group = Group {
            namespace: pod.namespace.clone(),
            labels: pod.labels.clone(),
            terminating: pod.terminating,
            affinity: pod.affinity.clone(),
        };
        if let Some(id) = self.ids.get(&group) {
            self.known[*id as usize].pods += 1;
            return *id;
        }
        let group = Arc::new(group);
        let id = self.free.pop().unwrap_or(self.known.len() as GroupId);
        let known = Known { group: group.clone(), pods: 1, places: HashMap::new() };
        match self.known.get_mut(id as usize) {
            Some(slot) => *slot = known,
            None => self.known.push(known),
        }
        if !group.affinity.is_empty() {
            self.with_affinity.insert(id);
        }
        self.ids.insert(group, id);
        id
    }

    pub fn leave(&mut self, id: GroupId) {
        let known = &mut self.known[id as usize];
        known.pods -= 1;
        if known.pods == 0 {
            self.ids.remove(&known.group);
            self.with_affinity.remove(&id);
            self.free.push(id);
        }
    }

    /// Pods of the group came to the node at a place.
    pub fn came(&mut self, id: GroupId, place: usize, pods: u32) {
        *self.known[id as usize].places.entry(place).or_default() += pods;
    }

    /// Pods of the group left it; to be said before the last of them leaves the group.
    pub fn went(&mut self, id: GroupId, place: usize, pods: u32) {
        let places = &mut self.known[id as usize].places;
        if let Some(there) = places.get_mut(&place) {
            *there -= pods;
            if *there == 0 {
                places.remove(&place);
            }
        }
    }

    /// Where the pods of a group are.
    pub fn places(&self, id: GroupId) -> impl Iterator<Item = (usize, i64)> {
        self.known[id as usize].places.iter().map(|(place, pods)| (*place, i64::from(*pods)))
    }

    pub fn with_affinity(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.with_affinity.iter().map(|id| (*id, &*self.known[*id as usize].group))
    }

    /// Which groups a test is true of, found out as they are met.
    pub fn matching<'a>(&'a self, test: impl Fn(&Group) -> bool + 'a) -> Matching<'a> {
        let verdicts = RefCell::new(vec![None; self.known.len()]);
        Matching { groups: self, test: Box::new(test), verdicts }
    }
}

pub struct Matching<'a> {
    groups: &'a Groups,
    test: Box<dyn Fn(&Group) -> bool + 'a>,
    verdicts: RefCell<Vec<Option<bool>>>,
}

// === impl Matching ===

impl Matching<'_> {
    pub fn has(&self, id: GroupId) -> bool {
        let at = id as usize;
        if let Some(known) = self.verdicts.borrow()[at] {
            return known;
        }
        let verdict = (self.test)(&self.groups.known[at].group);
        self.verdicts.borrow_mut()[at] = Some(verdict);
        verdict
    }

    /// Where the pods of all matching groups are; a place may come several times.
    pub fn places(&self) -> impl Iterator<Item = (usize, i64)> {
        let ids = 0..self.groups.known.len() as GroupId;
        // Numbers that are free now have no places.
        let with_pods = ids.filter(|id| !self.groups.known[*id as usize].places.is_empty());
        with_pods.filter(|id| self.has(*id)).flat_map(|id| self.groups.places(id))
    }

    /// How many of the pods counted by group are in a matching one.
    pub fn count(&self, pods: &[(GroupId, u32)]) -> i64 {
        pods.iter().filter(|(id, _)| self.has(*id)).map(|(_, pods)| i64::from(*pods)).sum()
    }
}
