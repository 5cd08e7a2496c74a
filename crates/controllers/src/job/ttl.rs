//! Deletes finished Jobs after the time that they give themselves.
//!
//! A finished Job with `ttlSecondsAfterFinished` in -> deletion in the foreground, or the time left.
//! Counterpart: `pkg/controller/ttlafterfinished`. Invariant: the API server is asked once more before anything is deleted.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use kube::api::DeleteParams;

use super::end;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

pub const DEF: ControllerDef = ControllerDef {
    name: "ttl-after-finished-controller",
    workers: 5,
    watches: |edges| {
        edges.mapped::<Job>(|_, delta| {
            let finished = delta.new.filter(|job| time_left(job, Timestamp::MIN).is_some());
            finished.map(|job| Key::of(job.as_ref())).into_iter().collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let expired = |job: &Job| match time_left(job, ctx.now()) {
        Some(left) if left.is_zero() => Ok(()),
        Some(left) => Err(Action::After(left)),
        None => Err(Action::Done),
    };
    let Some(job) = ctx.lister::<Job>().get(&key) else { return Ok(Action::Done) };
    if let Err(action) = expired(&job) {
        return Ok(action);
    }
    let Some(job) = ctx.get_live::<Job>(&key).await? else { return Ok(Action::Done) };
    if let Err(action) = expired(&job) {
        return Ok(action);
    }
    match ctx.delete_with(job.as_ref(), DeleteParams::foreground()).await {
        Err(error) if error.is_not_found() => Ok(Action::Done),
        other => other.map(|()| Action::Done),
    }
}

/// Until when a Job is kept, from `now`; none if it is kept for other reasons.
fn time_left(job: &Job, now: Timestamp) -> Option<Duration> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let finished = end(job).filter(|_| job.metadata.deletion_timestamp.is_none())?;
    let finished = finished.last_transition_time.as_ref()?.0;
    let left = i128::from(ttl) * 1000 - now.duration_since(finished).as_millis();
    Some(Duration::from_millis(u64::try_from(left).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn only_finished_jobs_run_out_of_time() {
        let now: Timestamp = "2026-01-01T00:00:10Z".parse().unwrap();
        let left = |text: &str| time_left(&yaml(text), now).map(|left| left.as_secs());
        let done = "status: {conditions: [{type: Failed, status: 'True', lastTransitionTime: '2026-01-01T00:00:00Z'}]}";
        let with = |ttl: u32| format!("spec: {{ttlSecondsAfterFinished: {ttl}, template: {{}}}}");
        assert_eq!(left(&format!("{{{}, {done}}}", with(30))), Some(20));
        assert_eq!(left(&format!("{{{}, {done}}}", with(0))), Some(0));
        assert_eq!(left(&format!("{{spec: {{template: {{}}}}, {done}}}")), None);
        assert_eq!(left(&format!("{{{}}}", with(0))), None);
        let deleted = "metadata: {deletionTimestamp: '2026-01-01T00:00:01Z'}";
        assert_eq!(left(&format!("{{{deleted}, {}, {done}}}", with(0))), None);
    }
}
