//! The status a pod reports.
//!
//! Consumes the desired pod and what is observed, emits a `v1.PodStatus`. Counterpart: `generateAPIPodStatus` and
//! `pkg/kubelet/status/generate.go`.
//! Differs from upstream: conditions of other owners are not copied; the patch that carries this status merges
//! conditions by type, so they survive by themselves.
//! Invariant: pure; a phase once Succeeded or Failed stays; transition times move only when a condition flips.

use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
        ContainerStateWaiting, ContainerStatus as ApiContainerStatus, ContainerUser, HostIP,
        LinuxContainerUser, PodCondition, PodIP, PodStatus, ResourceRequirements,
        VolumeMountStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use skiff_api::duration;
use skiff_runtime::ContainerStatus;

use super::{
    backoff::CONTAINER,
    desired::{DesiredContainer, DesiredPod, Role},
    observed::{Failure, Observed, exit_code, finished_at, has_exited, is_running},
    plan::{Stage, StepKey, Why, has_completed, init_failed, starts_again},
    resize,
};
use crate::allocation::Rejection;

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
    let scheduled = Verdict { status: true, reason: None, message: None };
    PodStatus {
        conditions: Some(vec![scheduled.condition("PodScheduled", pod, ctx)]),
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

// === containers ===

fn container_status(
    pod: &DesiredPod,
    container: &DesiredContainer,
    seen: &Observed,
    ctx: &StatusContext<'_>,
) -> ApiContainerStatus {
    let mut attempts = seen.attempts(container.name());
    let current = attempts.next();
    let previous = attempts.next();
    let health = current.map(|c| seen.health_of(c));
    let running = current.is_some_and(is_running) && !starting(container, seen);
    let started = running && health.as_ref().is_some_and(|h| h.started);
    let (state, last_state) = states(pod, container, current, previous, seen, ctx);
    let done =
        container.role == Role::Init && current.is_some_and(|c| has_exited(c) && exit_code(c) == 0);
    let ready = match container.role {
        Role::Init => done,
        Role::Ephemeral => false,
        _ => {
            started
                && health.is_some_and(|h| h.ready)
                && !matches!(seen.stage, Stage::Terminated(_))
        }
    };
    let granted = container.spec.resources.clone().unwrap_or_default();
    let given = current.filter(|c| is_running(c)).and_then(|c| seen.actuated.get(&c.id));
    let resources = given.cloned().unwrap_or_else(|| granted.clone());
    ApiContainerStatus {
        allocated_resources: granted.requests,
        container_id: current.map(|c| container_id(ctx.runtime, &c.id)),
        image: current.map_or(container.image(), |c| c.image.as_str()).to_owned(),
        image_id: current.map(|c| c.image_ref.clone()).unwrap_or_default(),
        last_state,
        name: container.name().to_owned(),
        ready,
        resources: current.map(|_| ResourceRequirements { claims: None, ..resources }),
        restart_count: current.map_or(0, |c| i32::try_from(c.metadata.attempt).unwrap_or(i32::MAX)),
        started: (container.role != Role::Ephemeral).then_some(started),
        state: Some(state),
        user: current.and_then(user),
        volume_mounts: volume_mounts(container),
        ..ApiContainerStatus::default()
    }
}

/// The process exists but its post-start hook has not returned.
fn starting(container: &DesiredContainer, seen: &Observed) -> bool {
    let key = StepKey::Container(container.name().into());
    seen.stage == Stage::Active && seen.in_flight.contains(&key)
}

/// The state now, and the last one that ended.
fn states(
    pod: &DesiredPod,
    container: &DesiredContainer,
    current: Option<&ContainerStatus>,
    previous: Option<&ContainerStatus>,
    seen: &Observed,
    ctx: &StatusContext<'_>,
) -> (ApiState, Option<ApiState>) {
    let ended = |c: &ContainerStatus| terminated_state(container, c, ctx);
    let last = previous.filter(|c| has_exited(c)).map(ended);
    match current {
        Some(c) if is_running(c) => (running_state(c), Some(last.unwrap_or_default())),
        Some(c) if has_exited(c) => match waiting_after_exit(pod, container, c, seen, ctx.now) {
            Some(waiting) => (waiting, Some(ended(c))),
            None => (ended(c), Some(last.unwrap_or_default())),
        },
        _ => (waiting_to_start(pod, container, seen, ctx.now), Some(last.unwrap_or_default())),
    }
}

fn running_state(c: &ContainerStatus) -> ApiState {
    let started_at = c.started_at.and_then(|t| Timestamp::try_from(t).ok()).map(whole_seconds);
    ApiState { running: Some(ContainerStateRunning { started_at }), ..ApiState::default() }
}

fn terminated_state(
    container: &DesiredContainer,
    c: &ContainerStatus,
    ctx: &StatusContext<'_>,
) -> ApiState {
    let time = |t: Option<std::time::SystemTime>| {
        t.and_then(|t| Timestamp::try_from(t).ok()).map(whole_seconds)
    };
    let wants_message = container.spec.termination_message_path.is_some();
    let message = if wants_message { (ctx.termination_message)(c) } else { None };
    let reason = if c.reason.is_empty() { "ContainerStatusUnknown" } else { &c.reason };
    let terminated = ContainerStateTerminated {
        container_id: Some(container_id(ctx.runtime, &c.id)),
        exit_code: exit_code(c),
        finished_at: time(c.finished_at),
        message: message.or_else(|| (!c.message.is_empty()).then(|| c.message.clone())),
        reason: Some(reason.to_owned()),
        signal: None,
        started_at: time(c.started_at.or(Some(c.created_at))),
    };
    ApiState { terminated: Some(terminated), ..ApiState::default() }
}

/// An exited container that will be started again waits; one that ended for good stays terminated.
fn waiting_after_exit(
    pod: &DesiredPod,
    container: &DesiredContainer,
    c: &ContainerStatus,
    seen: &Observed,
    now: Timestamp,
) -> Option<ApiState> {
    if seen.stage != Stage::Active || !starts_again(container, c, seen) {
        return None;
    }
    let failure = seen.failures.get(&StepKey::Container(container.name().into()));
    let backoff = seen.restarts.get(container.name());
    // Its first restart is under way, and came without a wait.
    let backoff = backoff.filter(|b| !b.begins_with(finished_at(c), CONTAINER));
    let backoff = backoff.filter(|b| b.retry_at(finished_at(c)) > now || failure.is_none());
    let Some(backoff) = backoff else {
        return failure.map(|failure| failed(container, failure, now));
    };
    let message = format!(
        "back-off {} restarting failed container={} pod={}",
        duration::print(backoff.delay.as_secs() * 1_000_000_000),
        container.name(),
        pod.key
    );
    Some(waiting("CrashLoopBackOff", Some(message)))
}

fn waiting_to_start(
    pod: &DesiredPod,
    container: &DesiredContainer,
    seen: &Observed,
    now: Timestamp,
) -> ApiState {
    if let Some(failure) = seen.failures.get(&StepKey::Container(container.name().into())) {
        return failed(container, failure, now);
    }
    let blocked = container.role != Role::Ephemeral && pod.init().next().is_some();
    waiting(if blocked { "PodInitializing" } else { "ContainerCreating" }, None)
}

/// A pull that failed shows its error first, and then that the next one is waited for.
fn failed(container: &DesiredContainer, failure: &Failure, now: Timestamp) -> ApiState {
    let Failure { reason, message, .. } = failure;
    if failure.backs_off_at().is_some_and(|at| at <= now) {
        let message =
            format!("Back-off pulling image {:?}: {reason}: {message}", container.image());
        return waiting("ImagePullBackOff", Some(message));
    }
    waiting(reason, Some(message.clone()))
}

fn waiting(reason: &str, message: Option<String>) -> ApiState {
    let waiting = ContainerStateWaiting { message, reason: Some(reason.to_owned()) };
    ApiState { waiting: Some(waiting), ..ApiState::default() }
}

fn whole_seconds(t: Timestamp) -> Time {
    Time(Timestamp::from_second(t.as_second()).unwrap_or(t))
}

fn user(c: &ContainerStatus) -> Option<ContainerUser> {
    let user = c.user.as_ref()?;
    let linux = LinuxContainerUser {
        gid: user.gid.into(),
        supplemental_groups: Some(user.supplemental_groups.iter().map(|&g| g.into()).collect()),
        uid: user.uid.into(),
    };
    Some(ContainerUser { linux: Some(linux) })
}

fn volume_mounts(container: &DesiredContainer) -> Option<Vec<VolumeMountStatus>> {
    let mounts = container.spec.volume_mounts.as_ref().filter(|m| !m.is_empty())?;
    let statuses = mounts.iter().map(|m| VolumeMountStatus {
        mount_path: m.mount_path.clone(),
        name: m.name.clone(),
        read_only: m.read_only,
        recursive_read_only: m.read_only.filter(|ro| *ro).map(|_| "Disabled".to_owned()),
        volume_status: None,
    });
    Some(statuses.collect())
}

// === conditions ===

/// All init containers are done and all sidecars have started, or a regular container has been created since.
fn initialized(pod: &DesiredPod, seen: &Observed) -> bool {
    let created = pod.of_role(Role::Regular).any(|c| seen.newest(c.name()).is_some());
    created
        || pod.init().all(|c| {
            let newest = seen.newest(c.name());
            match c.role {
                Role::Sidecar => newest.is_some_and(|s| is_running(s) && seen.health_of(s).started),
                _ => newest.is_some_and(|s| has_exited(s) && exit_code(s) == 0),
            }
        })
}

fn conditions(
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
    let initialized = if initialized(pod, seen) || completed {
        Verdict { status: true, reason: completed.then_some("PodCompleted"), message: None }
    } else {
        let names = incomplete_init(pod, seen);
        Verdict::no(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", names.join(" ")),
        )
    };
    let sandbox = Verdict { status: seen.ready_sandbox().is_some(), reason: None, message: None };
    [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", initialized),
        ("Ready", ready),
        ("ContainersReady", containers_ready),
        ("PodScheduled", Verdict { status: true, reason: None, message: None }),
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
    let verdict = Verdict { status: true, reason, message };
    (seen.stage == Stage::Terminated(Why::EndedByNode))
        .then(|| verdict.condition("DisruptionTarget", pod, ctx))
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
        Verdict { status: true, reason: None, message: None }
    } else {
        Verdict::no(
            "ContainersNotReady",
            format!("containers with unready status: [{}]", unready.join(" ")),
        )
    }
}

/// The first readiness gate that is not satisfied, as a message.
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

#[derive(Clone)]
struct Verdict {
    status: bool,
    reason: Option<&'static str>,
    message: Option<String>,
}

// === impl Verdict ===

impl Verdict {
    fn no(reason: &'static str, message: String) -> Self {
        Verdict { status: false, reason: Some(reason), message: Some(message) }
    }

    fn condition(self, kind: &str, pod: &DesiredPod, ctx: &StatusContext<'_>) -> PodCondition {
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
