//! Notices nodes that went silent: marks them, taints them, and marks their pods as not ready.
//!
//! Node and its Lease in -> conditions Unknown after the grace period -> taints by condition. Counterpart:
//! `pkg/controller/nodelifecycle`. Silence is measured on our own clock, from the last change we saw of the Lease or of
//! the node's status, so clocks of nodes do not matter.
//! Invariant: a node is looked at when its silence would become too long, and not before.

pub mod taint_eviction;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::node::{condition, ready_status};
use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Key, Result};

/// Silence of a node that reported before; upstream's node-monitor-grace-period.
const GRACE_PERIOD: Duration = Duration::from_secs(50);
/// Silence of a node that has never reported.
const STARTUP_GRACE_PERIOD: Duration = Duration::from_secs(60);
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// Condition type, the status that taints, and the taint (NoSchedule).
const TAINT_BY_CONDITION: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

pub const DEF: ControllerDef = ControllerDef {
    name: "node-controller",
    workers: 8,
    watches: |edges| {
        edges.primary::<Node>();
        edges.mapped::<Lease>(|_, delta| {
            let meta = &delta.latest().metadata;
            let of_node = meta.namespace.as_deref() == Some("kube-node-lease");
            of_node
                .then(|| Key::cluster(meta.name.clone().unwrap_or_default()))
                .into_iter()
                .collect()
        });
        edges.reads::<Pod>();
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let health = ctx.memory::<Health>();
    let Some(mut node) = ctx.lister::<Node>().get(&key) else {
        health.forget(&key.name);
        return Ok(Action::Done);
    };
    let lease = ctx.lister::<Lease>().get(&Key::new("kube-node-lease", &key.name));
    let now = ctx.now();
    let silence = health.silence(&node, lease.as_deref(), now);
    let grace = if reported(&node) { GRACE_PERIOD } else { STARTUP_GRACE_PERIOD };
    let grace = grace.max(promised(lease.as_deref()));
    if silence >= grace
        && let Some(conditions) = silent_conditions(&node, now)
    {
        // It may be speaking right now.
        let seen =
            json!({"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version});
        let patch = json!({"metadata": seen, "status": {"conditions": conditions}});
        node = ctx.patch_status::<Node>(&key, &patch).await?;
        ctx.recorder.normal(
            node.as_ref(),
            "NodeNotReady",
            format!("Node {} status is now: NodeNotReady", key.name),
        );
    }
    if let Some(taints) = wanted_taints(&node, now) {
        let patch = json!({"metadata": {"resourceVersion": node.metadata.resource_version}, "spec": {"taints": taints}});
        node = ctx.patch::<Node>(&key, &patch).await?;
    }
    if ready_status(&node) != "True" && reported(&node) {
        mark_pods_not_ready(&ctx, &key.name).await?;
    }
    Ok(match grace.checked_sub(silence) {
        Some(left) if !left.is_zero() => Action::After(left),
        _ => Action::Done,
    })
}

/// For how long a node's lease says it is good. Differs from upstream, which does not look: a kubelet's says less than
/// the grace period, but a node that rarely speaks may say more.
fn promised(lease: Option<&Lease>) -> Duration {
    let seconds = lease.and_then(|lease| lease.spec.as_ref()?.lease_duration_seconds);
    Duration::from_secs(seconds.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0))
}

/// When each node was last heard of, by our own clock.
#[derive(Default)]
struct Health(Mutex<HashMap<String, Heard>>);

struct Heard {
    sign: Sign,
    at: Timestamp,
}

/// What changes whenever a node reports: its Lease's renewal and its heartbeat.
#[derive(Clone, Debug, PartialEq)]
struct Sign {
    renewed: Option<Timestamp>,
    heartbeat: Option<Timestamp>,
}

// === impl Health ===

impl Health {
    fn silence(&self, node: &Node, lease: Option<&Lease>, now: Timestamp) -> Duration {
        let renewed =
            lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let heartbeat = condition(node, "Ready")
            .and_then(|ready| ready.last_heartbeat_time.as_ref().map(|time| time.0));
        let sign = Sign { renewed, heartbeat };
        let mut nodes = self.0.lock().expect("no panic happens while the map is locked");
        let name = node.metadata.name.clone().unwrap_or_default();
        let heard = nodes.entry(name).or_insert_with(|| Heard { sign: sign.clone(), at: now });
        if heard.sign != sign {
            *heard = Heard { sign, at: now };
        }
        Duration::from_millis(
            u64::try_from(now.as_millisecond() - heard.at.as_millisecond()).unwrap_or(0),
        )
    }

    fn forget(&self, node: &str) {
        self.0.lock().expect("no panic happens while the map is locked").remove(node);
    }
}

// === decisions ===

/// Whether the node's own agent has ever said how it is.
fn reported(node: &Node) -> bool {
    condition(node, "Ready")
        .is_some_and(|ready| ready.reason.as_deref() != Some("NodeStatusNeverUpdated"))
}

/// Everything the agent used to report becomes Unknown; none if it already is.
fn silent_conditions(node: &Node, now: Timestamp) -> Option<Vec<NodeCondition>> {
    let unknown = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"].map(|type_| {
        match condition(node, type_) {
            Some(known) if known.status == "Unknown" => None,
            Some(known) => Some(NodeCondition {
                status: "Unknown".into(),
                reason: Some("NodeStatusUnknown".into()),
                message: Some("Kubelet stopped posting node status.".into()),
                last_transition_time: Some(Time(now)),
                ..known.clone()
            }),
            None => Some(NodeCondition {
                type_: type_.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_transition_time: Some(Time(now)),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
            }),
        }
    });
    let unknown: Vec<NodeCondition> = unknown.into_iter().flatten().collect();
    (!unknown.is_empty()).then_some(unknown)
}

