//! The status a pod reports.
//!
//! Consumes the desired pod and what is observed, emits a `v1.PodStatus`. Counterpart: `generateAPIPodStatus` and
//! `pkg/kubelet/status/generate.go`.
//! Differs from upstream: conditions of other owners are not copied; the patch that carries this status merges
//! conditions by type, so they survive by themselves.
//! Invariant: pure; a phase once Succeeded or Failed stays.

mod conditions;
mod containers;

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{ContainerStatus as ApiContainerStatus, HostIP, PodIP, PodStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use skiff_runtime::ContainerStatus;

use super::{
    desired::{DesiredContainer, DesiredPod, Role},
    observed::{Observed, exit_code, has_exited, is_running},
    plan::{Stage, Why, has_completed, init_failed},
};
use crate::allocation::Rejection;
use conditions::{Verdict, conditions};
use containers::container_status;

/// What a status needs besides pod and observation.
pub struct StatusContext<'a> {
    pub node_ips: &'a [IpAddr],
    /// The container runtime's name, which begins container ids.
    pub runtime: &'a str,
    pub now: Timestamp,
    /// The status last reported, for transition times and terminal phases.
    pub previous: &'a PodStatus,
    /// Reads what a container left as its termination message.
    pub termination_message: &'a dyn Fn(&ContainerStatus) -> Option<String>,
}

/// As the API tells it, such as `containerd://0815`.
pub fn container_id(runtime: &str, id: &str) -> String {
    format!("{runtime}://{id}")
}

pub fn status(pod: &DesiredPod, seen: &Observed, ctx: &StatusContext<'_>) -> PodStatus {
    if seen.containers.is_empty() && is_over(ctx.previous) {
        return ctx.previous.clone();
    }
    if let Some(rejection) = &seen.rejected {
        return rejected(pod, rejection, ctx);
    }
    let list = |role: fn(Role) -> bool| -> Option<Vec<ApiContainerStatus>> {
        let of_role = pod.containers.iter().filter(|c| role(c.role));
        let statuses: Vec<_> = of_role.map(|c| container_status(pod, c, seen, ctx)).collect();
        (!statuses.is_empty()).then_some(statuses)
    };
    let init = list(|r| matches!(r, Role::Init | Role::Sidecar));
    let containers = list(|r| r == Role::Regular);
    let phase = phase(pod, seen, ctx.previous);
    let mut status = PodStatus {
        container_statuses: containers,
        ephemeral_container_statuses: list(|r| r == Role::Ephemeral),
        host_ip: ctx.node_ips.first().map(|ip| ip.to_string()),
        host_ips: Some(ctx.node_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect()),
        init_container_statuses: init,
        observed_generation: pod.object.metadata.generation,
        phase: Some(phase.into()),
        qos_class: Some(pod.qos.to_string()),
        start_time: seen.start_time.map(Time),
        ..PodStatus::default()
    };
    set_addresses(&mut status, pod, seen, ctx);
    set_reason(&mut status, seen, ctx.previous);
    status.conditions = Some(conditions(pod, seen, &status, ctx));
    status
}

/// The status is that of a pod of which nothing is left to see: what was reported last stands.
fn is_over(status: &PodStatus) -> bool {
    let all = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let ended = |c: &ApiContainerStatus| c.state.as_ref().is_some_and(|s| s.terminated.is_some());
    is_terminal(status) && all.into_iter().flatten().flatten().all(ended)
}

fn is_terminal(status: &PodStatus) -> bool {
    matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"))
}

/// A pod that never came to run here has no containers to speak of.
fn rejected(pod: &DesiredPod, rejection: &Rejection, ctx: &StatusContext<'_>) -> PodStatus {
    PodStatus {
        conditions: Some(vec![Verdict::YES.condition("PodScheduled", pod, ctx)]),
        message: Some(format!("Pod was rejected: {}", rejection.message)),
        observed_generation: pod.object.metadata.generation,
        phase: Some("Failed".into()),
        qos_class: Some(pod.qos.to_string()),
        reason: Some(rejection.reason.to_string()),
        start_time: ctx.previous.start_time.clone().or(Some(whole_seconds(ctx.now))),
        ..PodStatus::default()
    }
}

fn set_addresses(
    status: &mut PodStatus,
    pod: &DesiredPod,
    seen: &Observed,
    ctx: &StatusContext<'_>,
) {
    let ips: Vec<IpAddr> = match &seen.sandbox {
        Some(_) if pod.host_network() => ctx.node_ips.to_vec(),
        Some(sandbox) => sandbox.ips.clone(),
        None => Vec::new(),
    };
    if let Some(first) = ips.first() {
        status.pod_ip = Some(first.to_string());
        status.pod_ips = Some(ips.iter().map(|ip| PodIP { ip: ip.to_string() }).collect());
    }
}

