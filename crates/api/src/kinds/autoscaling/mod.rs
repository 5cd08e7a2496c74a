//! The autoscaling group.

mod horizontal_pod_autoscaler;
mod hpa_validation;
mod versions;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "HorizontalPodAutoscaler" => Arc::new(horizontal_pod_autoscaler::HorizontalPodAutoscaler),
        _ => return None,
    })
}
