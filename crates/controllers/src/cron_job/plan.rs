//! What a CronJob is to do now.
//!
//! CronJob, Jobs and the time in -> Jobs to delete, the moment to start a Job for, status, events, and when to look again.
//! Pure. Invariant: a moment that the status shows as started is not started again.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use skiff_api::cron::{Schedule, time_zone};

use super::missed::{missed, until_next};
use super::{forget, job_name};
use crate::job;

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub notes: Vec<Note>,
    /// Finished Jobs beyond what is kept.
    pub expired: Vec<Arc<Job>>,
    /// Jobs that must go before the next may start.
    pub replaced: Vec<Arc<Job>>,
    /// The moment that a Job is to be started for.
    pub start: Option<Timestamp>,
    /// As it is before any Job is deleted or started.
    pub status: CronJobStatus,
    pub wait: Option<Duration>,
}

/// An event to be.
#[derive(Debug, PartialEq)]
pub struct Note {
    pub is_warning: bool,
    pub reason: &'static str,
    pub message: String,
}

// === impl Note ===

impl Note {
    fn normal(reason: &'static str, message: String) -> Note {
        Note { is_warning: false, reason, message }
    }

    fn warning(reason: &'static str, message: String) -> Note {
        Note { is_warning: true, reason, message }
    }
}

pub fn plan(cron_job: &CronJob, jobs: &[Arc<Job>], now: Timestamp) -> Plan {
    let mut plan = Plan { status: cron_job.status.clone().unwrap_or_default(), ..Plan::default() };
    let spec = &cron_job.spec;
    plan.expired = expired(spec, jobs);
    watch_jobs(jobs, &mut plan);
    if cron_job.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let zone = match zone_of(cron_job) {
        Ok(zone) => zone,
        Err(note) => return with_note(plan, note),
    };
    if spec.suspend == Some(true) {
        return plan;
    }
    if spec.schedule.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {:?} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            spec.schedule
        );
        plan.notes.push(Note::warning("UnsupportedSchedule", message));
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(fault) => {
            let message = format!("unparseable schedule: {:?} : {fault}", spec.schedule);
            return with_note(plan, Note::warning("UnparseableSchedule", message));
        }
    };
    plan.wait = until_next(cron_job, &schedule, &zone, now);
    let missed = missed(cron_job, &schedule, &zone, now);
    let Some(due) = missed.last else { return plan };
    if missed.are_many {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.notes.push(Note::warning("TooManyMissedTimes", message.into()));
    }
    start(cron_job, spec, jobs, due, now, plan)
}

fn with_note(mut plan: Plan, note: Note) -> Plan {
    plan.notes.push(note);
    plan
}

/// The zone whose clock the schedule means.
pub fn zone_of(cron_job: &CronJob) -> Result<TimeZone, Note> {
    let Some(name) = cron_job.spec.time_zone.as_deref() else { return Ok(TimeZone::system()) };
    time_zone(name).ok_or_else(|| {
        let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
        Note::warning("UnknownTimeZone", message)
    })
}

/// Decides about a moment that was due.
fn start(
    cron_job: &CronJob,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    due: Timestamp,
    now: Timestamp,
    mut plan: Plan,
) -> Plan {
    let too_late = spec.starting_deadline_seconds.is_some_and(|seconds| {
        due.checked_add(SignedDuration::from_secs(seconds)).is_ok_and(|latest| latest < now)
    });
    if too_late {
        let when = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
        let message = format!("Missed scheduled time to start a job: {when}");
        return with_note(plan, Note::warning("MissSchedule", message));
    }
    let name = job_name(cron_job, due);
    let active = plan.status.active.iter().flatten();
    let is_active = active.clone().any(|job| job.name.as_ref() == Some(&name));
    if is_active || plan.status.last_schedule_time.as_ref().is_some_and(|last| last.0 == due) {
        return plan;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if active.clone().next().is_some() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            return with_note(plan, Note::normal("JobAlreadyActive", message.into()));
        }
        Some("Replace") => {
            let running = |job: &&Arc<Job>| active.clone().any(|one| one.uid == job.metadata.uid);
            plan.replaced = jobs.iter().filter(running).cloned().collect();
        }
        _ => {}
    }
    plan.start = Some(due);
    plan
}

