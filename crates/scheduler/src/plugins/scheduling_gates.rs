//! SchedulingGates: a pod with gates is not tried until the last one is lifted.
//!
//! Counterpart: `plugins/schedulinggates`.

use crate::framework::{Gated, Plugin};
use crate::listers::Listers;
use crate::pod_info::PodInfo;

pub struct SchedulingGates;

impl Plugin for SchedulingGates {
    fn name(&self) -> &'static str {
        "SchedulingGates"
    }

    fn pre_enqueue(&self, pod: &PodInfo, _: &Listers) -> Result<(), Gated> {
        if pod.gates.is_empty() { Ok(()) } else { Err(Gated) }
    }
}
