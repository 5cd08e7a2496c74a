//! Requests and limits as cgroup values, and the quality of service they amount to.
//!
//! Consumes resource requirements, emits [`LinuxContainerResources`], the pod's cgroup and OOM scores.
//! Counterpart: `pkg/kubelet/cm/helpers_linux.go`, `pkg/kubelet/qos` and `pkg/apis/core/v1/helper/qos`.
//! Invariant: a container without a CPU request still gets the smallest weight, so it is never starved entirely.

use std::{collections::BTreeMap, fmt};

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use skiff_runtime::{HugepageLimit, LinuxContainerResources};

use skiff_api::scheduling::resources::{milli_value, value};

const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;
const QUOTA_PERIOD_MICROS: i64 = 100_000;
const MIN_QUOTA_MICROS: i64 = 1000;
const GUARANTEED_OOM_SCORE: i64 = -997;
const BEST_EFFORT_OOM_SCORE: i64 = 1000;
/// `system-node-critical`; such pods are as precious as guaranteed ones.
pub const SYSTEM_CRITICAL_PRIORITY: i32 = 2_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

// === impl QosClass ===

impl fmt::Display for QosClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

type Quantities = BTreeMap<String, Quantity>;

pub fn qos_class(spec: &PodSpec) -> QosClass {
    let own = spec.resources.as_ref().filter(|r| r.requests.is_some() || r.limits.is_some());
    let all: Vec<&ResourceRequirements> = match own {
        Some(pod_level) => vec![pod_level],
        None => {
            let none =
                const { &ResourceRequirements { claims: None, limits: None, requests: None } };
            containers(spec).map(|c| c.resources.as_ref().unwrap_or(none)).collect()
        }
    };
    if all.iter().all(|r| is_guaranteed(r)) {
        return QosClass::Guaranteed;
    }
    let asks =
        |m: &Option<Quantities>| ["cpu", "memory"].iter().any(|name| positive(m, name).is_some());
    if all.iter().any(|r| asks(&r.requests) || asks(&r.limits)) {
        QosClass::Burstable
    } else {
        QosClass::BestEffort
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn is_guaranteed(resources: &ResourceRequirements) -> bool {
    ["cpu", "memory"].iter().all(|name| {
        let limit = positive(&resources.limits, name);
        let request = positive(&resources.requests, name);
        limit.is_some() && (request.is_none() || request == limit)
    })
}

fn positive(quantities: &Option<Quantities>, name: &str) -> Option<i64> {
    quantities.as_ref()?.get(name).and_then(milli_value).filter(|n| *n > 0)
}

/// The cgroup of the pods of a class, below the runtime's root. Those of guaranteed ones stand beside the other classes.
pub fn cgroup_of_class(qos: QosClass) -> &'static str {
    match qos {
        QosClass::Guaranteed => "/kubepods",
        QosClass::Burstable => "/kubepods/burstable",
        QosClass::BestEffort => "/kubepods/besteffort",
    }
}

/// The pod's cgroup below the runtime's root.
pub fn cgroup_parent(qos: QosClass, uid: &str) -> String {
    format!("{}/pod{uid}", cgroup_of_class(qos))
}

/// What one container is given and may be given anew while it runs. Where it has no limit of its own, that of its pod
/// counts.
pub fn container_resources(pod: &PodSpec, container: &Container) -> LinuxContainerResources {
    let own = container.resources.clone().unwrap_or_default();
    let of_pod = pod.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit = |name: &str| {
        let own = own.limits.as_ref().and_then(|l| l.get(name)).filter(|q| value(q) != Some(0));
        own.or_else(|| of_pod?.get(name))
    };
    let cpu = limit("cpu").and_then(milli_value);
    let request = milli(&own.requests, "cpu").or(cpu);
    cgroup_values(request.unwrap_or(0), cpu, limit("memory").and_then(value))
}

/// Written once, when a container is made: out of memory it ends as a whole rather than losing one process, and it
/// swaps no more than `swap` bytes; by default it does not, which would blur its limit. Counterpart:
/// `singleProcessOOMKill` and `memorySwap`.
/// Differs from upstream: cgroup v1 has neither.
pub fn memory_policy(swap: u64) -> BTreeMap<String, String> {
    [("memory.oom.group", "1".to_owned()), ("memory.swap.max", swap.to_string())]
        .map(|(file, value)| (file.to_owned(), value))
        .into()
}

/// How much a container may swap where swap is limited: of the node's swap the share that it asks for of the node's
/// memory. Who is promised memory, or is asked to be content with what is left, does not swap.
pub fn swap_limit(pod: &PodSpec, container: &Container, memory: u64, swap: u64) -> u64 {
    let own = container.resources.clone().unwrap_or_default();
    let read = |quantities: &Option<Quantities>| quantities.as_ref()?.get("memory").and_then(value);
    let limit = read(&own.limits);
    let request = read(&own.requests).or(limit).unwrap_or(0);
    let is_critical = pod.priority.is_some_and(|priority| priority >= SYSTEM_CRITICAL_PRIORITY);
    if is_critical
        || qos_class(pod) != QosClass::Burstable
        || request == 0
        || limit == Some(request)
        || memory == 0
    {
        return 0;
    }
    (request as f64 / memory as f64 * swap as f64) as u64
}

/// What the pod as a whole is given: limits bind only if every container has one.
pub fn pod_resources(spec: &PodSpec) -> LinuxContainerResources {
    let own = spec.resources.clone().unwrap_or_default();
    let requests = milli(&own.requests, "cpu").unwrap_or_else(|| total_request(spec));
    let cpu_limit = milli(&own.limits, "cpu").or_else(|| total_limit(spec, "cpu", milli_value));
    let memory = own.limits.as_ref().and_then(|l| l.get("memory")).and_then(value);
    let memory = memory.or_else(|| total_limit(spec, "memory", value));
    cgroup_values(requests, cpu_limit, memory)
}

pub fn shares(request_milli: i64) -> u64 {
    let shares = request_milli.saturating_mul(SHARES_PER_CPU) / 1000;
    shares.clamp(MIN_SHARES, MAX_SHARES).unsigned_abs()
}

fn cgroup_values(
    request_milli: i64,
    limit_milli: Option<i64>,
    memory: Option<i64>,
) -> LinuxContainerResources {
    let limit = limit_milli.filter(|m| *m > 0);
    let quota = |m: i64| m.saturating_mul(QUOTA_PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS);
    LinuxContainerResources {
        cpu_shares: shares(request_milli),
        cpu_period: limit.map_or(0, |_| QUOTA_PERIOD_MICROS.unsigned_abs()),
        cpu_quota: limit.map_or(0, quota),
        memory_limit_bytes: memory.unwrap_or(0),
        ..LinuxContainerResources::default()
    }
}

fn milli(quantities: &Option<Quantities>, name: &str) -> Option<i64> {
    quantities.as_ref()?.get(name).and_then(milli_value)
}

fn total_request(spec: &PodSpec) -> i64 {
    let request = |c: &Container| {
        let r = c.resources.as_ref();
        r.and_then(|r| milli(&r.requests, "cpu").or_else(|| milli(&r.limits, "cpu"))).unwrap_or(0)
    };
    let regular: i64 = spec.containers.iter().map(request).sum();
    let mut sidecars = 0;
    let mut peak = 0;
    for c in spec.init_containers.iter().flatten() {
        if c.restart_policy.as_deref() == Some("Always") {
            sidecars += request(c);
            peak = peak.max(sidecars);
        } else {
            peak = peak.max(sidecars + request(c));
        }
    }
    peak.max(regular + sidecars)
}

/// `None` as soon as one container is unlimited.
fn total_limit(spec: &PodSpec, name: &str, read: fn(&Quantity) -> Option<i64>) -> Option<i64> {
    let limit = |c: &Container| c.resources.as_ref()?.limits.as_ref()?.get(name).and_then(read);
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let init: Vec<&Container> = spec.init_containers.iter().flatten().collect();
    let sidecars: i64 = init.iter().copied().filter(is_sidecar).map(limit).sum::<Option<i64>>()?;
    let regular: i64 = spec.containers.iter().map(limit).sum::<Option<i64>>()?;
    let once =
        init.into_iter().filter(|c| !is_sidecar(c)).map(limit).collect::<Option<Vec<i64>>>()?;
    Some((regular + sidecars).max(sidecars + once.into_iter().max().unwrap_or(0)))
}

/// A limit for each of the node's page `sizes` (`2Mi`): pages that were not asked for are not to be had.
pub fn hugepage_limits<'a>(
    container: &Container,
    sizes: impl Iterator<Item = &'a String>,
) -> Vec<HugepageLimit> {
    let limits = container.resources.as_ref().and_then(|r| r.limits.as_ref());
    let limit_of = |size: &String| HugepageLimit {
        // The kernel writes 2MB for what Kubernetes writes 2Mi.
        page_size: format!("{}B", size.trim_end_matches('i')),
        limit: limits
            .and_then(|l| l.get(&format!("hugepages-{size}")).and_then(value))
            .map_or(0, i64::unsigned_abs),
    };
    sizes.map(limit_of).collect()
}

