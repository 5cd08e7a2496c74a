//! What can be done for a pod that fits nowhere. For now: says so, in upstream's words.
//!
//! Counterpart: `plugins/defaultpreemption` and the message of `framework.FitError`. Evicting pods of lower priority
//! goes here; until then a node where it might help is named as such and nothing is evicted.

use crate::framework::{Cycle, Reasons};
use crate::node_info::NodeInfo;

/// The whole message: why each node is out, then what preemption found.
pub fn message(cycle: Cycle<'_>, reasons: &str, resolvable: &[&NodeInfo]) -> String {
    let nodes = cycle.cache.len();
    let preemption = match cycle.pod.never_preempts {
        true => "not eligible due to preemptionPolicy=Never.".to_owned(),
        false => format!("0/{nodes} nodes are available: {}.", candidates(cycle, resolvable)),
    };
    format!(
        "0/{nodes} nodes are available: {reasons}. no new claims to deallocate, preemption: {preemption}"
    )
}

fn candidates(cycle: Cycle<'_>, resolvable: &[&NodeInfo]) -> String {
    let mut reasons = Reasons::default();
    let hopeless = cycle.cache.len() - resolvable.len();
    if hopeless > 0 {
        reasons.add_many("Preemption is not helpful for scheduling", hopeless);
    }
    for node in resolvable {
        let victims = node.pods.iter().any(|pod| pod.priority < cycle.pod.priority);
        reasons.add(match victims {
            true => "Preemption is not served",
            false => "No preemption victims found for incoming pod",
        });
    }
    reasons.sentence()
}
