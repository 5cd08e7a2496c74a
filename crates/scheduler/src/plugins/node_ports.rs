//! NodePorts: two pods of a node never take the same host port.
//!
//! Counterpart: `plugins/nodeports`.

use crate::framework::{
    ClusterEvent, Cycle, EventKind, Filter, Plugin, PreFilter, Reasons, Verdict,
};
use crate::node_info::NodeInfo;
use crate::pod_info::{HostPort, PodInfo};

pub struct NodePorts;

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        if cycle.pod.ports.is_empty() {
            return PreFilter::Skip;
        }
        PreFilter::Check(Box::new(FreePorts(&cycle.pod.ports)))
    }

    fn hears(&self) -> &'static [EventKind] {
        &[EventKind::NodeAdded, EventKind::PodLeft]
    }

    fn may_help(&self, pod: &PodInfo, event: &ClusterEvent) -> bool {
        match event {
            ClusterEvent::NodeAdded(node) => free(&pod.ports, &node.ports),
            ClusterEvent::PodLeft(left) => !free(&pod.ports, &left.ports),
            _ => false,
        }
    }
}

struct FreePorts<'a>(&'a [HostPort]);

impl Filter for FreePorts<'_> {
    fn check(&self, node: &NodeInfo, reasons: &mut Reasons) -> Verdict {
        if free(self.0, &node.ports) {
            return Verdict::Fits;
        }
        reasons.add("node(s) didn't have free ports for the requested pod ports");
        Verdict::Unschedulable
    }
}

fn free(wanted: &[HostPort], taken: &[HostPort]) -> bool {
    !wanted.iter().any(|port| taken.iter().any(|other| port.conflicts(other)))
}
