//! TaintToleration: no node whose hard taints the pod does not tolerate; fewer untolerated soft taints are better.
//!
//! Counterpart: `plugins/tainttoleration`.

use k8s_openapi::api::core::v1::{Taint, Toleration};
use skiff_api::scheduling::tolerates;

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Score, Verdict,
    normalise_to_highest,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        PreFilter::Check(Box::new(Tolerated(cycle.pod)))
    }

    fn weight(&self) -> i64 {
        3
    }

    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        Some(Box::new(SoftTaints(cycle.pod)))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded, EventKind::NodeUpdated, EventKind::PodUpdated]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        event.node().is_some_and(|node| untolerated(pod, node).is_none())
            || matches!(event, ClusterEvent::PodUpdated)
    }
}

struct Tolerated<'a>(&'a PodInfo);

impl Filter for Tolerated<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if untolerated(self.0, node).is_none() {
            return Verdict::Fits;
        }
        reasons.add("node(s) had untolerated taint(s)");
        Verdict::Unresolvable
    }
}

/// The first hard taint of the node that the pod does not tolerate.
pub fn untolerated<'a>(pod: &PodInfo, node: &'a NodeInfo) -> Option<&'a Taint> {
    untolerated_by(&pod.tolerations, node)
}

pub fn untolerated_by<'a>(tolerations: &[Toleration], node: &'a NodeInfo) -> Option<&'a Taint> {
    let hard = |taint: &&Taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute");
    let mut taints = node.facts.taints.iter().filter(hard);
    taints.find(|taint| !tolerations.iter().any(|toleration| tolerates(toleration, taint)))
}

struct SoftTaints<'a>(&'a PodInfo);

impl Score for SoftTaints<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = node.facts.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        soft.filter(|taint| !self.0.tolerates(taint)).count() as i64
    }

    fn normalise(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        normalise_to_highest(scores, true);
    }
}
