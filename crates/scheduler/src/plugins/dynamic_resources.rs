//! DynamicResources: a pod that claims devices waits, and is told that nobody here hands them out.
//!
//! Counterpart: `plugins/dynamicresources`. Differs from upstream: devices are not allocated. A pod that was placed
//! without its devices would run, and fail in ways of its own.

use crate::framework::{Cycle, Plugin, PreFilter};

pub struct DynamicResources;

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn filter<'a>(&self, cycle: Cycle<'a>) -> PreFilter<'a> {
        match cycle.pod.claims_devices {
            true => PreFilter::Reject("dynamic resource allocation is not supported".into()),
            false => PreFilter::Skip,
        }
    }
}
