//! The batch group.

mod cron_job;
mod indexes;
mod job;
mod job_change;
mod job_policies;
mod job_spec;
mod job_status;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "CronJob" => Arc::new(cron_job::CronJob),
        "Job" => Arc::new(job::Job),
        _ => return None,
    })
}
