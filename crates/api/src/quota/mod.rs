//! What objects count as under a ResourceQuota, and whether a quota's scopes take them in.
//!
//! Pure facts, asked by admission (which charges a write before it is stored) and by the quota controller (which counts
//! what is there). Counterpart: `pkg/quota/v1/evaluator/core`.

mod amounts;
mod scopes;
mod usage;

pub use amounts::{Amounts, amounts, pod_total};
pub use scopes::all_match;
pub use usage::{
    Used, added, counts, is_claims, is_device_claims, is_pods, is_services, of, states_for_all,
};
