//! The next steps of a DaemonSet: one pod on every node it is for, none elsewhere.
//!
//! `Observed` in -> `Plan` out; an empty plan waits for something to change.
//! Counterpart: `podsShouldBeOnNode` and `rollingUpdate`. Pure.
//! Invariant: an update is thought of only when every node has what it should have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;

use super::nodes::{Fit, is_updated, node_of, spec};
use super::update;
use crate::pod;

/// A DaemonSet beside the nodes and what runs there of it.
pub struct Observed {
    pub set: Arc<DaemonSet>,
    /// Of the revision of the present template.
    pub hash: String,
    pub nodes: BTreeMap<String, Fit>,
    /// By node, those that have a node first, then the older ones first. Without those that ended and are on their way out.
    pub pods: BTreeMap<String, Vec<Arc<Pod>>>,
    /// Nodes whose pods failed so lately that the next try has to wait.
    pub waiting: BTreeSet<String>,
    pub now: Timestamp,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Pods that ended although daemons do not end; deleted as well, so that the next can come.
    pub ended: Vec<Arc<Pod>>,
}

pub fn plan(seen: &Observed) -> Plan {
    let mut plan = Plan::default();
    if seen.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    for (node, fit) in &seen.nodes {
        settle(seen, node, *fit, &mut plan);
    }
    plan.delete.extend(homeless(seen));
    if plan == Plan::default() && rolls(seen) {
        update::roll(seen, &mut plan);
    }
    plan
}

fn rolls(seen: &Observed) -> bool {
    let strategy = spec(&seen.set).update_strategy.as_ref();
    strategy.and_then(|strategy| strategy.type_.as_deref()) != Some("OnDelete")
}

// === impl Observed ===

impl Observed {
    pub fn new(set: Arc<DaemonSet>, hash: String, pods: Vec<Arc<Pod>>, now: Timestamp) -> Observed {
        let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
        for pod in
            pods.into_iter().filter(|pod| !(pod::is_terminating(pod) && pod::is_terminal(pod)))
        {
            if let Some(node) = node_of(&pod) {
                by_node.entry(node).or_default().push(pod);
            }
        }
        for pods in by_node.values_mut() {
            pods.sort_by(|a, b| seniority(a).cmp(&seniority(b)));
        }
        let (nodes, waiting) = (BTreeMap::new(), BTreeSet::new());
        Observed { set, hash, nodes, pods: by_node, waiting, now }
    }

    pub fn on(&self, node: &str) -> &[Arc<Pod>] {
        self.pods.get(node).map(Vec::as_slice).unwrap_or_default()
    }

    pub fn is_available(&self, pod: &Pod) -> bool {
        pod::is_available(pod, spec(&self.set).min_ready_seconds.unwrap_or(0), self.now)
    }

    pub fn is_updated(&self, pod: &Pod) -> bool {
        is_updated(&self.set, &self.hash, pod)
    }

    /// How many nodes should have a pod.
    pub fn desired(&self) -> i32 {
        let nodes = self.nodes.values().filter(|fit| **fit == Fit::Runs).count();
        i32::try_from(nodes).unwrap_or(i32::MAX)
    }
}

fn seniority(pod: &Pod) -> (bool, Option<Timestamp>, Option<&str>) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (pod::node_name(pod).is_none(), created, pod.metadata.name.as_deref())
}

fn settle(seen: &Observed, node: &str, fit: Fit, plan: &mut Plan) {
    let pods = seen.on(node);
    if fit == Fit::Runs && pods.is_empty() {
        plan.create.push(node.to_owned());
        return;
    }
    let staying = pods.iter().filter(|pod| !pod::is_terminating(pod));
    if fit == Fit::None {
        plan.delete.extend(staying.cloned());
        return;
    }
    let (ended, running): (Vec<_>, Vec<_>) = staying.partition(|pod| pod::is_terminal(pod));
    let held = |pod: &Pod| pod::phase(pod) == "Failed" && seen.waiting.contains(node);
    plan.ended.extend(ended.into_iter().filter(|pod| !held(pod)).cloned());
    if !update::surges(seen) {
        plan.delete.extend(running.into_iter().skip(1).cloned());
        return;
    }
    // While an update surges, the old pod may be ending where the new one is not there yet.
    if running.is_empty() && fit == Fit::Runs && !seen.waiting.contains(node) {
        plan.create.push(node.to_owned());
    }
    plan.delete.extend(doubles(seen, running));
}

/// Of each template one pod stays, and the old one goes when it is not ready or the new one is available.
fn doubles(seen: &Observed, running: Vec<&Arc<Pod>>) -> Vec<Arc<Pod>> {
    let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|pod| seen.is_updated(pod));
    let mut surplus: Vec<_> =
        new.iter().skip(1).chain(old.iter().skip(1)).map(|pod| (*pod).clone()).collect();
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pod::is_ready(old) || seen.is_available(new))
    {
        surplus.push((*old).clone());
    }
    surplus
}

/// Pods that wait for a node that is no more. Those that ran there are left to the collector of lost pods.
fn homeless(seen: &Observed) -> impl Iterator<Item = Arc<Pod>> {
    let lost = seen.pods.iter().filter(|(node, _)| !seen.nodes.contains_key(*node));
    let pods = lost.flat_map(|(_, pods)| pods.iter());
    pods.filter(|pod| pod::node_name(pod).is_none() && !pod::is_terminating(pod)).cloned()
}
