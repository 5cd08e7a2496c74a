//! The policy group.

mod pod_disruption_budget;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "PodDisruptionBudget" => Arc::new(pod_disruption_budget::PodDisruptionBudget),
        _ => return None,
    })
}