/// Why the pod failed, if the node knows. What was told once stays, also when this agent was not the one to tell it.
fn set_reason(status: &mut PodStatus, seen: &Observed, previous: &PodStatus) {
    let (reason, message) = match (seen.stage, &seen.ending) {
        (
            Stage::Terminating(Why::DeadlineExceeded) | Stage::Terminated(Why::DeadlineExceeded),
            _,
        ) => (
            Some("DeadlineExceeded".into()),
            Some("Pod was active on the node longer than the specified deadline".into()),
        ),
        (Stage::Terminated(Why::EndedByNode), Some(ending)) => {
            (Some(ending.reason.into()), Some(ending.message.clone()))
        }
        _ if is_terminal(previous) => (previous.reason.clone(), previous.message.clone()),
        _ => return,
    };
    (status.reason, status.message) = (reason, message);
}

fn whole_seconds(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

// === the phase ===

fn phase(pod: &DesiredPod, seen: &Observed, previous: &PodStatus) -> &'static str {
    match previous.phase.as_deref() {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    match seen.stage {
        Stage::Terminated(Why::DeadlineExceeded | Why::EndedByNode) => "Failed",
        Stage::Terminated(_) | Stage::Gone => phase_at_the_end(pod, seen),
        // Terminal phases wait until nothing runs any more, so that a Job never counts a pod that still works.
        Stage::Terminating(_) if has_completed(pod, seen) => "Running",
        _ => phase_while_active(pod, seen),
    }
}

/// Succeeded only if every regular container ended well; what never ran counts as failed.
fn phase_at_the_end(pod: &DesiredPod, seen: &Observed) -> &'static str {
    let well = |c: &DesiredContainer| seen.newest(c.name()).is_some_and(|s| exit_code(s) == 0);
    if !init_failed(pod, seen) && pod.of_role(Role::Regular).all(well) {
        "Succeeded"
    } else {
        "Failed"
    }
}

/// Pending until every regular container has been created once.
fn phase_while_active(pod: &DesiredPod, seen: &Observed) -> &'static str {
    let created = |c: &DesiredContainer| {
        seen.newest(c.name()).is_some_and(|s| is_running(s) || has_exited(s))
    };
    if pod.of_role(Role::Regular).all(created) { "Running" } else { "Pending" }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::SignedDuration;
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::ending::Ending;

    fn told(seen: &Observed, previous: Value) -> Value {
        let pod = json!({
            "metadata": { "name": "p", "namespace": "ns", "uid": "u" },
            "spec": { "containers": [{ "name": "c", "image": "i" }] },
        });
        let pod = DesiredPod::new(Arc::new(serde_json::from_value(pod).expect("a pod")));
        let previous = serde_json::from_value(previous).expect("a status");
        let ctx = StatusContext {
            node_ips: &[],
            runtime: "skiff",
            now: Timestamp::UNIX_EPOCH,
            previous: &previous,
            termination_message: &|_| None,
        };
        serde_json::to_value(status(&pod, seen, &ctx)).expect("a status serializes")
    }

    fn evicted(stage: Stage) -> Observed {
        let ending = Ending {
            reason: "Evicted",
            message: "The node was low on resource: memory. ".into(),
            grace: SignedDuration::ZERO,
            disruption: true,
        };
        Observed { stage, ending: Some(ending), ..Observed::default() }
    }

    fn disruption(status: &Value) -> Option<&Value> {
        let conditions = status["conditions"].as_array().expect("there are some");
        conditions.iter().find(|c| c["type"] == "DisruptionTarget")
    }

    #[test]
    fn an_evicted_pod_fails_once_nothing_of_it_runs() {
        let ending = told(&evicted(Stage::Terminating(Why::EndedByNode)), json!({}));
        assert_eq!((&ending["phase"], &ending["reason"]), (&json!("Pending"), &Value::Null));
        assert_eq!(disruption(&ending), None);
        let ended = told(&evicted(Stage::Terminated(Why::EndedByNode)), json!({}));
        assert_eq!((&ended["phase"], &ended["reason"]), (&json!("Failed"), &json!("Evicted")));
        assert_eq!(ended["message"], "The node was low on resource: memory. ");
        let condition = disruption(&ended).expect("it was not the pod's fault");
        assert_eq!(condition["reason"], "TerminationByKubelet");
        assert_eq!(condition["message"], ended["message"]);
    }

    #[test]
    fn what_was_told_of_an_ended_pod_stands_when_nothing_is_left_to_see() {
        let state = json!({ "terminated": { "exitCode": 1, "reason": "Error" } });
        let previous = json!({
            "phase": "Failed", "reason": "Evicted", "message": "low",
            "containerStatuses": [{
                "name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 2, "state": state,
            }],
        });
        let seen = Observed { stage: Stage::Terminated(Why::Completed), ..Observed::default() };
        assert_eq!(told(&seen, previous.clone()), previous);
    }

    #[test]
    fn a_pod_that_others_failed_keeps_their_reason_while_its_containers_end() {
        let running = json!({ "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": { "running": {} } });
        let previous = json!({ "phase": "Failed", "reason": "NodeLost", "message": "gone", "containerStatuses": [running] });
        let seen = Observed { stage: Stage::Terminating(Why::Completed), ..Observed::default() };
        let status = told(&seen, previous);
        assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("NodeLost")));
        assert!(status["containerStatuses"][0]["state"]["running"].is_null(), "{status}");
    }
}
