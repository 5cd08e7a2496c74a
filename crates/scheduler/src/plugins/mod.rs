//! The default profile: one file per plugin, and the one list that names them.

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod pod_topology_spread;
mod taint_toleration;
mod volume_binding;

use crate::framework::Plugin;

/// Order is meaning: filters run in this order and stop at the first rejection, so the cheapest and most telling come
/// first, and a node is counted under the first reason that applies.
pub const DEFAULT: &[&dyn Plugin] = &[
    &node_unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &node_resources::Fit,
    &volume_binding::VolumeBinding,
    &pod_topology_spread::PodTopologySpread,
    &inter_pod_affinity::InterPodAffinity,
    // These only score.
    &node_resources::BalancedAllocation,
    &image_locality::ImageLocality,
];

#[cfg(test)]
mod testing {
    use std::sync::Arc;

    use crate::cluster::Cluster;
    use crate::framework::{Framework, Plugin};
    use crate::pod_info::PodInfo;

    /// A cluster of nodes written as YAML, and pods placed on them as `(node, YAML)`.
    pub fn cluster(nodes: &[&str], placed: &[(&str, &str)]) -> Cluster {
        let mut cluster = Cluster::default();
        for node in nodes {
            cluster.set_node(&serde_saphyr::from_str(node).expect("a test node is valid YAML"));
        }
        for (at, (node, pod)) in placed.iter().enumerate() {
            let pod = PodInfo { uid: format!("placed-{at}"), ..info(pod) };
            cluster.place(Arc::new(pod), node);
        }
        cluster
    }

    pub fn info(pod: &str) -> PodInfo {
        let mut pod: k8s_openapi::api::core::v1::Pod =
            serde_saphyr::from_str(pod).expect("a test pod is valid YAML");
        pod.metadata.namespace.get_or_insert_with(|| "ns".into());
        PodInfo::new(&pod)
    }

    /// The node that a framework of these plugins alone chooses, or why none.
    pub fn choose(
        plugins: &'static [&'static dyn Plugin],
        cluster: &Cluster,
        pod: &str,
    ) -> Result<String, String> {
        Framework::new(plugins).schedule(&info(pod), cluster).map_err(|failure| failure.to_string())
    }
}
