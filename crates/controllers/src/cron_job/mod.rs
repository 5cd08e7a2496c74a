//! Starts Jobs by the clock.
//!
//! A CronJob, its Jobs and the time in -> old Jobs deleted, at most one Job started, status, and when to look again.
//! Counterpart: `pkg/controller/cronjob`. Invariant: a Job's name follows from the minute it was due, so none starts twice.

mod missed;
mod plan;

use std::sync::Arc;

use futures::FutureExt;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::claims::{dependents, is_controlled_by, reference_to};
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};
use plan::{Plan, plan, zone_of};

const SCHEDULED_TIMESTAMP: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

pub const DEF: ControllerDef = ControllerDef {
    name: "cronjob-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<CronJob>();
        edges.owned::<Job, CronJob>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(cron_job) = ctx.lister::<CronJob>().get(&key) else { return Ok(Action::Done) };
    let jobs = dependents::<CronJob, Job>(&ctx, &cron_job);
    let Plan { notes, expired, replaced, mut status, start, wait } =
        plan(&cron_job, &jobs, ctx.now());
    for note in notes {
        match note.is_warning {
            true => ctx.recorder.warning(cron_job.as_ref(), note.reason, note.message),
            false => ctx.recorder.normal(cron_job.as_ref(), note.reason, note.message),
        }
    }
    for job in expired {
        // History that could not be cut is no reason to start nothing: the next look tries again.
        let _ = delete(&ctx, &cron_job, &mut status, &job).await;
    }
    let outcome = match start {
        Some(due) => run(&ctx, &cron_job, &mut status, replaced, due).await,
        None => Ok(()),
    };
    if cron_job.status.as_ref() != Some(&status)
        && (cron_job.status.is_some() || status != CronJobStatus::default())
    {
        ctx.update_status(&CronJob { status: Some(status), ..cron_job.as_ref().clone() }).await?;
    }
    outcome.map(|()| wait.map_or(Action::Done, Action::After))
}

/// Makes room if it must, then starts the Job that was due.
async fn run(
    ctx: &Ctx,
    cron_job: &CronJob,
    status: &mut CronJobStatus,
    replaced: Vec<Arc<Job>>,
    due: Timestamp,
) -> Result<()> {
    for job in replaced {
        delete(ctx, cron_job, status, &job).await?;
    }
    let Some(job) = start(ctx, cron_job, due).await? else { return Ok(()) };
    let mut reference = kube::Resource::object_ref(job.as_ref(), &());
    reference.resource_version = job.metadata.resource_version.clone();
    status.active.get_or_insert_default().push(reference);
    status.last_schedule_time = Some(Time(due));
    Ok(())
}

/// The Job for a moment; one that an earlier look started counts too. None if its name is taken by a stranger.
async fn start(ctx: &Ctx, cron_job: &CronJob, due: Timestamp) -> Result<Option<Arc<Job>>> {
    let job = job_for(cron_job, due);
    match ctx.create(&job).await {
        Ok(job) => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            ctx.recorder.normal(cron_job, "SuccessfulCreate", format!("Created job {name}"));
            Ok(Some(job))
        }
        Err(error) if is_taken(&error) => {
            let present = ctx.get_live::<Job>(&Key::of(&job)).await?;
            Ok(present.filter(|job| is_controlled_by(cron_job, &job.metadata)))
        }
        Err(error) => {
            if !error.namespace_terminating() {
                let message = format!("Error creating job: {}", error.message());
                ctx.recorder.warning(cron_job, "FailedCreate", message);
            }
            Err(error)
        }
    }
}

fn is_taken(error: &Error) -> bool {
    error.status().is_some_and(|status| status.reason == "AlreadyExists")
}

fn job_for(cron_job: &CronJob, due: Timestamp) -> Job {
    let spec = cron_job.spec.clone();
    let meta = spec.job_template.metadata.unwrap_or_default();
    let mut annotations = meta.annotations.unwrap_or_default();
    let local = due.to_zoned(zone_of(cron_job).unwrap_or(TimeZone::UTC));
    let shown = local.strftime(if local.offset().is_zero() { "%FT%TZ" } else { "%FT%T%:z" });
    annotations.insert(SCHEDULED_TIMESTAMP.into(), shown.to_string());
    Job {
        metadata: ObjectMeta {
            name: Some(job_name(cron_job, due)),
            namespace: cron_job.metadata.namespace.clone(),
            labels: meta.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![reference_to(cron_job)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec,
        status: None,
    }
}

fn job_name(cron_job: &CronJob, due: Timestamp) -> String {
    let name = cron_job.metadata.name.as_deref().unwrap_or_default();
    format!("{name}-{}", due.as_second().div_euclid(60))
}

async fn delete(
    ctx: &Ctx,
    cron_job: &CronJob,
    status: &mut CronJobStatus,
    job: &Job,
) -> Result<()> {
    match ctx.delete(job).await {
        Err(error) if !error.is_not_found() => {
            let message = format!("Deleted job: {}", error.message());
            ctx.recorder.warning(cron_job, "FailedDelete", message);
            Err(error)
        }
        _ => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            ctx.recorder.normal(cron_job, "SuccessfulDelete", format!("Deleted job {name}"));
            forget(&mut status.active, job.metadata.uid.as_deref());
            Ok(())
        }
    }
}

fn forget(active: &mut Option<Vec<ObjectReference>>, uid: Option<&str>) {
    active.iter_mut().for_each(|jobs| jobs.retain(|job| job.uid.as_deref() != uid));
    active.take_if(|jobs| jobs.is_empty());
}
