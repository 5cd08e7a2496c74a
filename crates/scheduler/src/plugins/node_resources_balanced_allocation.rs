//! NodeResourcesBalancedAllocation: nodes whose CPU and memory would be used to the same degree are better.
//!
//! Counterpart: `plugins/noderesources/balanced_allocation.go`.

use crate::framework::{Cycle, MAX_SCORE, Plugin, Score};
use crate::node_info::NodeInfo;
use crate::resources::Resources;

pub struct NodeResourcesBalancedAllocation;

impl Plugin for NodeResourcesBalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    /// A pod that asks for neither would balance nothing.
    fn score<'a>(&self, cycle: Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let wanted = &cycle.pod.requests.declared;
        let asks = wanted.milli_cpu > 0 || wanted.memory > 0;
        asks.then(|| Box::new(Balance(wanted)) as Box<dyn Score>)
    }
}

struct Balance<'a>(&'a Resources);

impl Score for Balance<'_> {
    /// Compares the node's balance with the pod to the one without it; 50 means that nothing changes.
    fn score(&self, node: &NodeInfo) -> i64 {
        let with = balance(node, self.0.milli_cpu, self.0.memory);
        let without = balance(node, 0, 0);
        (MAX_SCORE + with - without) / 2 + (MAX_SCORE + with - without) % 2
    }
}

/// With two shares the standard deviation is half their distance.
fn balance(node: &NodeInfo, milli_cpu: i64, memory: i64) -> i64 {
    let (all, used) = (&node.facts.allocatable, &node.requested);
    if all.milli_cpu == 0 || all.memory == 0 {
        return MAX_SCORE;
    }
    let share = |used: i64, all: i64| (used as f64 / all as f64).min(1.0);
    let cpu = share(used.milli_cpu + milli_cpu, all.milli_cpu);
    let memory = share(used.memory + memory, all.memory);
    ((1.0 - (cpu - memory).abs() / 2.0) * MAX_SCORE as f64) as i64
}
