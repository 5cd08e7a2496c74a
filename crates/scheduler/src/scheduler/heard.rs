//! What the task hears, from watches and from what it started itself, and what that changes in its picture.
//!
//! Events -> cache, listers and queue. Counterpart: `eventhandlers.go`.
//! Invariant: a kind counts as known once its whole state came, never before.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::Resource;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use super::{AwaitingClaims, BindError, Scheduler};
use crate::devices::ClaimInfo;
use crate::extenders::{ExtenderError, Verdicts};
use crate::framework::{ClusterEvent, EventKind};
use crate::informer::Change;
use crate::listers::Listed;
use crate::node_info::NodeFacts;
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;
use crate::watches::ListerChange;

/// Everything the task reacts to.
pub enum Event {
    Pods(Change<Arc<PodInfo>>),
    Nodes(Change<NodeFacts>),
    ResourceClaims(Change<Listed<ClaimInfo>>),
    /// A kind that is only looked up.
    Listed(ListerChange),
    /// What a pod's claims need has been asked for.
    ClaimsSettled {
        pod: Arc<PodInfo>,
        node: String,
    },
    /// The victims of a preemption were asked to go, or that failed.
    Preempted {
        pod: Arc<PodInfo>,
        asked: bool,
    },
    /// Extenders said what they make of the nodes that fit.
    NodesJudged {
        pod: Arc<PodInfo>,
        outcome: Result<Verdicts, ExtenderError>,
    },
    /// Extenders said which victims they agree to; `message` is why the pod fits nowhere.
    VictimsJudged {
        pod: Arc<PodInfo>,
        message: String,
        outcome: Result<Vec<Candidate>, ExtenderError>,
    },
    /// A binding ended.
    Bound {
        pod: Arc<PodInfo>,
        node: String,
        outcome: Result<(), BindError>,
    },
}

impl Scheduler {
    pub(super) fn apply(&mut self, event: Event) {
        match event {
            Event::Pods(change) => self.apply_pods(change),
            Event::Nodes(change) => self.apply_nodes(change),
            Event::ResourceClaims(change) => self.apply_resource_claims(change),
            Event::Listed(change) => self.apply_listed(change),
            Event::ClaimsSettled { pod, node } => {
                let until = Instant::now() + self.claims_timeout(&pod);
                self.awaiting_claims.push(AwaitingClaims { pod, node, until });
                self.bind_settled();
            }
            Event::Preempted { pod, asked } => {
                self.queue.preempted(&pod.uid, asked, Instant::now());
            }
            Event::NodesJudged { pod, outcome } => self.nodes_judged(&pod, outcome),
            Event::VictimsJudged { pod, message, outcome } => {
                self.victims_judged(&pod, message, outcome);
            }
            Event::Bound { pod, node, outcome } => self.bound(&pod, &node, outcome),
        }
    }

    fn apply_listed(&mut self, change: ListerChange) {
        (change.apply)(&mut self.listers);
        if change.whole {
            self.complete.insert(change.kind);
        }
        let Some(kind) = change.tells else { return };
        if matches!(kind, EventKind::VolumeClaim | EventKind::Volume) {
            self.bind_settled();
        }
        self.queue.happened(&ClusterEvent::Changed(kind), Instant::now());
    }

    /// How long a pod's claims may take to get their volumes.
    fn claims_timeout(&self, pod: &PodInfo) -> Duration {
        let profile = self.profile(pod).map(|at| &self.profiles[at]);
        profile.map_or(Duration::ZERO, |profile| profile.args.volume_binding.bind_timeout)
    }

    fn apply_pods(&mut self, change: Change<Arc<PodInfo>>) {
        match change {
            Change::Set(pod) => self.set_pod(pod),
            Change::Deleted(pod) => self.remove_pod(&pod.uid),
            Change::Replaced(pods) => {
                self.replace_pods(pods);
                self.complete.insert(Pod::KIND.into());
            }
        }
    }

