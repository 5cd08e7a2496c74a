//! Whether a pod may be on a node, what it asks of one, and which pods a typed selector means.
//!
//! Pure rules on typed objects, asked by the scheduler (which places pods), the DaemonSet controller (which says where pods
//! belong), taint eviction (which says how long they stay) and the node agent (which has the last word). Counterpart:
//! `component-helpers/scheduling/corev1` and `component-helpers/resource`.

mod node_affinity;
mod resource_claims;
pub mod resources;
mod selector;
mod taints;

pub use node_affinity::{NodeTerm, RequiredNodes, node_terms};
pub use resource_claims::{PodClaim, StandsFor};
pub use selector::{Labels, Requirement, Selector};
pub use taints::{tolerates, tolerates_device};

/// A test's object, as a user would write it down.
#[cfg(test)]
fn yaml<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("bad test object: {error}\n{text}"))
}
