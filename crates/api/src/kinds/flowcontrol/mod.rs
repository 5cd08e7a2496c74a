//! The flowcontrol.apiserver.k8s.io group: which requests belong together, and how many run at once.

mod flow_schema;
mod priority_level;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "FlowSchema" => Arc::new(flow_schema::FlowSchema),
        "PriorityLevelConfiguration" => Arc::new(priority_level::PriorityLevel),
        _ => return None,
    })
}
