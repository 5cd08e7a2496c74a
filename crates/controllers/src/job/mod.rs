//! Runs pods until enough of them have succeeded.
//!
//! A Job and the pods of its namespace in -> adopt, release, create, delete -> the books (status, finalizers).
//! Counterpart: `pkg/controller/job`. Differs from upstream: each pass takes one step and its own writes bring the next;
//! there is no second of waiting to gather pod events.
//! Invariant: every decision can be taken again from the Job and its pods alone, so no restart counts a pod twice.

mod account;
mod back_off;
mod indexes;
mod orphans;
mod picture;
mod plan;
mod policies;
#[cfg(test)]
mod simulation;
mod template;
#[cfg(test)]
mod tests;
pub mod ttl;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use futures::{FutureExt, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::claims::{self, adopters, candidates, dependents};
use crate::pod_control::{CONCURRENT_WRITES, create_pods, delete_pods};
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};
use account::{Account, account};
use back_off::BackOff;
use picture::Picture;
use plan::{Op, Plan, Verdict, plan};

pub use orphans::DEF as ORPHANS;

/// Keeps an ended pod until it is counted.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURE_COUNT: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Who looks after a Job unless its `managedBy` names somebody else.
const MANAGER: &str = "kubernetes.io/job-controller";

const NAME: &str = "job-controller";

pub const DEF: ControllerDef = ControllerDef {
    name: NAME,
    workers: 5,
    watches: |edges| {
        edges.primary::<Job>();
        edges.owned::<Pod, Job>();
        edges.mapped::<Pod>(|caches, delta| adopters::<Job, Pod>(caches, delta, selects));
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let job = ctx.lister::<Job>().get(&key).filter(|job| is_ours(job) && end(job).is_none());
    let Some(job) = job else {
        ctx.memory::<BackOffs>().forget(&key);
        return Ok(Action::Done);
    };
    let selected = |pod: &Pod| selects(&job, pod);
    let claims = claims::claims(job.as_ref(), &candidates(&ctx, job.as_ref()), selected, |_| true);
    claims::settle_with_finalizer(&ctx, job.as_ref(), claims, Some(TRACKING)).await?;

    let (plan, back_off) = decide(&ctx, &key, &job)?;
    let outcome = carry_out(&ctx, &job, plan.op).await;
    keep_books(&ctx, &job, plan.verdict.as_ref()).await?;
    ctx.memory::<BackOffs>().keep(key, &job, back_off);
    match outcome {
        Err(error) if !error.namespace_terminating() => Err(error),
        _ => Ok(plan.wait.map_or(Action::Done, Action::After)),
    }
}

fn decide(ctx: &Ctx, key: &Key, job: &Job) -> Result<(Plan, BackOff)> {
    let pods = dependents(ctx, job);
    let picture = picture(job, &pods, ctx.now())?;
    let known = ctx.memory::<BackOffs>().get(key, job);
    let known = known.unwrap_or_else(|| picture.past_back_off());
    let back_off = known.after(&picture.newly_succeeded(), &picture.newly_failed());
    Ok((plan(&picture, &back_off), back_off))
}

fn picture<'a>(job: &'a Job, pods: &'a [Arc<Pod>], now: Timestamp) -> Result<Picture<'a>> {
    Picture::new(job, pods, now).ok_or_else(|| Error::Invalid("job without a spec".into()))
}

async fn carry_out(ctx: &Ctx, job: &Job, op: Option<Op>) -> Result<()> {
    match op {
        Some(Op::Create(pods)) => create_pods(ctx, job, pods).await,
        Some(Op::End(pods)) => delete_pods(ctx, job, pods).await,
        Some(Op::Drop(pods)) => {
            untrack(ctx, &pods).await?;
            delete_pods(ctx, job, pods).await
        }
        None => Ok(()),
    }
}

/// Writes what the pods look like now, then lets go of those that the status names.
async fn keep_books(ctx: &Ctx, job: &Job, verdict: Option<&Verdict>) -> Result<()> {
    let pods = dependents(ctx, job);
    let Account { status, untrack: ended } = account(&picture(job, &pods, ctx.now())?, verdict);
    if job.status.as_ref() != Some(&status) {
        let written = Job { status: Some(status.clone()), ..job.clone() };
        ctx.update_status(&written).await?;
        tell(ctx, job, &status);
    }
    untrack(ctx, &ended).await
}

async fn untrack(ctx: &Ctx, pods: &[Arc<Pod>]) -> Result<()> {
    let patches = futures::stream::iter(pods.to_vec()).map(|pod| async move {
        let patch = json!({"metadata": {"uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [TRACKING]}});
        match ctx.patch_strategic::<Pod>(&Key::of(pod.as_ref()), &patch).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(|_| ()),
        }
    });
    let outcomes: Vec<Result<()>> = patches.buffer_unordered(CONCURRENT_WRITES).collect().await;
    outcomes.into_iter().collect()
}

/// Events for what the new status says and the old one did not.
fn tell(ctx: &Ctx, job: &Job, status: &JobStatus) {
    let before = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let before: HashMap<&str, &str> =
        before.map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect();
    for condition in status.conditions.iter().flatten() {
        if before.get(condition.type_.as_str()) == Some(&condition.status.as_str()) {
            continue;
        }
        let reason = condition.reason.clone().unwrap_or_default();
        let message = condition.message.as_deref().unwrap_or_default();
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Suspended", "True") => ctx.recorder.normal(job, "Suspended", message),
            ("Suspended", _) => ctx.recorder.normal(job, "Resumed", message),
            ("Failed", _) => ctx.recorder.warning(job, reason, message),
            ("Complete", _) => {
                if has_too_many(job, status) {
                    let message = "Too many succeeded pods running after completion count reached";
                    ctx.recorder.warning(job, "TooManySucceededPods", message);
                }
                ctx.recorder.normal(job, "Completed", "Job completed");
            }
            _ => {}
        }
    }
}

fn has_too_many(job: &Job, status: &JobStatus) -> bool {
    let wanted = job.spec.as_ref().and_then(|spec| spec.completions);
    wanted.is_some_and(|wanted| status.succeeded.unwrap_or(0) > wanted)
}

// === facts about a Job ===

fn is_ours(job: &Job) -> bool {
    let manager = job.spec.as_ref().and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|manager| manager == MANAGER)
}

fn selects(job: &Job, pod: &Pod) -> bool {
    let selector = job.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(claims::selector);
    claims::selects(selector.as_ref(), &pod.metadata)
}

/// How a Job has ended, if it has: the condition that says so.
pub fn end(job: &Job) -> Option<&k8s_openapi::api::batch::v1::JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| {
        matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True"
    })
}

/// Back-offs of the Jobs that are not finished, each with the uid it was counted for.
#[derive(Default)]
struct BackOffs(Mutex<HashMap<Key, (Option<String>, BackOff)>>);

// === impl BackOffs ===

impl BackOffs {
    fn get(&self, key: &Key, job: &Job) -> Option<BackOff> {
        let known = self.0.lock().expect("no panic happens while the map is locked");
        let (uid, back_off) = known.get(key)?;
        (*uid == job.metadata.uid).then(|| back_off.clone())
    }

    fn keep(&self, key: Key, job: &Job, back_off: BackOff) {
        let mut known = self.0.lock().expect("no panic happens while the map is locked");
        known.insert(key, (job.metadata.uid.clone(), back_off));
    }

    fn forget(&self, key: &Key) {
        self.0.lock().expect("no panic happens while the map is locked").remove(key);
    }
}
