//! `nodeSelector` and node affinity: required terms filter, preferred terms score by weight.

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, Plugin, Reason, Reasons, normalize_by_largest};
use crate::pod_info::{self, PodInfo};

pub struct NodeAffinity;

struct Opinion<'a>(&'a pod_info::NodeAffinity);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeLabels]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        let affinity = &pod.node_affinity;
        let silent = affinity.selector.is_empty()
            && affinity.required.is_none()
            && affinity.preferred.is_empty();
        Ok((!silent).then(|| Box::new(Opinion(affinity)) as Box<dyn Judge>))
    }
}

impl Judge for Opinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        match matches(self.0, node) {
            true => Ok(()),
            false => Err("node(s) didn't match Pod's node affinity/selector".into()),
        }
    }

    fn score(&self, node: &NodeInfo) -> i64 {
        let wanted =
            self.0.preferred.iter().filter(|(_, term)| term.matches(&node.name, &node.labels));
        wanted.map(|(weight, _)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize_by_largest(scores, false);
    }
}

/// Whether a node is one of those the pod asks for.
pub fn matches(affinity: &pod_info::NodeAffinity, node: &NodeInfo) -> bool {
    let any = |terms: &Vec<crate::selectors::NodeTerm>| {
        terms.iter().any(|term| term.matches(&node.name, &node.labels))
    };
    affinity.selector.matches(&node.labels) && affinity.required.as_ref().is_none_or(any)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    #[test]
    fn required_filters_and_preferred_scores() {
        let nodes = cluster(
            &[
                "{metadata: {name: a, labels: {zone: a, disk: ssd}}}",
                "{metadata: {name: b, labels: {zone: b, disk: ssd}}}",
            ],
            &[],
        );
        let pod = |affinity: &str| format!("{{spec: {{containers: [], {affinity}}}}}");
        let choose = |affinity: &str| choose(&[&NodeAffinity], &nodes, &pod(affinity));
        assert_eq!(choose("nodeSelector: {zone: b}").unwrap(), "b");
        let required = "affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [
            {matchExpressions: [{key: zone, operator: In, values: [c]}]},
            {matchExpressions: [{key: zone, operator: NotIn, values: [b]}]}]}}}";
        assert_eq!(choose(required).unwrap(), "a");
        let preferred = "affinity: {nodeAffinity: {preferredDuringSchedulingIgnoredDuringExecution: [
            {weight: 10, preference: {matchExpressions: [{key: zone, operator: In, values: [a]}]}},
            {weight: 50, preference: {matchExpressions: [{key: zone, operator: In, values: [b]}]}}]}}";
        assert_eq!(choose(preferred).unwrap(), "b");
        assert_eq!(
            choose("nodeSelector: {zone: z}").unwrap_err(),
            "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
        );
    }
}
