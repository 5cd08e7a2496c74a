//! Keeps pods off cordoned nodes, unless they tolerate the `unschedulable` taint.

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, Plugin, Reason, Reasons};
use crate::plugins::taint_toleration::tolerates;
use crate::pod_info::PodInfo;

pub struct NodeUnschedulable;

struct Opinion;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeTaints]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        let taint = k8s_openapi::api::core::v1::Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        };
        let tolerated = tolerates(&pod.tolerations, &taint);
        Ok((!tolerated).then(|| Box::new(Opinion) as Box<dyn Judge>))
    }
}

impl Judge for Opinion {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        if node.unschedulable { Err("node(s) were unschedulable".into()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn cordoned_nodes_take_only_who_tolerates() {
        let nodes = cluster(&["{metadata: {name: n}, spec: {unschedulable: true}}"], &[]);
        let rejected = choose(&[&NodeUnschedulable], &nodes, "{spec: {containers: []}}");
        assert_eq!(rejected.unwrap_err(), "0/1 nodes are available: 1 node(s) were unschedulable.");
        let daemon = "{spec: {containers: [], tolerations: [{key: node.kubernetes.io/unschedulable, operator: Exists}]}}";
        assert_eq!(choose(&[&NodeUnschedulable], &nodes, daemon).unwrap(), "n");
    }
}
