//! Facts about a node that several controllers ask for, with upstream's exact meaning.
//!
//! Counterpart: `pkg/util/node/node.go`. Pure: node in, answer out.

use k8s_openapi::api::core::v1::{Node, NodeCondition};

pub fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|condition| condition.type_ == type_)
}

/// `True`, `False`, or `Unknown` as long as nobody has said.
pub fn ready_status(node: &Node) -> &str {
    condition(node, "Ready").map_or("Unknown", |ready| ready.status.as_str())
}

pub fn is_ready(node: &Node) -> bool {
    ready_status(node) == "True"
}
