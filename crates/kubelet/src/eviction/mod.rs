//! Ends pods before the node runs out of memory, disk or processes.
//!
//! Consumes readings of the machine, decides with [`pressure`] whether it is short, frees what nobody uses, and else
//! ends the pod that [`rank`] chooses; beside that, pods that write more than [`local_storage`] allows. Counterpart:
//! `pkg/kubelet/eviction`.
//! Invariant: one pod at a time, and the next only once it is gone; a node with room costs a few small reads per look,
//! and directories are walked only for pods with a limit.

mod local_storage;
mod node;
mod pressure;
mod rank;
mod threshold;
mod usage;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Taint};
use skiff_runtime::ContainerStats;
use tokio::sync::watch;

use crate::{
    allocation::Rejection,
    container::resources::{QosClass, qos_class},
    context::NodeContext,
    events::EventType,
    image::garbage,
    pod::{desired::DesiredPod, ending::Ending, manager::PodIndex},
};
use pressure::{Pressure, Starved, is_relieved};
pub use rank::is_critical;
use rank::{Candidate, IMMEDIATELY, REASON, Terms};
pub use threshold::{
    Amount, Condition, EvictionConfig, EvictionStatements, Signal, Threshold, ThresholdError,
};

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// How long to wait for a pod to be gone before another may have to follow.
const CLEANUP: Duration = Duration::from_secs(30);
const CLEANUP_LOOK: Duration = Duration::from_millis(250);
const MEMORY_TAINT: &str = "node.kubernetes.io/memory-pressure";

/// The conditions of the node, for those who take in pods and those who report them.
pub struct Conditions(watch::Sender<BTreeSet<Condition>>);

// === impl Conditions ===

impl Default for Conditions {
    fn default() -> Self {
        Conditions(watch::channel(BTreeSet::new()).0)
    }
}

impl Conditions {
    pub fn now(&self) -> BTreeSet<Condition> {
        self.0.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<BTreeSet<Condition>> {
        self.0.subscribe()
    }

    fn set(&self, conditions: BTreeSet<Condition>) {
        self.0.send_if_modified(|known| {
            let differs = *known != conditions;
            if differs {
                *known = conditions;
            }
            differs
        });
    }

    /// Whether a pod may come to a node in this state.
    pub fn admit(&self, pod: &Pod) -> Result<(), Rejection> {
        let conditions = self.now();
        if conditions.is_empty() || is_critical(pod) {
            return Ok(());
        }
        let spec = pod.spec.as_ref().expect("a pod bound to a node has a spec");
        if conditions.iter().eq([&Condition::Memory]) && bears_memory_pressure(spec) {
            return Ok(());
        }
        let names: Vec<&str> = conditions.iter().map(|condition| condition.name()).collect();
        Err(Rejection {
            reason: REASON.into(),
            message: format!("The node had condition: [{}]. ", names.join(" ")),
        })
    }
}

/// How many pods were ended, by what was short or exceeded: `kubelet_evictions`.
#[derive(Default)]
pub struct Evicted(Mutex<BTreeMap<&'static str, u64>>);

// === impl Evicted ===

impl Evicted {
    pub fn by_signal(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().expect("no holder panics").clone()
    }

    fn count(&self, signal: &'static str) {
        *self.0.lock().expect("no holder panics").entry(signal).or_default() += 1;
    }
}

fn bears_memory_pressure(spec: &PodSpec) -> bool {
    let taint = Taint { effect: "NoSchedule".into(), key: MEMORY_TAINT.into(), ..Taint::default() };
    qos_class(spec) != QosClass::BestEffort
        || spec.tolerations.iter().flatten().any(|t| skiff_api::scheduling::tolerates(t, &taint))
}

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>, index: PodIndex) {
    let mut eviction =
        Eviction { ctx, index, pressure: Pressure::default(), began: Instant::now() };
    loop {
        let ended = eviction.look().await;
        match ended.is_empty() {
            true => tokio::time::sleep(LOOK_EVERY).await,
            false => eviction.wait_until_gone(&ended).await,
        }
    }
}

struct Eviction {
    ctx: Arc<NodeContext>,
    index: PodIndex,
    pressure: Pressure,
    began: Instant,
}

// === impl Eviction ===

impl Eviction {
    /// Looks once; answers the uids of pods that have been told to end.
    async fn look(&mut self) -> Vec<String> {
        let node = node::read(&self.ctx).await;
        let config = &self.ctx.config.eviction;
        let judged = self.pressure.judge(config, &node.readings, self.began.elapsed());
        self.ctx.conditions.set(judged.conditions);
        let beyond = self.end_those_beyond_limits(node.dedicated_image_fs).await;
        match judged.starved {
            Some(starved) if beyond.is_empty() => {
                self.answer(&starved, node.dedicated_image_fs).await.into_iter().collect()
            }
            _ => beyond,
        }
    }

    async fn end_those_beyond_limits(&self, dedicated_image_fs: bool) -> Vec<String> {
        let mut pods = self.active();
        pods.retain(|pod| pod.spec.as_ref().is_some_and(local_storage::is_limited));
        if pods.is_empty() {
            return Vec::new();
        }
        let candidates = self.with_usage(pods).await;
        let mut ended = Vec::new();
        for Candidate { pod, usage } in candidates {
            let spec = pod.spec.as_ref().expect("only pods with a spec are limited");
            let Some(found) = local_storage::violation(spec, &usage, dedicated_image_fs) else {
                continue;
            };
            if !is_critical(&pod) {
                let (reason, message) = (REASON, found.message);
                let ending = Ending { reason, message, grace: IMMEDIATELY, disruption: false };
                ended.extend(self.end(pod, ending, found.signal));
            }
        }
        ended
    }

