//! NodeUnschedulable: a cordoned node takes only pods that tolerate the cordon.
//!
//! Counterpart: `plugins/nodeunschedulable`.

use k8s_openapi::api::core::v1::Taint;

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        if cycle.pod.tolerates(&cordon()) {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(NotCordoned))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded, EventKind::NodeUpdated, EventKind::PodUpdated]
    }

    fn may_help(&self, _: &PodInfo, event: &ClusterEvent) -> bool {
        event.node().is_some_and(|node| !node.facts.unschedulable)
            || matches!(event, ClusterEvent::PodUpdated)
    }
}

struct NotCordoned;

impl Filter for NotCordoned {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if !node.facts.unschedulable {
            return Verdict::Fits;
        }
        reasons.add("node(s) were unschedulable");
        Verdict::Unresolvable
    }
}

/// The taint that a cordon stands for.
fn cordon() -> Taint {
    Taint {
        key: "node.kubernetes.io/unschedulable".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    }
}
