//! `/stats/summary`, `/metrics/resource` and `/metrics`.
//!
//! Consumes the runtime's counters and the machine's, emits them in the two forms monitoring reads. Counterpart:
//! `pkg/kubelet/server/stats` and `pkg/kubelet/metrics/collectors`.
//! Invariant: counters come straight from the kernel; a rate is taken between two questions of the same reader.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write,
    sync::{Mutex, atomic::Ordering},
    time::{Duration, SystemTime},
};

use futures::future;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_runtime::{
    ContainerStats, ContainerStatus, PodSandboxMetadata, Pressure, Pressures, Stall,
};

use super::{
    Body, Refusal, Server, json as json_response, typed,
    volume_stats::{self, VolumeUse},
};
use crate::{node::machine::meminfo, user_namespaces::UserNamespaces};

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const CLOCK_TICKS_PER_SECOND: u64 = 100;

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

pub async fn summary(server: &Server) -> Result<Response<Body>, Refusal> {
    let pods = collect(server).await?;
    let volumes = future::join_all(pods.iter().map(|pod| volumes(server, pod))).await;
    let pods = pods.iter().zip(volumes).map(|(pod, volumes)| {
        let told = volumes.iter().map(|volume| volume.summary(&pod.pod.namespace));
        let mut summary = pod_summary(server, pod);
        summary["volume"] = told.collect();
        summary
    });
    let pods: Vec<Value> = pods.collect();
    json_response(&json!({ "node": node_summary(server), "pods": pods }))
}

async fn volumes(server: &Server, pod: &PodStats) -> Vec<VolumeUse> {
    let object = server.index.read().expect("no writer panics").get(&pod.pod.uid).cloned();
    let Some(object) = object else { return Vec::new() };
    let statuses = pod.containers.iter().filter_map(|(_, status)| status.as_ref());
    volume_stats::of_pod(&server.ctx, &object, &statuses.collect::<Vec<_>>()).await
}

fn node_summary(server: &Server) -> Value {
    let now = SystemTime::now();
    let (cpu, memory) = (node_cpu(), node_memory());
    let (size, free) = crate::node::machine::disk(&server.ctx.config.root_dir);
    let mut summary = json!({
        "nodeName": server.ctx.config.node_name,
        "startTime": rfc3339(now - uptime()),
        "cpu": cpu_value(now, cpu, server.samples.rate("", now, cpu, None)),
        "memory": {
            "time": rfc3339(now),
            "availableBytes": server.ctx.machine.memory_bytes.saturating_sub(memory),
            "usageBytes": memory,
            "workingSetBytes": memory,
        },
        "fs": { "time": rfc3339(now), "availableBytes": free, "capacityBytes": size, "usedBytes": size - free },
    });
    add_pressure(&mut summary, now, Pressures::of_machine());
    summary
}

fn pod_summary(server: &Server, pod: &PodStats) -> Value {
    let mut total = (Duration::ZERO, 0, 0, 0);
    let mut latest = pod.created;
    let containers: Vec<Value> = pod
        .containers
        .iter()
        .map(|(stat, status)| {
            let started = status.as_ref().and_then(|s| s.started_at);
            let rate = server.samples.rate(&stat.id, stat.timestamp, stat.cpu, started);
            total.0 += stat.cpu;
            total.1 += rate;
            total.2 += stat.memory_usage_bytes;
            total.3 += stat.memory_working_set_bytes;
            latest = latest.max(stat.timestamp);
            let mut summary = json!({
                "name": stat.metadata.name,
                "startTime": rfc3339(started.unwrap_or(pod.created)),
                "cpu": cpu_value(stat.timestamp, stat.cpu, rate),
                "memory": {
                    "time": rfc3339(stat.timestamp),
                    "usageBytes": stat.memory_usage_bytes,
                    "workingSetBytes": stat.memory_working_set_bytes,
                    "rssBytes": stat.memory_rss_bytes,
                    "pageFaults": stat.page_faults,
                    "majorPageFaults": stat.major_page_faults,
                },
                "rootfs": { "time": rfc3339(stat.timestamp), "usedBytes": stat.rootfs_used_bytes,
                            "inodesUsed": stat.rootfs_inodes_used },
            });
            add_pressure(&mut summary, stat.timestamp, stat.pressure);
            summary
        })
        .collect();
    json!({
        "podRef": { "name": pod.pod.name, "namespace": pod.pod.namespace, "uid": pod.pod.uid },
        "startTime": rfc3339(pod.created),
        "containers": containers,
        "cpu": cpu_value(latest, total.0, total.1),
        "memory": { "time": rfc3339(latest), "usageBytes": total.2, "workingSetBytes": total.3 },
    })
}