    /// Frees what nobody uses, and ends a pod if that does not suffice.
    async fn answer(&self, starved: &Starved, dedicated_image_fs: bool) -> Option<String> {
        let signal = starved.threshold.signal;
        let message = format!("Attempting to reclaim {}", signal.resource());
        let node = &self.ctx.config.node_name;
        self.ctx.recorder.node(node, EventType::Warning, "EvictionThresholdMet", message);
        let images_help = match signal {
            Signal::ImagefsAvailable | Signal::ImagefsInodesFree => true,
            Signal::NodefsAvailable | Signal::NodefsInodesFree => !dedicated_image_fs,
            Signal::MemoryAvailable | Signal::PidAvailable => false,
        };
        if images_help && self.reclaim().await {
            return None;
        }
        let candidates = self.with_usage(self.active()).await;
        let terms = Terms {
            dedicated_image_fs,
            max_pod_grace: SignedDuration::try_from(self.ctx.config.eviction.max_pod_grace)
                .unwrap_or(SignedDuration::MAX),
        };
        let Some((pod, ending)) = rank::choose(&candidates, starved, terms) else {
            tracing::warn!(
                resource = signal.resource(),
                "no pod to end although the node is short"
            );
            return None;
        };
        self.end(pod, ending, signal.name())
    }

    /// Dead containers of pods that have ended, then images; whether that was enough.
    async fn reclaim(&self) -> bool {
        for uid in self.terminal() {
            remove_containers(&self.ctx, &uid).await;
        }
        if let Err(message) = garbage::remove_unused(&self.ctx).await {
            tracing::warn!(message, "images not removed");
        }
        is_relieved(&self.ctx.config.eviction, &node::read(&self.ctx).await.readings)
    }

    fn end(&self, pod: Arc<Pod>, ending: Ending, signal: &'static str) -> Option<String> {
        let pod = DesiredPod::new(pod);
        self.ctx.evicted.count(signal);
        tracing::info!(pod = %pod.key, message = ending.message, "evicting");
        self.ctx.recorder.pod(&pod, EventType::Warning, REASON, ending.message.clone());
        self.ctx.endings.end(&pod.key.uid, ending);
        Some(pod.key.uid)
    }

    async fn wait_until_gone(&self, uids: &[String]) {
        let deadline = Instant::now() + CLEANUP;
        while uids.iter().any(|uid| self.ctx.allocations.holds(uid)) && Instant::now() < deadline {
            tokio::time::sleep(CLEANUP_LOOK).await;
        }
    }

    /// Pods that have a place here.
    fn active(&self) -> Vec<Arc<Pod>> {
        let index = self.index.read().expect("no writer panics");
        let active = index.iter().filter(|(uid, _)| self.ctx.allocations.holds(uid));
        active.map(|(_, pod)| pod.clone()).collect()
    }

    /// Pods that have ended and are still there to be looked at.
    fn terminal(&self) -> Vec<String> {
        let index = self.index.read().expect("no writer panics");
        let ended = |pod: &Pod| {
            let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
            matches!(phase, Some("Succeeded" | "Failed"))
        };
        let all = index.iter().filter(|(uid, pod)| ended(pod) && !self.ctx.allocations.holds(uid));
        all.map(|(uid, _)| uid.clone()).collect()
    }

    async fn with_usage(&self, pods: Vec<Arc<Pod>>) -> Vec<Candidate> {
        let stats = container_stats(&self.ctx, &pods).await;
        let usages = usage::of_pods(&self.ctx, &pods, stats).await;
        pods.into_iter().zip(usages).map(|(pod, usage)| Candidate { pod, usage }).collect()
    }
}

/// Of the containers of these pods only: a look at a container is a walk through what it has written.
async fn container_stats(ctx: &NodeContext, pods: &[Arc<Pod>]) -> Vec<(String, ContainerStats)> {
    let runtime = &ctx.runtime;
    let (sandboxes, containers) =
        tokio::join!(runtime.list_pod_sandboxes(), runtime.list_containers());
    let (Ok(sandboxes), Ok(containers)) = (sandboxes, containers) else { return Vec::new() };
    let wanted: BTreeSet<&str> = pods.iter().filter_map(|p| p.metadata.uid.as_deref()).collect();
    let mut all = Vec::new();
    for container in containers {
        let sandbox = sandboxes.iter().find(|sandbox| sandbox.id == container.sandbox_id);
        if let Some(uid) = sandbox.map(|s| s.metadata.uid.as_str()).filter(|u| wanted.contains(u))
            && let Ok(stats) = runtime.container_stats(&container.id).await
        {
            all.push((uid.to_owned(), stats));
        }
    }
    all
}

async fn remove_containers(ctx: &NodeContext, uid: &str) {
    let Ok(sandboxes) = ctx.runtime.list_pod_sandboxes().await else { return };
    let Ok(containers) = ctx.runtime.list_containers().await else { return };
    let own =
        |sandbox_id: &str| sandboxes.iter().any(|s| s.id == sandbox_id && s.metadata.uid == uid);
    for container in containers.iter().filter(|c| own(&c.sandbox_id)) {
        if let Err(error) = ctx.runtime.remove_container(&container.id).await {
            tracing::debug!(id = container.id, %error, "dead container not removed");
        }
    }
}

#[cfg(test)]
mod tests;
