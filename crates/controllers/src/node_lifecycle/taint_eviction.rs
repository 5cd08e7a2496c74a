//! Evicts pods from nodes whose NoExecute taints they do not tolerate, at once or when their toleration runs out.
//!
//! Pod and node in -> delete now, delete at a moment, or leave alone. Counterpart: `pkg/controller/tainteviction`.
//! Invariant: the shortest of the tolerations that apply decides, counted from when the taint was added.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;
use skiff_api::scheduling::tolerates;

use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

pub const DEF: ControllerDef = ControllerDef {
    // Acts as the node controller, as upstream: no role of its own exists.
    name: "node-controller",
    workers: 8,
    watches: |edges| {
        edges.primary::<Pod>();
        edges.mapped::<Node>(|caches, delta| {
            let (old, new) =
                (delta.old.map(|node| evicting(node)), delta.new.map(|node| evicting(node)));
            if old.unwrap_or_default() == new.unwrap_or_default() {
                return Vec::new();
            }
            let name = delta.latest().metadata.name.as_deref();
            let pods = caches.store::<Pod>().all();
            pods.iter()
                .filter(|pod| pod::node_name(pod) == name)
                .map(|pod| Key::of(pod.as_ref()))
                .collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// How it is told that a pod is evicted for a taint.
pub struct Eviction {
    /// Of the condition, with its message.
    pub reason: &'static str,
    pub message: &'static str,
    /// Reason of the event, and what it says of a pod.
    pub event: &'static str,
    pub note: fn(&Key) -> String,
}

const EVICTION: Eviction = Eviction {
    reason: "DeletionByTaintManager",
    message: "Taint manager: deleting due to NoExecute taint",
    event: "TaintManagerEviction",
    note: |pod| format!("Marking for deletion Pod {pod}"),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(pod) = ctx.lister::<Pod>().get(&key) else { return Ok(Action::Done) };
    let node = pod::node_name(&pod).and_then(|name| ctx.lister::<Node>().get(&Key::cluster(name)));
    let Some(node) = node.filter(|_| !pod::is_terminating(&pod)) else { return Ok(Action::Done) };
    let now = ctx.now();
    match evict_at(&pod, &evicting(&node), now) {
        None => Ok(Action::Done),
        Some(at) if at > now => Ok(Action::After(until(at, now))),
        Some(_) => EVICTION.carry_out(&ctx, &pod).await,
    }
}

pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(u64::try_from(at.as_millisecond() - now.as_millisecond()).unwrap_or(0))
}

// === impl Eviction ===

impl Eviction {
    /// Says so first: on the pod, for whoever counts disruptions, and as an Event.
    pub async fn carry_out(&self, ctx: &Ctx, pod: &Pod) -> Result<Action> {
        let key = Key::of(pod);
        let condition = json!({"type": "DisruptionTarget", "status": "True", "reason": self.reason,
            "message": self.message, "lastTransitionTime": Time(ctx.now())});
        let patch =
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match ctx.patch_status::<Pod>(&key, &patch).await {
            Err(error) if error.is_not_found() => return Ok(Action::Done),
            other => drop(other?),
        }
        ctx.recorder.normal(pod, self.event, (self.note)(&key));
        match ctx.delete(pod).await {
            Err(error) if error.is_not_found() => Ok(Action::Done),
            other => other.map(|()| Action::Done),
        }
    }
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// When the pod has to go; none if it may stay.
fn evict_at(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Timestamp> {
    let nothing = Vec::new();
    let tolerations =
        pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref()).unwrap_or(&nothing);
    taints.iter().filter_map(|taint| evicted_by(taint, tolerations, now)).min()
}

fn evicted_by(taint: &Taint, tolerations: &[Toleration], now: Timestamp) -> Option<Timestamp> {
    let added = taint.time_added.as_ref().map_or(now, |time| time.0);
    let mut tolerated =
        tolerations.iter().filter(|toleration| tolerates(toleration, taint)).peekable();
    if tolerated.peek().is_none() {
        return Some(now);
    }
    // Of several, the one that ends first; one without an end does not lengthen the others.
    let seconds = tolerated.filter_map(|toleration| toleration.toleration_seconds).min()?;
    Some(added + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn tolerations_delay_or_prevent_eviction() {
        let added: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let now = added + Duration::from_secs(10);
        let taint: Taint =
            yaml("{key: unreachable, effect: NoExecute, timeAdded: '2026-01-01T00:00:00Z'}");
        let check = |tolerations: &str| {
            let pod: Pod =
                yaml(&format!("{{spec: {{containers: [], tolerations: {tolerations}}}}}"));
            evict_at(&pod, std::slice::from_ref(&taint), now)
        };
        assert_eq!(check("[]"), Some(now));
        assert_eq!(check("[{key: unreachable, operator: Exists}]"), None);
        assert_eq!(
            check(
                "[{key: unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}]"
            ),
            Some(added + Duration::from_secs(300))
        );
        assert_eq!(check("[{key: other, operator: Exists}]"), Some(now));
        assert_eq!(
            check(
                "[{operator: Exists}, {key: unreachable, operator: Exists, tolerationSeconds: 5}]"
            ),
            Some(added + Duration::from_secs(5))
        );
    }
}
