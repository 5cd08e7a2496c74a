//! `/stats/summary`: node, pods and containers as one JSON document.
//!
//! Counterpart: `k8s.io/kubelet/pkg/apis/stats/v1alpha1`. Invariant: a pod is the sum of its containers.

use std::time::{Duration, SystemTime};

use futures::future;
use http::Response;
use jiff::Timestamp;
use serde_json::{Value, json};
use skiff_runtime::{Pressure, Pressures, Stall};

use super::{
    PodStats, collect,
    machine::{node_cpu, node_memory, uptime},
    volumes,
};
use crate::server::{Body, Refusal, Server, json as json_response};

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
