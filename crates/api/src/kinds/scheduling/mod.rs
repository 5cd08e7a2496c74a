//! The scheduling.k8s.io group.

mod priority_class;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "PriorityClass" => Arc::new(priority_class::PriorityClass),
        _ => return None,
    })
}
