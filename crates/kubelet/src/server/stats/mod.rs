//! What the node and its pods use, for monitoring: `/stats/summary`, `/metrics/resource` and `/metrics`.
//!
//! Consumes the runtime's counters and the machine's, emits them in the two forms monitoring reads. Counterpart:
//! `pkg/kubelet/server/stats` and `pkg/kubelet/metrics/collectors`.
//! Invariant: counters come straight from the kernel; a rate is taken between two questions of the same reader.

mod machine;
mod metrics;
mod summary;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Mutex,
    time::{Duration, SystemTime},
};

pub use metrics::{metrics, resource_metrics};
use skiff_runtime::{ContainerStats, ContainerStatus, PodSandboxMetadata};
pub use summary::{rfc3339, summary};

use super::{
    Refusal, Server,
    volume_stats::{self, VolumeUse},
};

/// The last CPU counter of each container (and of the node, under the empty name).
#[derive(Default)]
pub struct Samples(Mutex<HashMap<String, (SystemTime, Duration)>>);

// === impl Samples ===

impl Samples {
    /// Nanoseconds of CPU per second since the last question; since `start` the first time.
    fn rate(&self, id: &str, at: SystemTime, cpu: Duration, start: Option<SystemTime>) -> u64 {
        let mut samples = self.0.lock().expect("no holder panics");
        let before = samples.insert(id.to_owned(), (at, cpu));
        let (since, base) = before.or(start.map(|s| (s, Duration::ZERO))).unwrap_or((at, cpu));
        let seconds = at.duration_since(since).unwrap_or_default().as_secs_f64();
        if seconds <= 0.0 {
            0
        } else {
            (cpu.saturating_sub(base).as_nanos() as f64 / seconds) as u64
        }
    }

    fn keep_only(&self, alive: &[ContainerStats]) {
        let mut samples = self.0.lock().expect("no holder panics");
        samples.retain(|id, _| id.is_empty() || alive.iter().any(|s| s.id == *id));
    }
}

/// One pod with the statistics of its running containers.
struct PodStats {
    pod: PodSandboxMetadata,
    created: SystemTime,
    containers: Vec<(ContainerStats, Option<ContainerStatus>)>,
}

async fn collect(server: &Server) -> Result<Vec<PodStats>, Refusal> {
    let runtime = &server.ctx.runtime;
    let (sandboxes, containers, stats) = tokio::join!(
        runtime.list_pod_sandboxes(),
        runtime.list_containers(),
        runtime.list_container_stats()
    );
    let containers = containers.map_err(Refusal::internal)?;
    let stats = stats.map_err(Refusal::internal)?;
    server.samples.keep_only(&stats);
    let mut pods: BTreeMap<String, PodStats> = sandboxes
        .map_err(Refusal::internal)?
        .into_iter()
        .map(|s| {
            (s.id, PodStats { pod: s.metadata, created: s.created_at, containers: Vec::new() })
        })
        .collect();
    for stat in stats {
        let status = containers.iter().find(|c| c.id == stat.id).cloned();
        if let Some(pod) = pods.get_mut(&stat.sandbox_id) {
            pod.containers.push((stat, status));
        }
    }
    Ok(pods.into_values().filter(|p| !p.containers.is_empty()).collect())
}

async fn volumes(server: &Server, pod: &PodStats) -> Vec<VolumeUse> {
    let object = server.index.read().expect("no writer panics").get(&pod.pod.uid).cloned();
    let Some(object) = object else { return Vec::new() };
    let statuses = pod.containers.iter().filter_map(|(_, status)| status.as_ref());
    volume_stats::of_pod(&server.ctx, &object, &statuses.collect::<Vec<_>>()).await
}