/// How willingly the kernel kills this container when memory is short.
pub fn oom_score_adj(
    spec: &PodSpec,
    qos: QosClass,
    container: &Container,
    memory_capacity: u64,
) -> i64 {
    if spec.priority.is_some_and(|p| p >= SYSTEM_CRITICAL_PRIORITY) {
        return GUARANTEED_OOM_SCORE;
    }
    match qos {
        QosClass::Guaranteed => GUARANTEED_OOM_SCORE,
        QosClass::BestEffort => BEST_EFFORT_OOM_SCORE,
        QosClass::Burstable => {
            let request = container
                .resources
                .as_ref()
                .and_then(|r| r.requests.as_ref()?.get("memory").and_then(value));
            let capacity = i64::try_from(memory_capacity).unwrap_or(i64::MAX).max(1);
            let score =
                1000 - (1000i128 * i128::from(request.unwrap_or(0)) / i128::from(capacity)) as i64;
            score.clamp(1000 + GUARANTEED_OOM_SCORE, BEST_EFFORT_OOM_SCORE - 1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(resources: serde_json::Value) -> PodSpec {
        serde_json::from_value(json!({ "containers": [{ "name": "c", "resources": resources }] }))
            .expect("a spec")
    }

    #[test]
    fn classes_and_scores() {
        for (resources, class, score) in [
            (json!({}), QosClass::BestEffort, 1000),
            (json!({"limits": {"cpu": "1", "memory": "1Gi"}}), QosClass::Guaranteed, -997),
            (json!({"requests": {"memory": "1Gi"}}), QosClass::Burstable, 750),
            (json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1"}}), QosClass::Burstable, 999),
            (json!({"requests": {"memory": "4Gi"}}), QosClass::Burstable, 3),
        ] {
            let spec = spec(resources);
            let qos = qos_class(&spec);
            assert_eq!(qos, class);
            assert_eq!(oom_score_adj(&spec, qos, &spec.containers[0], 4 << 30), score);
        }
    }

    #[test]
    fn cgroup_values_follow_requests_and_limits() {
        let limited =
            spec(json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "500m", "memory": "64Mi"}}));
        let r = container_resources(&limited, &limited.containers[0]);
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.cpu_period, r.memory_limit_bytes),
            (256, 50_000, 100_000, 64 << 20)
        );
        assert_eq!(pod_resources(&limited).memory_limit_bytes, 64 << 20);
        let unlimited = spec(json!({}));
        let free = container_resources(&unlimited, &unlimited.containers[0]);
        assert_eq!((free.cpu_shares, free.cpu_quota, free.memory_limit_bytes), (2, 0, 0));
    }

    #[test]
    fn a_container_without_limits_has_those_of_its_pod() {
        let mut shared = spec(json!({"limits": {"memory": "16Mi"}}));
        shared.resources =
            serde_json::from_value(json!({"limits": {"cpu": "2", "memory": "64Mi"}}))
                .expect("resources");
        let r = container_resources(&shared, &shared.containers[0]);
        assert_eq!((r.cpu_shares, r.cpu_quota, r.memory_limit_bytes), (2048, 200_000, 16 << 20));
    }

    #[test]
    fn pages_not_asked_for_are_not_to_be_had() {
        let asks = spec(json!({"limits": {"hugepages-2Mi": "4Mi"}}));
        let sizes = ["1Gi".to_owned(), "2Mi".to_owned()];
        let limits = hugepage_limits(&asks.containers[0], sizes.iter());
        let limits: Vec<_> = limits.iter().map(|l| (l.page_size.as_str(), l.limit)).collect();
        assert_eq!(limits, [("1GB", 0), ("2MB", 4 << 20)]);
    }

    #[test]
    fn only_burstable_containers_swap_and_by_what_they_ask_for() {
        let (memory, swap) = (8 << 30, 4 << 30);
        for (resources, expected) in [
            ("{requests: {memory: 1Gi}, limits: {memory: 2Gi}}", 512 << 20),
            ("{requests: {memory: 2Gi}}", 1 << 30),
            ("{requests: {cpu: 1, memory: 1Gi}, limits: {memory: 1Gi}}", 0),
            ("{requests: {cpu: 1, memory: 1Gi}, limits: {cpu: 1, memory: 1Gi}}", 0),
            ("{requests: {cpu: 1}}", 0),
            ("{}", 0),
        ] {
            let spec = |more: &str| -> PodSpec {
                let text = format!("{{containers: [{{name: c, resources: {resources}}}]{more}}}");
                serde_saphyr::from_str(&text).expect("a spec")
            };
            let plain = spec("");
            assert_eq!(
                swap_limit(&plain, &plain.containers[0], memory, swap),
                expected,
                "{resources}"
            );
            let critical = spec(", priority: 2000000000");
            assert_eq!(swap_limit(&critical, &critical.containers[0], memory, swap), 0, "critical");
        }
    }
}
