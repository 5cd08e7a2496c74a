//! `/metrics/resource` and `/metrics`, in the text format of Prometheus.
//!
//! Counterpart: `pkg/kubelet/metrics`. Invariant: a family's samples stand together, beneath its head.

use std::{
    collections::BTreeMap,
    fmt::Write,
    sync::atomic::Ordering,
    time::{Duration, SystemTime},
};

use futures::future;
use http::Response;
use skiff_runtime::{ContainerState, ContainerStats, PodSandboxState};

use super::{
    PodStats, collect,
    machine::{node_cpu, node_memory},
    volumes,
};
use crate::{
    server::{
        Body, Refusal, Server, typed,
        volume_stats::{self, VolumeUse},
    },
    user_namespaces::UserNamespaces,
};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub async fn resource_metrics(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods = collect(server).await?;
    let (mut text, now) = (Exposition::default(), SystemTime::now());
    containers_use(&mut text, &pods);
    node_uses(&mut text, now);
    pods_use(&mut text, &pods, now);
    text.family(
        "scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    text.sample("", 0.0, None);
    Ok(typed(PROMETHEUS, text.text))
}

fn containers_use(text: &mut Exposition, pods: &[PodStats]) {
    let each = || pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)));
    text.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for (pod, (stat, _)) in each() {
        text.sample(&container_labels(pod, stat), stat.cpu.as_secs_f64(), Some(stat.timestamp));
    }
    text.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    for (pod, (stat, _)) in each() {
        text.sample(
            &container_labels(pod, stat),
            stat.memory_working_set_bytes as f64,
            Some(stat.timestamp),
        );
    }
    text.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    for (pod, (stat, status)) in each() {
        let started = status.as_ref().and_then(|s| s.started_at).unwrap_or(pod.created);
        let since = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        text.sample(&container_labels(pod, stat), since.as_secs_f64(), None);
    }
}

fn node_uses(text: &mut Exposition, now: SystemTime) {
    text.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    text.sample("", node_cpu().as_secs_f64(), Some(now));
    text.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
    );
    text.sample("", node_memory() as f64, Some(now));
}

fn pods_use(text: &mut Exposition, pods: &[PodStats], now: SystemTime) {
    text.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for pod in pods {
        let cpu: Duration = pod.containers.iter().map(|(s, _)| s.cpu).sum();
        text.sample(&pod_labels(pod), cpu.as_secs_f64(), Some(now));
    }
    text.family("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes");
    for pod in pods {
        let memory: u64 = pod.containers.iter().map(|(s, _)| s.memory_working_set_bytes).sum();
        text.sample(&pod_labels(pod), memory as f64, Some(now));
    }
}

pub async fn metrics(server: &Server) -> Result<Response<Body>, Refusal> {
    let containers = server.ctx.runtime.list_containers().await.map_err(Refusal::internal)?;
    let sandboxes = server.ctx.runtime.list_pod_sandboxes().await.map_err(Refusal::internal)?;
    let mut text = Exposition::default();
    text.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    text.sample(&format!("node=\"{}\"", server.ctx.config.node_name), 1.0, None);
    text.family("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox");
    let running = sandboxes.iter().filter(|s| s.state == PodSandboxState::Ready).count();
    text.sample("", running as f64, None);
    text.family("kubelet_running_containers", "gauge", "Number of containers currently running");
    let mut states: BTreeMap<&str, usize> = BTreeMap::new();
    for c in &containers {
        *states.entry(state_name(c.state)).or_default() += 1;
    }
    for (state, count) in states {
        text.sample(&format!("container_state=\"{state}\""), count as f64, None);
    }
    text.family(
        "kubelet_desired_pods",
        "gauge",
        "The number of pods the kubelet is being instructed to run.",
    );
    let desired = server.index.read().expect("no writer panics").len();
    text.sample("static=\"\"", desired as f64, None);
    let evictions = "Cumulative number of pod evictions by eviction signal";
    text.family_at("ALPHA", "kubelet_evictions", "counter", evictions);
    for (signal, count) in server.ctx.evicted.by_signal() {
        text.sample(&format!("eviction_signal=\"{signal}\""), count as f64, None);
    }
    let preemptions = "Cumulative number of pod preemptions by preemption resource";
    text.family_at("ALPHA", "kubelet_preemptions", "counter", preemptions);
    for (resource, count) in server.ctx.allocations.preempted() {
        text.sample(&format!("preemption_signal=\"{resource}\""), count as f64, None);
    }
    add_users(&mut text, &server.ctx.users);
    claims_use(&mut text, server).await?;
    Ok(typed(PROMETHEUS, text.text))
}

/// A claim is told of once, however many pods use it.
async fn claims_use(text: &mut Exposition, server: &Server) -> Result<(), Refusal> {
    let pods = collect(server).await?;
    let volumes = future::join_all(pods.iter().map(|pod| volumes(server, pod))).await;
    let mut claims: BTreeMap<(&str, String), VolumeUse> = BTreeMap::new();
    for (pod, volumes) in pods.iter().zip(volumes) {
        for volume in volumes {
            if let Some(claim) = &volume.claim {
                claims.insert((&pod.pod.namespace, claim.clone()), volume);
            }
        }
    }
    for (name, help, read) in volume_stats::CLAIM_METRICS {
        let mut values =
            claims.iter().filter_map(|(key, volume)| Some((key, read(volume)?))).peekable();
        if values.peek().is_some() {
            text.family_at("ALPHA", name, "gauge", help);
        }
        for ((namespace, claim), value) in values {
            let labels = format!("namespace=\"{namespace}\",persistentvolumeclaim=\"{claim}\"");
            text.sample(&labels, value as f64, None);
        }
    }
    Ok(())
}

fn add_users(text: &mut Exposition, users: &UserNamespaces) {
    let started = "Cumulative number of pods with user namespaces started. This metric will only be collected on Linux.";
    text.family_at("ALPHA", "kubelet_started_user_namespaced_pods_total", "counter", started);
    text.sample("", users.started.load(Ordering::Relaxed) as f64, None);
    let failed = "Cumulative number of errors when starting pods with user namespaces. This metric will only be \
                  collected on Linux.";
    text.family_at("ALPHA", "kubelet_started_user_namespaced_pods_errors_total", "counter", failed);
    text.sample("", users.failed.load(Ordering::Relaxed) as f64, None);
}

fn state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Unknown => "unknown",
    }
}

fn container_labels(pod: &PodStats, stat: &ContainerStats) -> String {
    format!("container=\"{}\",{}", stat.metadata.name, pod_labels(pod))
}

fn pod_labels(pod: &PodStats) -> String {
    format!("namespace=\"{}\",pod=\"{}\"", pod.pod.namespace, pod.pod.name)
}

/// The text format, one family after another.
#[derive(Default)]
struct Exposition {
    text: String,
    name: &'static str,
}

// === impl Exposition ===

impl Exposition {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family_at("STABLE", name, kind, help);
    }

    fn family_at(&mut self, stability: &str, name: &'static str, kind: &str, help: &str) {
        self.name = name;
        let _ = writeln!(self.text, "# HELP {name} [{stability}] {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &str, value: f64, at: Option<SystemTime>) {
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = write!(self.text, "{}{labels} {value}", self.name);
        if let Some(since) = at.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()) {
            let _ = write!(self.text, " {}", since.as_millis());
        }
        self.text.push('\n');
    }
}
