//! The resource.k8s.io group: devices that are asked for, offered and allocated.
//!
//! Device selectors are not compiled here: that is the scheduler's to do when it allocates devices.

mod claim;
mod device_class;
mod slice;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "DeviceClass" => Arc::new(device_class::DeviceClass),
        "ResourceClaim" => Arc::new(claim::ResourceClaim),
        "ResourceClaimTemplate" => Arc::new(claim::ResourceClaimTemplate),
        "ResourceSlice" => Arc::new(slice::ResourceSlice),
        _ => return None,
    })
}
