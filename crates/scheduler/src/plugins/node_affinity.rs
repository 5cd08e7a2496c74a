//! NodeAffinity: `nodeSelector` and required node affinity filter, preferred node affinity scores.
//!
//! Counterpart: `plugins/nodeaffinity`.

use skiff_api::scheduling::RequiredNodes;

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Score, Verdict,
    normalise_to_highest,
};
use crate::node_info::NodeInfo;
use crate::pod_info::{PodInfo, Preferred};

pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        let required = &cycle.pod.node_affinity;
        let added = &cycle.profile.args.added_affinity.required;
        if required.is_empty() && added.is_empty() {
            return PreFilter::Skip;
        }
        let only = required.only_names();
        if only.as_ref().is_some_and(Vec::is_empty) {
            return PreFilter::Reject("pod affinity terms conflict".into());
        }
        PreFilter::Check(Box::new(Selected { required, added, only }))
    }

    fn weight(&self) -> i64 {
        2
    }

    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let added = &cycle.profile.args.added_affinity.preferred;
        let preferred: Vec<_> = cycle.pod.preferred_nodes.iter().chain(added).collect();
        (!preferred.is_empty()).then(|| Box::new(PreferredNodes(preferred)) as Box<dyn Score>)
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded, EventKind::NodeUpdated, EventKind::PodUpdated]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        event.node().is_some_and(|node| selects(&pod.node_affinity, node))
            || matches!(event, ClusterEvent::PodUpdated)
    }
}

struct Selected<'a> {
    required: &'a RequiredNodes,
    /// What the profile asks of every pod's node.
    added: &'a RequiredNodes,
    only: Option<Vec<&'a str>>,
}

impl Filter for Selected<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if !selects(self.added, node) {
            reasons.add("node(s) didn't match scheduler-enforced node affinity");
            return Verdict::Unresolvable;
        }
        if selects(self.required, node) {
            return Verdict::Fits;
        }
        reasons.add("node(s) didn't match Pod's node affinity/selector");
        Verdict::Unresolvable
    }

    fn only(&self) -> Option<&[&str]> {
        self.only.as_deref()
    }
}

fn selects(required: &RequiredNodes, node: &NodeInfo) -> bool {
    required.matches(node.name(), &node.facts.labels)
}

struct PreferredNodes<'a>(Vec<&'a Preferred>);

impl Score for PreferredNodes<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let met = self.0.iter().filter(|p| p.term.matches(node.name(), &node.facts.labels));
        met.map(|preferred| preferred.weight).sum()
    }

    fn normalise(&self, scores: &mut [i64], _: &[&NodeInfo]) {
        normalise_to_highest(scores, false);
    }
}
