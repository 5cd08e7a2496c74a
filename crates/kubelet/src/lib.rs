//! Pods on this node.
