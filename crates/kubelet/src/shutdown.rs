//! Ends the node's pods before the node itself goes, the important ones last.
//!
//! Consumes the pods that have a place here and the time there is, ends them group by group and waits for each to be
//! over. Counterpart: `pkg/kubelet/nodeshutdown`; reasons and messages are upstream's.
//! Differs from upstream: what says that the node goes is the end of this agent, not systemd's word. Without a grace
//! period, which is the default, pods are left running and the next start finds them again.
//! Invariant: a group never takes longer than its share; the pods of the node itself are ended too, and come back with it.

use std::{
    sync::{Arc, atomic::AtomicBool, atomic::Ordering},
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::Notify;

use crate::{
    allocation::Rejection,
    container::resources::SYSTEM_CRITICAL_PRIORITY,
    context::NodeContext,
    pod::{desired::DesiredPod, ending::Ending, manager::PodIndex},
    static_pods::is_static,
};

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How long pods get when the node goes.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShutdownGrace {
    /// In all; zero leaves pods running.
    pub total: Duration,
    /// The part of it that is kept for critical pods.
    pub critical: Duration,
}

/// Whether the node is about to go.
#[derive(Default)]
pub struct Going {
    going: AtomicBool,
    told: Notify,
}

// === impl Going ===

impl Going {
    pub fn is_going(&self) -> bool {
        self.going.load(Ordering::Relaxed)
    }

    /// Resolves when the node begins to go.
    pub async fn begins(&self) {
        self.told.notified().await;
    }

    fn begin(&self) {
        self.going.store(true, Ordering::Relaxed);
        self.told.notify_waiters();
    }

    pub fn admit(&self) -> Result<(), Rejection> {
        match self.is_going() {
            false => Ok(()),
            true => Err(Rejection {
                reason: "NodeShutdown".into(),
                message: "Pod was rejected as the node is shutting down.".into(),
            }),
        }
    }
}

pub async fn end_pods(ctx: &NodeContext, index: &PodIndex) {
    let grace = ctx.config.shutdown;
    if grace.total.is_zero() {
        return;
    }
    ctx.going.begin();
    for (pods, share) in groups(active(ctx, index), grace) {
        let most = SignedDuration::try_from(share).unwrap_or(SignedDuration::MAX);
        for pod in &pods {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let ending = Ending {
                reason: "Terminated",
                message: MESSAGE.into(),
                grace: most,
                disruption: true,
            };
            ctx.endings.end(uid, ending);
        }
        wait_until_over(ctx, index, &pods, share).await;
    }
}

fn active(ctx: &NodeContext, index: &PodIndex) -> Vec<Arc<Pod>> {
    let index = index.read().expect("no writer panics");
    let active = index.iter().filter(|(uid, _)| ctx.allocations.holds(uid));
    active.map(|(_, pod)| pod.clone()).collect()
}

/// Plain pods first, then critical ones, each with its share of the time. Nobody waits for an empty group.
fn groups(pods: Vec<Arc<Pod>>, grace: ShutdownGrace) -> Vec<(Vec<Arc<Pod>>, Duration)> {
    let priority = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
    let (critical, plain): (Vec<_>, Vec<_>) =
        pods.into_iter().partition(|pod| priority(pod) >= SYSTEM_CRITICAL_PRIORITY);
    let for_plain = grace.total.saturating_sub(grace.critical);
    let mut groups = vec![(plain, for_plain), (critical, grace.critical.min(grace.total))];
    groups.retain(|(pods, _)| !pods.is_empty());
    groups
}

/// Until nothing of the pods runs and the API server knows, but for no longer than their share.
async fn wait_until_over(ctx: &NodeContext, index: &PodIndex, pods: &[Arc<Pod>], share: Duration) {
    let is_known = |pod: &Pod| {
        let index = index.read().expect("no writer panics");
        let now = pod.metadata.uid.as_ref().and_then(|uid| index.get(uid));
        is_static(pod) || now.is_none_or(|now| DesiredPod::new(now.clone()).is_terminal())
    };
    let is_over = |pod: &Arc<Pod>| {
        !ctx.allocations.holds(pod.metadata.uid.as_deref().unwrap_or_default()) && is_known(pod)
    };
    let deadline = Instant::now() + share;
    while !pods.iter().all(is_over) && Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shares(priorities: &[i32], total: u64, critical: u64) -> Vec<(usize, u64)> {
        let pod = |priority: &i32| {
            let pod = json!({ "spec": { "priority": priority, "containers": [] } });
            Arc::new(serde_json::from_value(pod).expect("a pod"))
        };
        let grace = ShutdownGrace {
            total: Duration::from_secs(total),
            critical: Duration::from_secs(critical),
        };
        let groups = groups(priorities.iter().map(pod).collect(), grace);
        groups.into_iter().map(|(pods, share)| (pods.len(), share.as_secs())).collect()
    }

    #[test]
    fn critical_pods_go_last_and_have_time_of_their_own() {
        const CRITICAL: i32 = 2_000_001_000;
        assert_eq!(shares(&[0, CRITICAL, 1000], 30, 10), [(2, 20), (1, 10)]);
        assert_eq!(shares(&[CRITICAL], 30, 10), [(1, 10)]);
        assert_eq!(shares(&[0], 30, 0), [(1, 30)]);
        assert_eq!(shares(&[], 30, 10), []);
    }
}
