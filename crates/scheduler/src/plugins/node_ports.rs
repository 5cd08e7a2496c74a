//! Two pods cannot share a host port on one node.

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, Plugin, Reason, Reasons};
use crate::pod_info::{HostPort, PodInfo};

pub struct NodePorts;

struct Opinion<'a>(&'a [HostPort]);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::PodRemoved]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        Ok((!pod.ports.is_empty()).then(|| Box::new(Opinion(&pod.ports)) as Box<dyn Judge>))
    }
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        let mut used = node.pods.iter().flat_map(|pod| &pod.ports);
        match used.any(|used| self.0.iter().any(|wanted| conflict(used, wanted))) {
            true => Err("node(s) didn't have free ports for the requested pod ports".into()),
            false => Ok(()),
        }
    }
}

/// Same port and protocol on the same address, where 0.0.0.0 is every address.
fn conflict(a: &HostPort, b: &HostPort) -> bool {
    const ANY: &str = "0.0.0.0";
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == ANY || b.ip == ANY)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn ports_conflict_by_address_and_protocol() {
        let pod = |port: &str| {
            format!(
                "{{spec: {{containers: [{{name: c, ports: [{{containerPort: 80, {port}}}]}}]}}}}"
            )
        };
        let fits = |used: &str, wanted: &str| {
            let nodes = cluster(&["{metadata: {name: n}}"], &[("n", &pod(used))]);
            choose(&[&NodePorts], &nodes, &pod(wanted)).is_ok()
        };
        assert!(!fits("hostPort: 80", "hostPort: 80"));
        assert!(!fits("hostPort: 80, hostIP: 10.0.0.1", "hostPort: 80"));
        assert!(fits("hostPort: 80, hostIP: 10.0.0.1", "hostPort: 80, hostIP: 10.0.0.2"));
        assert!(fits("hostPort: 80", "hostPort: 80, protocol: UDP"));
        assert!(fits("hostPort: 80", "hostPort: 81"));
    }
}
