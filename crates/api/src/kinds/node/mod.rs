//! The node.k8s.io group.

mod runtime_class;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "RuntimeClass" => Arc::new(runtime_class::RuntimeClass),
        _ => return None,
    })
}
