//! What a plugin is, and what it is given: the contract between the scheduling cycle and `plugins/`.
//!
//! A plugin looks at the pod once and answers with a `Filter` and a `Score` made for it; those are then asked about
//! one node after another. Counterpart: `kube-scheduler/framework`. Differs from upstream: what a plugin prepares is
//! the value it returns, so there is no shared CycleState and skipping is answering `None`.
//! Invariant: filters and scores of a cycle see one unchanging cache.

use std::borrow::Cow;

use crate::cache::Cache;
use crate::extenders::Verdicts;
use crate::listers::Listers;
use crate::node_info::{NodeFacts, NodeInfo};
use crate::nominations::Nominations;
use crate::pod_info::PodInfo;
use crate::profile::Profile;

pub const MAX_SCORE: i64 = 100;

/// One attempt to place one pod.
#[derive(Clone, Copy)]
pub struct Cycle<'a> {
    pub pod: &'a PodInfo,
    pub cache: &'a Cache,
    pub listers: &'a Listers,
    pub nominations: &'a Nominations,
    pub profile: &'a Profile,
    pub extension: Extension<'a>,
}

/// What extenders have to do with a cycle.
#[derive(Clone, Copy, Default)]
pub struct Extension<'a> {
    pub nodes: Judgement<'a>,
    /// Whether they want to agree to the victims of a preemption.
    pub victims: bool,
}

/// How far the extenders are with the nodes that fit.
#[derive(Clone, Copy, Default)]
pub enum Judgement<'a> {
    /// No extender cares.
    #[default]
    Unneeded,
    /// The nodes that fit are to be put to them.
    Wanted,
    Given(&'a Verdicts),
}

/// Contract: stateless; `filter` and `score` are called once per cycle and may cost a pass over the cache, what they
/// return is called once per node and must not allocate for a node that fits.
pub trait Plugin: Sync {
    /// Upstream's name, as configuration and the message about a pod that fits nowhere use it.
    fn name(&self) -> &'static str;

    /// PreEnqueue: why the pod must not be tried at all yet.
    fn pre_enqueue(&self, _pod: &PodInfo, _listers: &Listers) -> Result<(), Gated> {
        Ok(())
    }

    /// PreFilter: `Skip` when every node will do as far as this plugin cares.
    fn filter<'a>(&self, _cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Skip
    }

    /// How much its score counts; upstream's default profile.
    fn weight(&self) -> i64 {
        1
    }

    /// PreScore: `None` when every node is equally good as far as this plugin cares.
    fn score<'a>(
        &self,
        _cycle: Cycle<'a>,
        _feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn Score + 'a>> {
        None
    }

    /// What can help a pod that this plugin turned away; counterpart: EventsToRegister.
    fn hears(&self) -> &'static [EventKind] {
        &[]
    }

    /// Queueing hint: whether a pod that this plugin turned away may fit after the event, one that it `hears`. Wrongly
    /// true costs an attempt, wrongly false leaves the pod waiting.
    fn may_help(&self, _pod: &PodInfo, _event: &ClusterEvent) -> bool {
        false
    }
}

