//! The coordination.k8s.io group.

mod lease;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "Lease" => Arc::new(lease::Lease),
        _ => return None,
    })
}
