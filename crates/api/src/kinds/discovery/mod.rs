//! The discovery.k8s.io group.

mod endpoint_slice;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "EndpointSlice" => Arc::new(endpoint_slice::EndpointSlice),
        _ => return None,
    })
}
