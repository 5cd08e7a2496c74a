//! Takes back the announcement that a pod will be disrupted, when it has not been for two minutes.
//!
//! A pod with a true `DisruptionTarget` that is not going in -> the condition turns false.
//! Counterpart: `syncStalePodDisruption`. Invariant: what the node's agent announces itself is left to it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

const TIMEOUT: Duration = Duration::from_secs(120);

pub const DEF: ControllerDef = ControllerDef {
    name: super::NAME,
    workers: 1,
    watches: |edges| {
        edges.mapped::<Pod>(|_, delta| {
            let announced = delta.new.filter(|pod| stale_in(pod, Timestamp::MIN).is_some());
            announced.map(|pod| Key::of(pod.as_ref())).into_iter().collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let now = ctx.now();
    let Some(pod) = ctx.lister::<Pod>().get(&key) else { return Ok(Action::Done) };
    match stale_in(&pod, now) {
        None => Ok(Action::Done),
        Some(left) if !left.is_zero() => Ok(Action::After(left)),
        Some(_) => {
            let condition = json!({"type": "DisruptionTarget", "status": "False", "reason": null,
                "message": null, "lastTransitionTime": Time(now)});
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
            match ctx.patch_status::<Pod>(&key, &patch).await {
                Err(error) if error.is_not_found() => Ok(Action::Done),
                other => other.map(|_| Action::Done),
            }
        }
    }
}

/// How long until the announcement is too old; none if there is none to be taken back.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let target = pod::condition(pod, "DisruptionTarget")?;
    let ours = target.status == "True" && target.reason.as_deref() != Some("TerminationByKubelet");
    if !ours || !pod::is_active(pod) {
        return None;
    }
    let since = target.last_transition_time.as_ref()?.0;
    let passed = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    Some(TIMEOUT.saturating_sub(passed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn only_an_old_announcement_of_a_pod_that_stays_is_taken_back() {
        let now: Timestamp = "2026-01-01T00:02:00Z".parse().unwrap();
        let pod = |meta: &str, phase: &str, reason: &str| -> Pod {
            yaml(&format!(
                "{{metadata: {{{meta}}}, status: {{phase: {phase}, conditions: [{{type: DisruptionTarget, status: 'True',
                   reason: {reason}, lastTransitionTime: '2026-01-01T00:00:30Z'}}]}}}}"
            ))
        };
        let left = |pod: &Pod| stale_in(pod, now).map(|left| left.as_secs());
        assert_eq!(left(&pod("", "Running", "EvictionByEvictionAPI")), Some(30));
        assert_eq!(left(&pod("", "Failed", "EvictionByEvictionAPI")), None);
        assert_eq!(left(&pod("", "Running", "TerminationByKubelet")), None);
        let going = "deletionTimestamp: '2026-01-01T00:00:00Z'";
        assert_eq!(left(&pod(going, "Running", "EvictionByEvictionAPI")), None);
        assert_eq!(left(&yaml("{}")), None);
    }
}
