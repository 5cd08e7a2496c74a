//! NodeResourcesBalancedAllocation: nodes whose CPU and memory would be used to the same degree are better.
//!
//! Counterpart: `plugins/noderesources/balanced_allocation.go`.

use crate::framework::{Cycle, MAX_SCORE, Plugin, Score};
use crate::node_info::NodeInfo;
use crate::profile::WeightedResource;
use skiff_api::scheduling::resources::Resources;

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// A pod that asks for none of the resources would balance nothing.
    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let (wanted, resources) = (&cycle.pod.requests.declared, &cycle.profile.args.balanced);
        let asks = resources.iter().any(|resource| wanted.amount(&resource.name) > 0);
        asks.then(|| Box::new(Balance { wanted, resources }) as Box<dyn Score>)
    }
}

struct Balance<'a> {
    wanted: &'a Resources,
    resources: &'a [WeightedResource],
}

impl Score for Balance<'_> {
    /// Compares the node's balance with the pod to the one without it; 75 means that nothing changes.
    fn score(&self, node: &NodeInfo) -> i64 {
        let with = self.balance(node, |name| self.wanted.amount(name));
        let without = self.balance(node, |_| 0);
        MAX_SCORE / 2 + (MAX_SCORE / 2 + with - without) / 2
    }
}

// === impl Balance ===

impl Balance<'_> {
    /// How little the taken shares of all resources deviate from their mean.
    fn balance(&self, node: &NodeInfo, more: impl Fn(&str) -> i64) -> i64 {
        let (all, used) = (&node.facts.allocatable, &node.requested);
        let share = |resource: &WeightedResource| {
            let name = resource.name.as_str();
            let all = all.amount(name);
            (all > 0).then(|| ((used.amount(name) + more(name)) as f64 / all as f64).min(1.0))
        };
        let (mut sum, mut squares, mut count) = (0.0, 0.0, 0.0);
        for share in self.resources.iter().filter_map(share) {
            (sum, squares, count) = (sum + share, squares + share * share, count + 1.0);
        }
        if count < 2.0 {
            return MAX_SCORE;
        }
        let mean: f64 = sum / count;
        let variance: f64 = squares / count - mean * mean;
        ((1.0 - variance.max(0.0).sqrt()) * MAX_SCORE as f64) as i64
    }
}
