//! A pod that names its node fits that node only.

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, Plugin, Reason, Reasons};
use crate::pod_info::PodInfo;

pub struct NodeName;

struct Opinion<'a>(&'a str);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        Ok(pod.node_name.as_deref().map(|name| Box::new(Opinion(name)) as Box<dyn Judge>))
    }
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        if node.name == self.0 {
            Ok(())
        } else {
            Err("node(s) didn't match the requested node name".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn the_named_node_or_none() {
        let nodes = cluster(&["{metadata: {name: a}}", "{metadata: {name: b}}"], &[]);
        assert_eq!(
            choose(&[&NodeName], &nodes, "{spec: {nodeName: b, containers: []}}").unwrap(),
            "b"
        );
        assert!(choose(&[&NodeName], &nodes, "{spec: {nodeName: c, containers: []}}").is_err());
    }
}
