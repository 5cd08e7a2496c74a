//! The conditions of a pod, each with why it does not hold.
//!
//! Counterpart: `pkg/kubelet/status/generate.go`. Invariant: a transition time moves only when its condition flips.

use k8s_openapi::api::core::v1::{PodCondition, PodStatus};

use super::{StatusContext, whole_seconds};
use crate::pod::{
    desired::{DesiredContainer, DesiredPod, Role},
    observed::{Observed, exit_code, has_exited, is_running},
    plan::{Stage, Why},
    resize,
};

/// Whether a condition holds, and why.
#[derive(Clone)]
pub struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

// === impl Verdict ===

impl Verdict {
    pub const YES: Verdict = Verdict { status: true, reason: None, message: None };

    fn no(reason: &'static str, message: String) -> Self {
        Verdict { status: false, reason: Some(reason), message: Some(message) }
    }

    pub fn condition(self, kind: &str, pod: &DesiredPod, ctx: &StatusContext<'_>) -> PodCondition {
        let status = if self.status { "True" } else { "False" };
        let before = ctx
            .previous
            .conditions
            .iter()
            .flatten()
            .find(|c| c.type_ == kind && c.status == status);
        let since = before.and_then(|c| c.last_transition_time.clone());
        PodCondition {
            last_probe_time: None,
            last_transition_time: since.or_else(|| Some(whole_seconds(ctx.now))),
            message: self.message,
            observed_generation: pod.object.metadata.generation,
            reason: self.reason.map(str::to_owned),
            status: status.into(),
            type_: kind.into(),
        }
    }
}

pub fn conditions(
    pod: &DesiredPod,
    seen: &Observed,
    status: &PodStatus,
    ctx: &StatusContext<'_>,
) -> Vec<PodCondition> {
    let completed = status.phase.as_deref() == Some("Succeeded");
    let failed = status.phase.as_deref() == Some("Failed");
    let containers_ready = containers_ready(pod, status, completed, failed);
    let ready = match readiness_gates(pod) {
        Some(message) if containers_ready.status => Verdict::no("ReadinessGatesNotReady", message),
        _ => containers_ready.clone(),
    };
    let sandbox = Verdict { status: seen.ready_sandbox().is_some(), ..Verdict::YES };
    [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized(pod, seen, completed)),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict::YES),
    ]
    .into_iter()
    .map(|(kind, verdict)| verdict.condition(kind, pod, ctx))
    .chain(disruption(pod, seen, ctx))
    .chain(resize::conditions(seen, ctx))
    .collect()
}

/// Told with the end and not before: a pod that still runs has not been disrupted.
fn disruption(pod: &DesiredPod, seen: &Observed, ctx: &StatusContext<'_>) -> Option<PodCondition> {
    let message = seen.ending.as_ref()?.disruption_message()?;
    let (reason, message) = (Some("TerminationByKubelet"), Some(message.to_owned()));
    let verdict = Verdict { reason, message, ..Verdict::YES };
    (seen.stage == Stage::Terminated(Why::EndedByNode))
        .then(|| verdict.condition("DisruptionTarget", pod, ctx))
}

/// All init containers are done and all sidecars have started, or a regular container has been created since.
fn initialized(pod: &DesiredPod, seen: &Observed, completed: bool) -> Verdict {
    if completed {
        return Verdict { reason: Some("PodCompleted"), ..Verdict::YES };
    }
    let created = pod.of_role(Role::Regular).any(|c| seen.newest(c.name()).is_some());
    let incomplete = incomplete_init(pod, seen);
    if created || incomplete.is_empty() {
        return Verdict::YES;
    }
    Verdict::no(
        "ContainersNotInitialized",
        format!("containers with incomplete status: [{}]", incomplete.join(" ")),
    )
}

fn incomplete_init<'a>(pod: &'a DesiredPod, seen: &Observed) -> Vec<&'a str> {
    let done = |c: &DesiredContainer| {
        seen.newest(c.name()).is_some_and(|s| match c.role {
            Role::Sidecar => is_running(s) && seen.health_of(s).started,
            _ => has_exited(s) && exit_code(s) == 0,
        })
    };
    pod.init().filter(|c| !done(c)).map(|c| c.name()).collect()
}

fn containers_ready(
    pod: &DesiredPod,
    status: &PodStatus,
    completed: bool,
    failed: bool,
) -> Verdict {
    if completed {
        return Verdict { status: false, reason: Some("PodCompleted"), message: None };
    }
    if failed {
        return Verdict { status: false, reason: Some("PodFailed"), message: None };
    }
    let is_sidecar = |name: &str| pod.container(name).is_some_and(|c| c.role == Role::Sidecar);
    let sidecars = status.init_container_statuses.iter().flatten().filter(|s| is_sidecar(&s.name));
    let relevant = sidecars.chain(status.container_statuses.iter().flatten());
    let unready: Vec<&str> = relevant.filter(|s| !s.ready).map(|s| s.name.as_str()).collect();
    if unready.is_empty() {
        Verdict::YES
    } else {
        Verdict::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        )
    }
}

/// What the readiness gates say that are not satisfied.
fn readiness_gates(pod: &DesiredPod) -> Option<String> {
    let conditions = pod.object.status.as_ref().and_then(|s| s.conditions.as_ref());
    let messages: Vec<String> = pod
        .spec()
        .readiness_gates
        .iter()
        .flatten()
        .filter_map(|gate| {
            let kind = &gate.condition_type;
            match conditions.into_iter().flatten().find(|c| c.type_ == *kind) {
                None => Some(format!(
                    "corresponding condition of pod readiness gate {kind:?} does not exist."
                )),
                Some(c) if c.status != "True" => Some(format!(
                    "the status of pod readiness gate {kind:?} is not \"True\", but {}",
                    c.status
                )),
                Some(_) => None,
            }
        })
        .collect();
    (!messages.is_empty()).then(|| messages.join(", "))
}
