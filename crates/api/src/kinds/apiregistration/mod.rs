//! The apiregistration.k8s.io group.

mod api_service;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "APIService" => Arc::new(api_service::APIService),
        _ => return None,
    })
}
