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

/// The pod's cgroup below the runtime's root.
pub fn cgroup_parent(qos: QosClass, uid: &str) -> String {
    match qos {
        QosClass::Guaranteed => format!("/kubepods/pod{uid}"),
        QosClass::Burstable => format!("/kubepods/burstable/pod{uid}"),
        QosClass::BestEffort => format!("/kubepods/besteffort/pod{uid}"),
    }
}

/// What one container is given.
pub fn container_resources(container: &Container, oom_score_adj: i64) -> LinuxContainerResources {
    let resources = container.resources.clone().unwrap_or_default();
    let request = milli(&resources.requests, "cpu").or_else(|| milli(&resources.limits, "cpu"));
    let memory = resources.limits.as_ref().and_then(|l| l.get("memory")).and_then(value);
    LinuxContainerResources {
        oom_score_adj,
        hugepage_limits: hugepages(resources.limits.as_ref()),
        ..cgroup_values(request.unwrap_or(0), milli(&resources.limits, "cpu"), memory)
    }
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

fn cgroup_values(
    request_milli: i64,
    limit_milli: Option<i64>,
    memory: Option<i64>,
) -> LinuxContainerResources {
    let shares = (request_milli.saturating_mul(SHARES_PER_CPU) / 1000).clamp(MIN_SHARES, 262_144);
    let limit = limit_milli.filter(|m| *m > 0);
    let quota = |m: i64| m.saturating_mul(QUOTA_PERIOD_MICROS / 1000).max(MIN_QUOTA_MICROS);
    LinuxContainerResources {
        cpu_shares: shares.unsigned_abs(),
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

fn hugepages(limits: Option<&Quantities>) -> Vec<HugepageLimit> {
    let pages = limits.into_iter().flatten().filter_map(|(name, quantity)| {
        let size = name.strip_prefix("hugepages-")?;
        // The kernel writes 2MB for what Kubernetes writes 2Mi.
        let page_size = format!("{}B", size.trim_end_matches('i'));
        Some(HugepageLimit { page_size, limit: value(quantity)?.unsigned_abs() })
    });
    pages.collect()
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
        let r = container_resources(&limited.containers[0], 0);
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.cpu_period, r.memory_limit_bytes),
            (256, 50_000, 100_000, 64 << 20)
        );
        assert_eq!(pod_resources(&limited).memory_limit_bytes, 64 << 20);
        let free = container_resources(&spec(json!({})).containers[0], 0);
        assert_eq!((free.cpu_shares, free.cpu_quota, free.memory_limit_bytes), (2, 0, 0));
    }
}
