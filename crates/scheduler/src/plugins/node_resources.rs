//! Resources: `Fit` filters by what is left and prefers the emptier node; `BalancedAllocation` prefers nodes whose cpu
//! and memory stay used to the same degree.

use std::borrow::Cow;

use crate::cluster::{Cluster, ClusterEvent, NodeInfo};
use crate::framework::{Judge, MAX_SCORE, Plugin, Reason, Reasons};
use crate::pod_info::PodInfo;

pub struct Fit;
pub struct BalancedAllocation;

struct FitOpinion<'a>(&'a PodInfo);
struct BalanceOpinion<'a>(&'a PodInfo);

impl Plugin for Fit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[ClusterEvent::NodeAdded, ClusterEvent::NodeAllocatable, ClusterEvent::PodRemoved]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        Ok(Some(Box::new(FitOpinion(pod))))
    }
}

impl Judge for FitOpinion<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Reasons> {
        let (want, have, used) = (&self.0.requests, &node.allocatable, &node.requested);
        // Nothing asked of a resource is always there, even on a node that has promised too much already.
        let short = |want: i64, have: i64, used: i64| want > 0 && want > have - used;
        let too_many = i64::try_from(node.pods.len()).unwrap_or(i64::MAX) >= node.allowed_pods;
        let checks = [
            (too_many, "Too many pods"),
            (short(want.milli_cpu, have.milli_cpu, used.milli_cpu), "Insufficient cpu"),
            (short(want.memory, have.memory, used.memory), "Insufficient memory"),
            (
                short(want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage),
                "Insufficient ephemeral-storage",
            ),
        ];
        let missing = |name: &str, want: i64| short(want, have.scalar(name), used.scalar(name));
        let scalar_short = want.scalar.iter().any(|(name, want)| missing(name, *want));
        if !scalar_short && checks.iter().all(|(short, _)| !short) {
            return Ok(());
        }
        let known =
            checks.into_iter().filter(|(short, _)| *short).map(|(_, reason)| Cow::Borrowed(reason));
        let scalar = want.scalar.iter().filter(|(name, want)| missing(name, *want));
        Err(Reasons::Many(
            known.chain(scalar.map(|(name, _)| format!("Insufficient {name}").into())).collect(),
        ))
    }

    /// Least allocated: the mean share of cpu and memory that is free with the pod on the node.
    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |(used, have): (i64, i64)| {
            if have == 0 || used > have { 0 } else { (have - used) * MAX_SCORE / have }
        };
        let [cpu, memory] = usage_with(self.0, node).map(free);
        (cpu + memory) / 2
    }
}

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn retry_on(&self) -> &'static [ClusterEvent] {
        &[]
    }

    fn judge<'a>(
        &self,
        pod: &'a PodInfo,
        _: &'a Cluster,
    ) -> Result<Option<Box<dyn Judge + 'a>>, Reason> {
        // Balance is about what the pod asks for; best-effort pods have no opinion.
        let asks = pod.requests.milli_cpu > 0 || pod.requests.memory > 0;
        Ok(asks.then(|| Box::new(BalanceOpinion(pod)) as Box<dyn Judge>))
    }
}

impl Judge for BalanceOpinion<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let share = |(used, have): (i64, i64)| {
            if have == 0 { 0.0 } else { (used as f64 / have as f64).min(1.0) }
        };
        let [cpu, memory] = usage_with(self.0, node).map(share);
        // The standard deviation of two values is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
    }
}

/// Used and allocatable cpu and memory, counting the pod in.
fn usage_with(pod: &PodInfo, node: &NodeInfo) -> [(i64, i64); 2] {
    let (used, more) = (&node.scoring_requested, &pod.scoring_requests);
    [
        (used.milli_cpu.saturating_add(more.milli_cpu), node.allocatable.milli_cpu),
        (used.memory.saturating_add(more.memory), node.allocatable.memory),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::testing::{choose, cluster};
    use super::*;

    fn node(name: &str, allocatable: &str) -> String {
        format!("{{metadata: {{name: {name}}}, status: {{allocatable: {allocatable}}}}}")
    }

    fn pod(requests: &str) -> String {
        format!("{{spec: {{containers: [{{name: c, resources: {{requests: {requests}}}}}]}}}}")
    }

    #[test]
    fn shortages_are_named() {
        let nodes = cluster(
            &[&node("n", "{cpu: 1, memory: 1Gi, pods: 2, example.com/gpu: 1}")],
            &[("n", &pod("{cpu: 600m, example.com/gpu: 1}"))],
        );
        let check = |requests: &str| choose(&[&Fit], &nodes, &pod(requests));
        assert!(check("{cpu: 400m, memory: 1Gi}").is_ok());
        assert_eq!(
            check("{cpu: 500m}").unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu."
        );
        assert_eq!(
            check("{cpu: 2, memory: 2Gi, example.com/gpu: 1}").unwrap_err(),
            "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory."
        );
    }

    #[test]
    fn full_nodes_say_so() {
        let nodes = cluster(&[&node("n", "{cpu: 1, memory: 1Gi, pods: 1}")], &[("n", &pod("{}"))]);
        assert_eq!(
            choose(&[&Fit], &nodes, &pod("{}")).unwrap_err(),
            "0/1 nodes are available: 1 Too many pods."
        );
    }

    #[test]
    fn the_emptier_node_wins() {
        let size = "{cpu: 4, memory: 8Gi, pods: 110}";
        let nodes = cluster(
            &[&node("busy", size), &node("idle", size)],
            &[("busy", &pod("{cpu: 1, memory: 1Gi}"))],
        );
        assert_eq!(choose(&[&Fit], &nodes, &pod("{cpu: 1, memory: 1Gi}")).unwrap(), "idle");
    }

    #[test]
    fn balance_prefers_the_node_that_stays_even() {
        let nodes = cluster(
            &[&node("even", "{cpu: 4, memory: 4Gi}"), &node("lopsided", "{cpu: 4, memory: 32Gi}")],
            &[],
        );
        assert_eq!(
            choose(&[&BalancedAllocation], &nodes, &pod("{cpu: 2, memory: 2Gi}")).unwrap(),
            "even"
        );
    }
}
