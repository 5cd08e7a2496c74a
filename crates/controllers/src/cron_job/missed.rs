//! Which moment of a schedule is the one to act on, and when the next comes.
//!
//! Schedule, last start and now in -> the last moment due, and whether suspiciously many went by.
//! Counterpart: `mostRecentScheduleTime`. Differs from upstream: moments are counted, not estimated from the first two.
//! Invariant: of many missed moments only the last matters.

use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::CronJob;
use skiff_api::cron::Schedule;

/// More than this many missed moments hint at a clock that went wrong.
const MANY: usize = 100;
/// Looks come a little late, so that the moment has surely come.
const LATENESS: Duration = Duration::from_millis(100);

pub struct Missed {
    pub last: Option<Timestamp>,
    pub are_many: bool,
}

/// What was due since the last start, or since the earliest moment that may still be caught up with.
pub fn missed(cron_job: &CronJob, schedule: &Schedule, zone: &TimeZone, now: Timestamp) -> Missed {
    let deadline = cron_job.spec.starting_deadline_seconds;
    let oldest = deadline
        .and_then(|seconds| now.checked_sub(SignedDuration::from_secs(seconds)).ok())
        .unwrap_or(Timestamp::MIN);
    let since = last_start(cron_job).max(oldest);
    let mut due =
        std::iter::successors(schedule.next(since, zone), |due| schedule.next(*due, zone));
    let are_many = due.nth(MANY).is_some_and(|due| due <= now);
    Missed { last: schedule.last(since, now, zone), are_many }
}

/// How long until the schedule is due again; none if it never is.
pub fn until_next(
    cron_job: &CronJob,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> Option<Duration> {
    let start = last_start(cron_job);
    let before = schedule.last(start, now, zone).unwrap_or(start);
    let next = schedule.next(before, zone)?;
    let left = u64::try_from(next.duration_since(now).as_millis()).unwrap_or(0);
    Some(Duration::from_millis(left) + LATENESS)
}

fn last_start(cron_job: &CronJob) -> Timestamp {
    let started = cron_job.status.as_ref().and_then(|status| status.last_schedule_time.as_ref());
    let created = cron_job.metadata.creation_timestamp.as_ref();
    started.or(created).map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}