pub enum PreFilter<'a> {
    Skip,
    Check(Box<dyn Filter + 'a>),
    /// No node will do.
    Reject(Cow<'static, str>),
}

pub trait Filter {
    /// Whether the pod can be on the node; if not, tells every reason.
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict;

    /// The only nodes worth a check, when they are few and known by name.
    fn only(&self) -> Option<&[&str]> {
        None
    }

    /// What if the pod came to the node (`by` 1) or left it (-1). For filters that look beyond the node they are asked
    /// about; counterpart: PreFilterExtensions.
    fn shift(&mut self, _pod: &PodInfo, _node: &NodeInfo, _by: i64) {}
}

pub trait Score {
    /// Any number; `normalise` brings the numbers of all nodes into 0..=MAX_SCORE.
    fn score(&self, node: &NodeInfo) -> i64;

    fn normalise(&self, _scores: &mut [i64], _nodes: &[&NodeInfo]) {}
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Fits,
    /// Fewer pods on the node could make it fit.
    Unschedulable,
    /// No eviction would help.
    Unresolvable,
}

/// The pod waits for somebody to lift a gate, or to make something that it names.
#[derive(Debug, PartialEq)]
pub struct Gated;

/// How many nodes gave each reason. A reason that is a constant costs no allocation.
#[derive(Debug, Default)]
pub struct Reasons(Vec<(Cow<'static, str>, usize)>);

// === impl Reasons ===

impl Reasons {
    pub fn add(&mut self, reason: impl Into<Cow<'static, str>>) {
        self.add_many(reason, 1);
    }

    pub fn add_many(&mut self, reason: impl Into<Cow<'static, str>>, nodes: usize) {
        let reason = reason.into();
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, known)) => *known += nodes,
            None => self.0.push((reason, nodes)),
        }
    }

    /// Upstream's order: sorted as text, counts included.
    pub fn sentence(&self) -> String {
        let mut parts: Vec<_> =
            self.0.iter().map(|(reason, nodes)| format!("{nodes} {reason}")).collect();
        parts.sort();
        parts.join(", ")
    }
}

/// Something changed that may let a waiting pod fit.
#[derive(Clone, Copy, Debug)]
pub enum ClusterEvent<'a> {
    NodeAdded(&'a NodeInfo),
    NodeUpdated {
        before: &'a NodeFacts,
        now: &'a NodeInfo,
    },
    /// A placed pod came, or its labels changed.
    PodPlaced(&'a PodInfo),
    /// A placed pod went, ended or shrank.
    PodLeft(&'a PodInfo),
    /// A placed pod was asked to go, and still holds what it has.
    PodTerminating(&'a PodInfo),
    /// The waiting pod itself was changed.
    PodUpdated,
    /// A ResourceClaim came, changed or went; `frees`: there may be devices now for others than those who name it.
    ResourceClaim {
        namespace: &'a str,
        name: &'a str,
        frees: bool,
    },
    /// An object of a kind that is only looked up came, changed or went.
    Changed(EventKind),
}

/// What plugins can ask to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    NodeAdded,
    NodeUpdated,
    PodPlaced,
    PodLeft,
    PodTerminating,
    PodUpdated,
    Namespace,
    VolumeClaim,
    Volume,
    StorageClass,
    CsiNode,
    CsiDriver,
    StorageCapacity,
    VolumeAttachment,
    ResourceClaim,
    ResourceSlice,
    DeviceClass,
}

// === impl ClusterEvent ===

impl<'a> ClusterEvent<'a> {
    /// The node that appeared or changed, if that is what happened.
    pub fn node(&self) -> Option<&'a NodeInfo> {
        match self {
            ClusterEvent::NodeAdded(node) | ClusterEvent::NodeUpdated { now: node, .. } => {
                Some(node)
            }
            _ => None,
        }
    }

    pub fn kind(&self) -> EventKind {
        match self {
            ClusterEvent::NodeAdded(_) => EventKind::NodeAdded,
            ClusterEvent::NodeUpdated { .. } => EventKind::NodeUpdated,
            ClusterEvent::PodPlaced(_) => EventKind::PodPlaced,
            ClusterEvent::PodLeft(_) => EventKind::PodLeft,
            ClusterEvent::PodTerminating(_) => EventKind::PodTerminating,
            ClusterEvent::PodUpdated => EventKind::PodUpdated,
            ClusterEvent::ResourceClaim { .. } => EventKind::ResourceClaim,
            ClusterEvent::Changed(kind) => *kind,
        }
    }
}

// === impl EventKind ===

impl EventKind {
    /// One more than the highest of them, for tables.
    pub const COUNT: usize = EventKind::DeviceClass as usize + 1;
}

/// Brings scores to 0..=MAX_SCORE in proportion to the highest; `reverse` makes the lowest the best.
pub fn normalise_to_highest(scores: &mut [i64], reverse: bool) {
    let highest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let scaled = if highest == 0 { 0 } else { *score * MAX_SCORE / highest };
        *score = if reverse { MAX_SCORE - scaled } else { scaled };
    }
}
