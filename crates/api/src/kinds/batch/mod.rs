//! The batch group.

mod cron_job;
mod job;

use std::sync::Arc;

use crate::kind::Strategy;

pub(super) fn strategy(kind: &str) -> Option<Arc<dyn Strategy>> {
    Some(match kind {
        "CronJob" => Arc::new(cron_job::CronJob),
        "Job" => Arc::new(job::Job),
        _ => return None,
    })
}