/// Brings the list of active Jobs up to date, and the time of the last success.
fn watch_jobs(jobs: &[Arc<Job>], plan: &mut Plan) {
    let status = &mut plan.status;
    for job in jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let is_active = status.active.iter().flatten().any(|one| one.uid == job.metadata.uid);
        match job::end(job) {
            None if !is_active => {
                let message =
                    format!("Saw a job that the controller did not create or forgot: {name}");
                plan.notes.push(Note::warning("UnexpectedJob", message));
            }
            None => {}
            Some(end) => {
                if is_active {
                    forget(&mut status.active, job.metadata.uid.as_deref());
                    let message = format!("Saw completed job: {name}, condition: {}", end.type_);
                    plan.notes.push(Note::normal("SawCompletedJob", message));
                }
                let completed =
                    job.status.as_ref().and_then(|status| status.completion_time.clone());
                let completed = completed.filter(|_| end.type_ == "Complete");
                status.last_successful_time = status.last_successful_time.take().max(completed);
            }
        }
    }
    let known = |uid: &Option<String>| jobs.iter().any(|job| job.metadata.uid == *uid);
    let missing = status.active.iter().flatten().filter(|job| !known(&job.uid)).cloned();
    for job in missing.collect::<Vec<_>>() {
        let message = format!("Active job went missing: {}", job.name.unwrap_or_default());
        plan.notes.push(Note::normal("MissingJob", message));
        forget(&mut status.active, job.uid.as_deref());
    }
}

