//! The resource.k8s.io group: devices that are asked for, offered and allocated.
//!
//! Counterpart: `pkg/apis/resource/validation`; the fields of features that are off by default are dropped.

pub mod admin;
mod capacity;
mod claim;
mod claim_spec;
mod claim_status;
mod device;
mod device_class;
mod rules;
pub mod selector;
mod slice;
mod taint;
#[cfg(test)]
mod tests;

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
