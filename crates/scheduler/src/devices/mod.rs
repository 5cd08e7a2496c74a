//! Devices that are allocated to claims: what is asked for, what is offered, and who gets what.
//!
//! `claim` and `slice` parse ResourceClaims, DeviceClasses and ResourceSlices into facts, `selector` says in CEL which
//! devices are meant, `offer` gathers the slices to pools, `search` finds devices at a node for all claims of a pod, and
//! `result` words what it found for the claims' status. Counterpart: `dynamic-resource-allocation/structured`.
//! Differs from upstream: a device that several claims may share is given to one, and one whose binding has conditions
//! to none. Invariant: pure; a device is in one allocation at most, but for admin access.

mod claim;
mod offer;
mod result;
mod search;
mod selector;
mod slice;
#[cfg(test)]
mod tests;

pub use claim::{ClaimInfo, ClassInfo, Reservation};
pub use offer::Offer;
pub use result::reservation;
pub use search::{Chosen, Question, search};
pub use slice::SliceInfo;

/// Driver, pool and device: how a device is told from all others.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceId {
    pub driver: String,
    pub pool: String,
    pub device: String,
}