/// The oldest finished Jobs beyond the limits, of either ending.
fn expired(spec: &CronJobSpec, jobs: &[Arc<Job>]) -> Vec<Arc<Job>> {
    let limits = [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ];
    let beyond = limits.into_iter().filter_map(|(type_, limit)| {
        let kept = usize::try_from(limit?).unwrap_or(0);
        let ended = |job: &&Arc<Job>| job::end(job).is_some_and(|end| end.type_ == type_);
        let mut ended: Vec<Arc<Job>> = jobs.iter().filter(ended).cloned().collect();
        ended.sort_by_key(|job| {
            let start = job.status.as_ref().and_then(|status| status.start_time.clone());
            (start.is_none(), start, job.metadata.name.clone())
        });
        ended.truncate(ended.len().saturating_sub(kept));
        Some(ended)
    });
    beyond.flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn at(time: &str) -> Timestamp {
        format!("2026-01-01T{time}Z").parse().unwrap()
    }

    fn cron(spec: &str, status: &str) -> CronJob {
        yaml(&format!(
            "{{metadata: {{name: c, namespace: ns, uid: c, creationTimestamp: '2026-01-01T00:00:00Z'}},
               spec: {{jobTemplate: {{}}, {spec}}}, status: {{{status}}}}}"
        ))
    }

    fn job(name: &str, status: &str) -> Arc<Job> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}, uid: {name}}}, status: {{{status}}}}}"
        )))
    }

    fn reasons(plan: &Plan) -> Vec<&str> {
        plan.notes.iter().map(|note| note.reason).collect()
    }

    #[test]
    fn a_job_starts_when_it_is_due_and_once() {
        let every_minute = |status: &str| cron("schedule: '* * * * *', timeZone: UTC", status);
        let early = plan(&every_minute(""), &[], at("00:00:20"));
        assert_eq!((early.start, early.wait), (None, Some(Duration::from_millis(40_100))));
        let due = plan(&every_minute(""), &[], at("00:01:00"));
        assert_eq!(
            (due.start, due.wait),
            (Some(at("00:01:00")), Some(Duration::from_millis(60_100)))
        );
        let started = every_minute("lastScheduleTime: '2026-01-01T00:01:00Z'");
        assert_eq!(plan(&started, &[], at("00:01:59")).start, None);
    }

    #[test]
    fn of_missed_starts_only_the_last_is_made_up_for() {
        let late = plan(&cron("schedule: '* * * * *', timeZone: UTC", ""), &[], at("01:30:05"));
        assert_eq!((late.start, reasons(&late)), (Some(at("01:30:00")), vec![]));
        let later = plan(&cron("schedule: '* * * * *', timeZone: UTC", ""), &[], at("02:30:05"));
        assert_eq!(
            (later.start, reasons(&later)),
            (Some(at("02:30:00")), vec!["TooManyMissedTimes"])
        );
        let hourly = "schedule: '@hourly', timeZone: UTC, startingDeadlineSeconds: 10";
        assert_eq!(plan(&cron(hourly, ""), &[], at("01:00:11")).start, None);
        assert_eq!(plan(&cron(hourly, ""), &[], at("01:00:09")).start, Some(at("01:00:00")));
    }

    #[test]
    fn what_may_not_start_says_why() {
        let now = at("00:01:00");
        for (spec, reason) in [
            ("schedule: '* * * * *', timeZone: No/Where", Some("UnknownTimeZone")),
            ("schedule: '* * * *', timeZone: UTC", Some("UnparseableSchedule")),
            ("schedule: '* * * * *', timeZone: UTC, suspend: true", None),
        ] {
            let plan = plan(&cron(spec, ""), &[], now);
            assert_eq!((plan.start, reasons(&plan).first().copied()), (None, reason), "{spec}");
        }
    }

    #[test]
    fn concurrency_allows_forbids_or_replaces() {
        let running = [job("c-1", "active: 1")];
        let decide = |policy: &str| {
            let spec = format!("schedule: '* * * * *', timeZone: UTC, concurrencyPolicy: {policy}");
            plan(&cron(&spec, "active: [{name: c-1, uid: c-1}]"), &running, at("00:01:00"))
        };
        assert_eq!(decide("Allow").start, Some(at("00:01:00")));
        let forbidden = decide("Forbid");
        assert_eq!((forbidden.start, reasons(&forbidden)), (None, vec!["JobAlreadyActive"]));
        let replacing = decide("Replace");
        assert_eq!((replacing.start, replacing.replaced), (Some(at("00:01:00")), running.to_vec()));
    }

    #[test]
    fn finished_jobs_leave_the_active_list_and_old_ones_go() {
        let ended = |name: &str, type_: &str, minute: u32| {
            job(
                name,
                &format!(
                    "startTime: '2026-01-01T00:0{minute}:00Z', completionTime: '2026-01-01T00:0{minute}:30Z',
                     conditions: [{{type: {type_}, status: 'True'}}]"
                ),
            )
        };
        let jobs = [
            ended("new", "Complete", 3),
            ended("old", "Complete", 1),
            ended("broken", "Failed", 2),
            job("stranger", "active: 1"),
        ];
        let spec = "schedule: '@yearly', timeZone: UTC, successfulJobsHistoryLimit: 1, failedJobsHistoryLimit: 0";
        let active = "active: [{name: new, uid: new}, {name: gone, uid: gone}]";
        let plan = plan(&cron(spec, active), &jobs, at("00:05:00"));
        assert_eq!(plan.expired, [jobs[1].clone(), jobs[2].clone()]);
        assert_eq!(plan.status.active, None);
        let success = plan.status.last_successful_time.as_ref().map(|time| time.0);
        assert_eq!(success, Some(at("00:03:30")));
        assert_eq!(reasons(&plan), ["SawCompletedJob", "UnexpectedJob", "MissingJob"]);
    }
}
