//! What a running pod still has to be given, or to give back, before it has what it was granted.
//!
//! Consumes the granted pod and what its containers have been given, decides per container whether that can happen in
//! place, emits [`Change`]s. Counterpart: `computePodResizeAction` of `pkg/kubelet/kuberuntime`.
//! Invariant: level-triggered: compares what is with what should be, so a resize cut short by a crash goes on.

use k8s_openapi::{
    api::core::v1::{PodCondition, ResourceRequirements},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::json;
use skiff_api::scheduling::resources::milli_value;
use skiff_runtime::{LinuxContainerResources, PodSandboxStatus};

use super::{
    desired::{DesiredContainer, DesiredPod, Role},
    observed::Observed,
    plan::{Stage, StepKey},
    status::StatusContext,
};
use crate::container::resources::pod_resources;

/// The conditions that come and go with a resize.
pub const CONDITIONS: [&str; 2] = [PENDING, IN_PROGRESS];
const PENDING: &str = "PodResizePending";
const IN_PROGRESS: &str = "PodResizeInProgress";

const RESIZABLE: [&str; 2] = ["cpu", "memory"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    None,
    InPlace,
    Restart,
}

/// What has to happen to a running container, by its resize policies.
pub fn change(container: &DesiredContainer, seen: &Observed) -> Change {
    let granted = container.spec.resources.clone().unwrap_or_default();
    let given = seen.newest(container.name()).and_then(|c| seen.actuated.get(&c.id));
    let Some(given) = given.filter(|_| matches!(container.role, Role::Regular | Role::Sidecar))
    else {
        return Change::None;
    };
    let differing = RESIZABLE.into_iter().filter(|name| differs(name, given, &granted));
    differing.fold(Change::None, |change, name| match change {
        Change::Restart => change,
        _ if restarts(container, name) => Change::Restart,
        _ => Change::InPlace,
    })
}

fn restarts(container: &DesiredContainer, resource: &str) -> bool {
    let mut policies = container.spec.resize_policy.iter().flatten();
    policies.any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
}

fn differs(resource: &str, a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    let amounts = |r: &ResourceRequirements| {
        [&r.requests, &r.limits].map(|q| q.as_ref()?.get(resource).and_then(milli_value))
    };
    amounts(a) != amounts(b)
}

/// Whether one and the same pod has been granted other resources since.
pub fn grants_differ(before: &DesiredPod, now: &DesiredPod) -> bool {
    let granted = |pod: &DesiredPod| {
        let containers = pod.containers.iter().filter(|c| c.role != Role::Ephemeral);
        let containers: Vec<_> =
            containers.map(|c| c.spec.resources.clone().unwrap_or_default()).collect();
        (pod.spec().resources.clone(), containers)
    };
    granted(before) != granted(now)
}

/// Whether the pod as a whole has other limits than its containers add up to now.
pub fn pod_changes(pod: &DesiredPod, sandbox: &PodSandboxStatus) -> bool {
    !same_limits(&sandbox.resources, &pod_resources(pod.spec()))
}

/// Whether a step has to bring limits up to date. Containers that restart get theirs then.
pub fn is_needed(pod: &DesiredPod, seen: &Observed) -> bool {
    seen.ready_sandbox().is_some_and(|sandbox| pod_changes(pod, sandbox))
        || pod.containers.iter().any(|c| change(c, seen) == Change::InPlace)
}

/// Whether every running container has what it was granted.
pub fn is_done(pod: &DesiredPod, seen: &Observed) -> bool {
    !is_needed(pod, seen)
        && !seen.in_flight.contains(&StepKey::Resources)
        && pod.containers.iter().all(|c| change(c, seen) == Change::None)
}

fn same_limits(a: &LinuxContainerResources, b: &LinuxContainerResources) -> bool {
    let limit = |value: i64| (value > 0).then_some(value);
    a.cpu_shares == b.cpu_shares
        && limit(a.cpu_quota) == limit(b.cpu_quota)
        && limit(a.memory_limit_bytes) == limit(b.memory_limit_bytes)
}

/// The looser of both, limit by limit: what a pod needs while its containers go from one to the other.
pub fn widest(a: &LinuxContainerResources, b: &LinuxContainerResources) -> LinuxContainerResources {
    let looser = |a: i64, b: i64| if a <= 0 || b <= 0 { -1 } else { a.max(b) };
    LinuxContainerResources {
        cpu_shares: a.cpu_shares.max(b.cpu_shares),
        cpu_period: a.cpu_period.max(b.cpu_period),
        cpu_quota: looser(a.cpu_quota, b.cpu_quota),
        memory_limit_bytes: looser(a.memory_limit_bytes, b.memory_limit_bytes),
        ..LinuxContainerResources::default()
    }
}

/// The same limits as an update, in which the absence of a limit has to be said.
pub fn as_update(limits: &LinuxContainerResources) -> LinuxContainerResources {
    let said = |limit: i64| if limit <= 0 { -1 } else { limit };
    LinuxContainerResources {
        cpu_shares: limits.cpu_shares,
        cpu_period: limits.cpu_period,
        cpu_quota: said(limits.cpu_quota),
        memory_limit_bytes: said(limits.memory_limit_bytes),
        ..LinuxContainerResources::default()
    }
}

/// The resize as conditions of the pod; none for a pod that is not being resized.
pub fn conditions(seen: &Observed, ctx: &StatusContext<'_>) -> Vec<PodCondition> {
    if seen.stage != Stage::Active {
        return Vec::new();
    }
    let pending = seen.resize.pending.as_ref().map(|(pending, generation)| {
        let message = Some(pending.message.clone());
        condition(PENDING, Some(pending.reason.to_owned()), message, *generation, ctx)
    });
    let failure = seen.failures.get(&StepKey::Resources);
    let in_progress = seen.resize.in_progress.map(|generation| {
        let (reason, message) =
            (failure.map(|_| "Error".into()), failure.map(|f| f.message.clone()));
        condition(IN_PROGRESS, reason, message, generation, ctx)
    });
    pending.into_iter().chain(in_progress).collect()
}

fn condition(
    type_: &str,
    reason: Option<String>,
    message: Option<String>,
    generation: i64,
    ctx: &StatusContext<'_>,
) -> PodCondition {
    let before = ctx.previous.conditions.iter().flatten().find(|c| c.type_ == type_);
    PodCondition {
        last_transition_time: before
            .and_then(|c| c.last_transition_time.clone())
            .or(Some(Time(ctx.now))),
        message,
        observed_generation: Some(generation),
        reason,
        status: "True".into(),
        type_: type_.into(),
        ..PodCondition::default()
    }
}

/// The resize that a status speaks of: where an agent that has just started takes up again.
pub fn in_progress_of(conditions: &[PodCondition]) -> Option<i64> {
    conditions.iter().find(|c| c.type_ == IN_PROGRESS)?.observed_generation
}

/// Text of the events of a resize: what is wanted, as JSON.
pub fn message(prefix: &str, pod: &DesiredPod, generation: i64, error: Option<&str>) -> String {
    let list = |init: bool| -> Vec<_> {
        let is_init = |role| matches!(role, Role::Init | Role::Sidecar);
        let of_list =
            pod.containers.iter().filter(|c| c.role != Role::Ephemeral && is_init(c.role) == init);
        of_list
            .map(|c| json!({ "name": c.name(), "resources": c.spec.resources.clone().unwrap_or_default() }))
            .collect()
    };
    let mut summary = serde_json::Map::new();
    for (key, containers) in [("initContainers", list(true)), ("containers", list(false))] {
        if !containers.is_empty() {
            summary.insert(key.into(), containers.into());
        }
    }
    summary.insert("generation".into(), generation.into());
    if let Some(error) = error {
        summary.insert("error".into(), error.into());
    }
    format!("{prefix}: {}", serde_json::Value::Object(summary))
}
