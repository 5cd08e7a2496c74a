//! Pods that are alike to their neighbours, as one number: same namespace, labels and wishes, all staying or all going.
//!
//! Counting the pods of a node that match a selector is then a look at the few groups on it, and the selector is tried
//! once per group and cycle instead of once per pod. Upstream tries every pod of every node.
//! Invariant: a group's number is given out again only when its last pod is gone.

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
    /// By id, with how many pods are in it.
    known: Vec<(Arc<Group>, usize)>,
    free: Vec<GroupId>,
    /// Those with affinity terms of their own; usually none.
    with_affinity: BTreeSet<GroupId>,
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
            self.known[*id as usize].1 += 1;
            return *id;
        }
        let group = Arc::new(group);
        let id = self.free.pop().unwrap_or(self.known.len() as GroupId);
        match self.known.get_mut(id as usize) {
            Some(slot) => *slot = (group.clone(), 1),
            None => self.known.push((group.clone(), 1)),
        }
        if !group.affinity.is_empty() {
            self.with_affinity.insert(id);
        }
        self.ids.insert(group, id);
        id
    }

    pub fn leave(&mut self, id: GroupId) {
        let (group, pods) = &mut self.known[id as usize];
        *pods -= 1;
        if *pods == 0 {
            self.ids.remove(group);
            self.with_affinity.remove(&id);
            self.free.push(id);
        }
    }

    /// One more than the highest number given out.
    pub fn bound(&self) -> usize {
        self.known.len()
    }

    pub fn with_affinity(&self) -> impl Iterator<Item = (GroupId, &Group)> {
        self.with_affinity.iter().map(|id| (*id, &*self.known[*id as usize].0))
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
        let verdict = (self.test)(&self.groups.known[at].0);
        self.verdicts.borrow_mut()[at] = Some(verdict);
        verdict
    }

    /// How many of the pods counted by group are in a matching one.
    pub fn count(&self, pods: &[(GroupId, u32)]) -> i64 {
        pods.iter().filter(|(id, _)| self.has(*id)).map(|(_, pods)| i64::from(*pods)).sum()
    }
}