/// The node's taints as its conditions want them; none if they are right. Other people's taints stay.
fn wanted_taints(node: &Node, now: Timestamp) -> Option<Vec<Taint>> {
    let present = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = managed_taints(node);
    let is_managed = |taint: &Taint| {
        let by_condition = TAINT_BY_CONDITION.iter().any(|(_, _, key)| *key == taint.key)
            || taint.key == UNSCHEDULABLE;
        let evicting =
            taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str());
        (by_condition && taint.effect == "NoSchedule") || evicting
    };
    let same = |a: &Taint, key: &str, effect: &str| a.key == key && a.effect == effect;
    let mut taints: Vec<Taint> = present
        .iter()
        .filter(|taint| {
            !is_managed(taint) || wanted.iter().any(|(key, effect)| same(taint, key, effect))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if !taints.iter().any(|taint| same(taint, key, effect)) {
            let time_added = (effect == "NoExecute").then_some(Time(now));
            taints.push(Taint { key: key.into(), effect: effect.into(), value: None, time_added });
        }
    }
    (taints != present).then_some(taints)
}

fn managed_taints(node: &Node) -> Vec<(&'static str, &'static str)> {
    let applies = |(type_, status, _): &&(&str, &str, &str)| {
        condition(node, type_).is_some_and(|condition| condition.status == *status)
    };
    let mut wanted: Vec<_> =
        TAINT_BY_CONDITION.iter().filter(applies).map(|(_, _, key)| (*key, "NoSchedule")).collect();
    let evicting: Vec<_> =
        wanted.iter().filter(|(key, _)| [NOT_READY, UNREACHABLE].contains(key)).copied().collect();
    wanted.extend(evicting.into_iter().map(|(key, _)| (key, "NoExecute")));
    if node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// Pods of a silent node cannot be trusted with traffic; their agent will say otherwise when it is back.
async fn mark_pods_not_ready(ctx: &Ctx, node: &str) -> Result<()> {
    for pod in ctx.lister::<Pod>().all() {
        if pod::node_name(&pod) != Some(node) || !pod::is_ready(&pod) {
            continue;
        }
        let condition =
            json!({"type": "Ready", "status": "False", "lastTransitionTime": Time(ctx.now())});
        let patch =
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}});
        match ctx.patch_status::<Pod>(&Key::of(pod.as_ref()), &patch).await {
            Err(error) if error.is_conflict() => {}
            other => drop(other?),
        }
        ctx.recorder.warning(pod.as_ref(), "NodeNotReady", "Node is not ready");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn node(ready: &str) -> Node {
        yaml(&format!(
            "{{metadata: {{name: n}}, spec: {{taints: [{{key: mine, effect: NoSchedule}}]}},
               status: {{conditions: [{{type: Ready, status: '{ready}', reason: KubeletReady}}]}}}}"
        ))
    }

    fn with_taints(mut node: Node, taints: Vec<Taint>) -> Node {
        node.spec.as_mut().unwrap().taints = Some(taints);
        node
    }

    fn keys(taints: &[Taint]) -> Vec<String> {
        taints
            .iter()
            .map(|taint| format!("{}:{}", taint.key.rsplit('/').next().unwrap(), taint.effect))
            .collect()
    }

    #[test]
    fn taints_follow_conditions_and_come_off_again() {
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(wanted_taints(&node("True"), now), None);
        let lost = wanted_taints(&node("Unknown"), now).unwrap();
        assert_eq!(
            keys(&lost),
            ["mine:NoSchedule", "unreachable:NoSchedule", "unreachable:NoExecute"]
        );
        assert_eq!(
            wanted_taints(&with_taints(node("Unknown"), lost.clone()), now),
            None,
            "settled"
        );
        let failing = wanted_taints(&with_taints(node("False"), lost.clone()), now).unwrap();
        assert_eq!(
            keys(&failing),
            ["mine:NoSchedule", "not-ready:NoSchedule", "not-ready:NoExecute"]
        );
        let back = wanted_taints(&with_taints(node("True"), lost), now).unwrap();
        assert_eq!(keys(&back), ["mine:NoSchedule"]);
    }

    #[test]
    fn silence_is_measured_from_the_last_sign() {
        let health = Health::default();
        let at = |second: i64| Timestamp::from_second(1_000_000 + second).unwrap();
        let lease =
            |renewed: &str| -> Lease { yaml(&format!("{{spec: {{renewTime: '{renewed}'}}}}")) };
        let first = lease("2026-01-01T00:00:00.000000Z");
        assert_eq!(health.silence(&node("True"), Some(&first), at(0)), Duration::ZERO);
        assert_eq!(health.silence(&node("True"), Some(&first), at(30)), Duration::from_secs(30));
        let second = lease("2026-01-01T00:00:10.000000Z");
        assert_eq!(health.silence(&node("True"), Some(&second), at(40)), Duration::ZERO);
    }

    #[test]
    fn silent_nodes_become_unknown_once() {
        let conditions = silent_conditions(&node("True"), Timestamp::UNIX_EPOCH).unwrap();
        assert_eq!(conditions[0].reason.as_deref(), Some("NodeStatusUnknown"));
        let mut silent = node("True");
        silent.status.as_mut().unwrap().conditions = Some(conditions);
        assert_eq!(silent_conditions(&silent, Timestamp::UNIX_EPOCH), None);
    }
}
