//! Deletes pods that nothing else will ever delete.
//!
//! Pods of nodes that are gone, terminating pods that were never scheduled, terminating pods of nodes declared out of
//! service, and finished pods beyond a threshold. Counterpart: `pkg/controller/podgc`.
//! Differs from upstream: reacts to pods and nodes instead of looking at everything every 20 seconds.
//! Invariant: a node counts as gone only after it stayed away for `QUARANTINE` and the API server confirmed it.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::DeleteParams;
use serde_json::json;

use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};
use crate::{node, pod};

/// How long a node may be missing before its pods are orphans: it may be about to register again.
const QUARANTINE: Duration = Duration::from_secs(40);
const TERMINATED_PODS_THRESHOLD: usize = 12_500;
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

pub const DEF: ControllerDef = ControllerDef {
    name: "pod-garbage-collector",
    workers: 4,
    watches: |edges| {
        edges.primary::<Pod>();
        edges.mapped::<Node>(|caches, delta| {
            let node = delta.latest();
            // A healthy node concerns nobody; a missing or abandoned one concerns its pods.
            if delta.new.is_some_and(|node| !is_out_of_service(node)) {
                return Vec::new();
            }
            let pods = caches.store::<Pod>().all();
            let here =
                pods.iter().filter(|pod| pod::node_name(pod) == node.metadata.name.as_deref());
            here.map(|pod| Key::of(pod.as_ref())).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// What to do with a pod.
#[derive(Debug, PartialEq)]
enum Verdict {
    Keep,
    /// Its node is missing: make sure after a while.
    Confirm,
    Delete(&'static str),
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(pod) = ctx.lister::<Pod>().get(&key) else { return Ok(Action::Done) };
    let node =
        pod::node_name(&pod).map(|name| (name, ctx.lister::<Node>().get(&Key::cluster(name))));
    match verdict(&pod, node.as_ref().map(|(_, node)| node.as_deref())) {
        Verdict::Keep if pod::is_terminal(&pod) => collect_finished(&ctx).await,
        Verdict::Keep => Ok(Action::Done),
        Verdict::Delete(why) => delete(&ctx, &pod, why).await,
        Verdict::Confirm => {
            let name = node.map(|(name, _)| name).unwrap_or_default();
            let left = ctx.memory::<Missing>().quarantine(name, ctx.now());
            if !left.is_zero() {
                return Ok(Action::After(left));
            }
            let api = Api::<Node>::all(ctx.client.clone());
            let found = api.get_metadata_opt(name).await;
            let found =
                found.map_err(|source| Error::Read { what: format!("node {name}"), source })?;
            ctx.memory::<Missing>().forget(name);
            match found {
                Some(_) => Ok(Action::Done),
                None => delete(&ctx, &pod, "PodGC: node no longer exists").await,
            }
        }
    }
}

/// `node`: none if the pod has no node, `Some(None)` if its node is not known.
fn verdict(pod: &Pod, node: Option<Option<&Node>>) -> Verdict {
    match node {
        None if pod::is_terminating(pod) => Verdict::Delete(""),
        None => Verdict::Keep,
        Some(None) => Verdict::Confirm,
        Some(Some(node))
            if pod::is_terminating(pod) && is_out_of_service(node) && !node::is_ready(node) =>
        {
            Verdict::Delete("DeletionByPodGC: node is out of service")
        }
        Some(Some(_)) => Verdict::Keep,
    }
}

fn is_out_of_service(node: &Node) -> bool {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.into_iter().any(|taint| taint.key == OUT_OF_SERVICE)
}

/// Since when nodes are missing.
#[derive(Default)]
struct Missing(std::sync::Mutex<std::collections::HashMap<String, Timestamp>>);

// === impl Missing ===

impl Missing {
    /// How much of the quarantine is left; it begins with the first question.
    fn quarantine(&self, node: &str, now: Timestamp) -> Duration {
        let mut missing = self.0.lock().expect("no panic happens while the map is locked");
        let since = *missing.entry(node.to_owned()).or_insert(now);
        let passed =
            Duration::from_secs(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0));
        QUARANTINE.saturating_sub(passed)
    }

    fn forget(&self, node: &str) {
        self.0.lock().expect("no panic happens while the map is locked").remove(node);
    }
}

/// Above the threshold the oldest finished pods go.
async fn collect_finished(ctx: &Ctx) -> Result<Action> {
    let mut finished = ctx.lister::<Pod>().all();
    finished.retain(|pod| pod::is_terminal(pod) && !pod::is_terminating(pod));
    let Some(excess) = finished.len().checked_sub(TERMINATED_PODS_THRESHOLD) else {
        return Ok(Action::Done);
    };
    finished.sort_by_key(|pod| pod.metadata.creation_timestamp.clone());
    for pod in &finished[..excess] {
        delete(ctx, pod, "").await?;
    }
    Ok(Action::Done)
}

/// Deletes without grace: nobody is left to grant it. A pod that had not finished is marked as failed first.
async fn delete(ctx: &Ctx, pod: &Pod, why: &str) -> Result<Action> {
    if !pod::is_terminal(pod) {
        let mut patch =
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed"}});
        if !why.is_empty() {
            patch["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                "reason": "DeletionByPodGC", "message": why,
                "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(ctx.now())}]);
        }
        match ctx.patch_status::<Pod>(&Key::of(pod), &patch).await {
            Err(error) if error.is_not_found() => return Ok(Action::Done),
            other => drop(other?),
        }
    }
    match ctx.delete_with(pod, DeleteParams::background().grace_period(0)).await {
        Err(error) if error.is_not_found() => Ok(Action::Done),
        other => other.map(|()| Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn verdicts() {
        let running: Pod = yaml("{spec: {nodeName: n, containers: []}, status: {phase: Running}}");
        let leaving: Pod =
            yaml("{metadata: {deletionTimestamp: '2026-01-01T00:00:00Z'}, spec: {containers: []}}");
        let healthy: Node = yaml("{status: {conditions: [{type: Ready, status: 'True'}]}}");
        let lost: Node =
            yaml("{spec: {taints: [{key: node.kubernetes.io/out-of-service, effect: NoExecute}]}}");
        assert_eq!(verdict(&running, Some(Some(&healthy))), Verdict::Keep);
        assert_eq!(verdict(&running, Some(Some(&lost))), Verdict::Keep);
        assert_eq!(verdict(&running, Some(None)), Verdict::Confirm);
        assert_eq!(verdict(&leaving, None), Verdict::Delete(""));
        assert!(matches!(verdict(&leaving, Some(Some(&lost))), Verdict::Delete(_)));
        assert_eq!(verdict(&leaving, Some(Some(&healthy))), Verdict::Keep);
    }

    #[test]
    fn quarantine_counts_from_the_first_question() {
        let missing = Missing::default();
        assert_eq!(missing.quarantine("n", Timestamp::UNIX_EPOCH), QUARANTINE);
        let later = Timestamp::UNIX_EPOCH + Duration::from_secs(30);
        assert_eq!(missing.quarantine("n", later), Duration::from_secs(10));
        assert_eq!(missing.quarantine("n", later + Duration::from_secs(30)), Duration::ZERO);
    }
}
