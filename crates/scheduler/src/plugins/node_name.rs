//! NodeName: a pod that names its node goes nowhere else.
//!
//! Counterpart: `plugins/nodename`. A pod with `spec.nodeName` is bound already and never reaches a cycle; the plugin
//! keeps its place in the order for profiles that reuse the filters on bound pods.

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::node_info::NodeInfo;
use crate::pod_info::PodInfo;

pub struct NodeName;

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        match &cycle.pod.node_name {
            Some(name) => PreFilter::Check(Box::new(Named(name))),
            None => PreFilter::Skip,
        }
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        matches!(event, ClusterEvent::NodeAdded(node) if pod.node_name.as_deref() == Some(node.name()))
    }
}

struct Named<'a>(&'a str);

impl Filter for Named<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if node.name() == self.0 {
            return Verdict::Fits;
        }
        reasons.add("node(s) didn't match the requested node name");
        Verdict::Unresolvable
    }
}