    fn apply_nodes(&mut self, change: Change<NodeFacts>) {
        match change {
            Change::Set(node) => self.set_node(node),
            Change::Deleted(node) => self.cache.remove_node(&node.name),
            Change::Replaced(nodes) => {
                self.replace_nodes(nodes);
                self.complete.insert(Node::KIND.into());
            }
        }
    }

    fn set_pod(&mut self, pod: Arc<PodInfo>) {
        if pod.finished {
            return self.remove_pod(&pod.uid);
        }
        if pod.node_name.is_some() {
            return self.set_placed(pod);
        }
        let ours = self.profile(&pod).is_some() && !pod.terminating;
        if !ours {
            self.nominations.remove(&pod.uid);
            return self.queue.remove(&pod.uid);
        }
        self.nominations.heard(&pod, self.queue.get(&pod.uid).map(Arc::as_ref));
        if !pod.gates.is_empty() {
            self.tell_unscheduled(
                &pod,
                "SchedulingGated",
                "Scheduling is blocked due to non-empty scheduling gates",
                None,
            );
        }
        self.queue.set(pod, &self.listers, Instant::now());
    }

    fn set_placed(&mut self, pod: Arc<PodInfo>) {
        self.queue.remove(&pod.uid);
        self.nominations.remove(&pod.uid);
        self.telling.remove(&pod.uid);
        let before = self.cache.pod(&pod.uid).cloned();
        self.cache.set_pod(pod.clone());
        let now = Instant::now();
        match before {
            Some(before) if before.requests != pod.requests => {
                self.queue.happened(&ClusterEvent::PodLeft(&before), now);
            }
            Some(before) if before.terminating != pod.terminating => {
                self.queue.happened(&ClusterEvent::PodTerminating(&pod), now);
            }
            Some(before) if before.labels == pod.labels => {}
            _ => self.queue.happened(&ClusterEvent::PodPlaced(&pod), now),
        }
    }

    fn remove_pod(&mut self, uid: &str) {
        self.queue.remove(uid);
        // Others may have been turned away for what was promised to it.
        let promised = self.nominations.node_of(uid).is_some();
        self.nominations.remove(uid);
        if promised {
            self.queue.happened(&ClusterEvent::PodLeft(&PodInfo::default()), Instant::now());
        }
        self.telling.remove(uid);
        if let Some(pod) = self.cache.remove_pod(uid) {
            self.queue.happened(&ClusterEvent::PodLeft(&pod), Instant::now());
        }
    }

    fn replace_pods(&mut self, pods: Vec<Arc<PodInfo>>) {
        let present: HashSet<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
        // Assumed pods too: a list is never older than what made us place them, so one that it lacks is gone.
        let known = self.cache.uids().into_iter().chain(self.queue.uids());
        let gone: Vec<_> = known.filter(|uid| !present.contains(uid)).collect();
        gone.iter().for_each(|uid| self.remove_pod(uid));
        pods.into_iter().for_each(|pod| self.set_pod(pod));
    }

    fn set_node(&mut self, facts: NodeFacts) {
        let name = facts.name.clone();
        let before = self.cache.set_node(facts);
        let node = self.cache.node(&name).expect("it was just set");
        let event = match &before {
            None => ClusterEvent::NodeAdded(node),
            // A heartbeat: nothing that a plugin looks at.
            Some(before) if **before == *node.facts => return,
            Some(before) => ClusterEvent::NodeUpdated { before, now: node },
        };
        self.queue.happened(&event, Instant::now());
    }

    fn replace_nodes(&mut self, nodes: Vec<NodeFacts>) {
        let known: Vec<_> = self.cache.nodes().iter().map(|n| n.name().to_owned()).collect();
        for name in known.iter().filter(|name| !nodes.iter().any(|node| node.name == **name)) {
            self.cache.remove_node(name);
        }
        nodes.into_iter().for_each(|node| self.set_node(node));
    }
}