/// Where the kernel keeps them: how long processes waited for a processor, memory and disks.
fn add_pressure(summary: &mut Value, at: SystemTime, pressures: Option<Pressures>) {
    let Some(pressures) = pressures else { return };
    summary["cpu"]["psi"] = pressure_value(&pressures.cpu);
    summary["memory"]["psi"] = pressure_value(&pressures.memory);
    summary["io"] = json!({ "time": rfc3339(at), "psi": pressure_value(&pressures.io) });
}

fn pressure_value(pressure: &Pressure) -> Value {
    // The field is documented in nanoseconds; upstream hands on the kernel's microseconds, and so do we.
    let stall = |stall: &Stall| {
        json!({ "total": stall.total.as_micros() as u64, "avg10": stall.avg10,
                "avg60": stall.avg60, "avg300": stall.avg300 })
    };
    json!({ "full": stall(&pressure.full), "some": stall(&pressure.some) })
}

fn cpu_value(at: SystemTime, cpu: Duration, rate: u64) -> Value {
    json!({ "time": rfc3339(at), "usageNanoCores": rate, "usageCoreNanoSeconds": cpu.as_nanos() as u64 })
}

pub fn rfc3339(t: SystemTime) -> String {
    Timestamp::try_from(t)
        .and_then(|t| Timestamp::from_second(t.as_second()))
        .map(|t| t.to_string())
        .unwrap_or_default()
}

// === Prometheus text ===

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
    let running =
        sandboxes.iter().filter(|s| s.state == skiff_runtime::PodSandboxState::Ready).count();
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

fn state_name(state: skiff_runtime::ContainerState) -> &'static str {
    match state {
        skiff_runtime::ContainerState::Created => "created",
        skiff_runtime::ContainerState::Running => "running",
        skiff_runtime::ContainerState::Exited => "exited",
        skiff_runtime::ContainerState::Unknown => "unknown",
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

// === the machine ===

/// All CPU time that was not idle, since boot.
fn node_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    // user, nice, system, (idle, iowait), irq, softirq, steal
    let busy: u64 = fields
        .enumerate()
        .filter(|(i, _)| !matches!(i, 3 | 4))
        .filter_map(|(_, f)| f.parse::<u64>().ok())
        .sum();
    Duration::from_millis(busy * 1000 / CLOCK_TICKS_PER_SECOND)
}

fn node_memory() -> u64 {
    let read = |field| meminfo(field).unwrap_or(0);
    read("MemTotal").saturating_sub(read("MemAvailable"))
}

fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|s| s.parse::<f64>().ok());
    Duration::from_secs_f64(seconds.unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_told_only_where_the_kernel_knows_it() {
        let plain = json!({ "cpu": {}, "memory": {} });
        let mut summary = plain.clone();
        add_pressure(&mut summary, SystemTime::UNIX_EPOCH, None);
        assert_eq!(summary, plain);
        let some = Stall { avg10: 1.5, total: Duration::from_micros(7), ..Stall::default() };
        let cpu = Pressure { some, ..Pressure::default() };
        let pressures = Pressures { cpu, ..Pressures::default() };
        add_pressure(&mut summary, SystemTime::UNIX_EPOCH, Some(pressures));
        assert_eq!(summary["cpu"]["psi"]["some"]["avg10"], 1.5);
        assert_eq!(summary["cpu"]["psi"]["some"]["total"], 7);
        assert_eq!(summary["io"]["psi"]["full"]["total"], 0);
    }
}
