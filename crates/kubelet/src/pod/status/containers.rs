//! The status of one container: its state, the one before, and whether it has started and is ready.
//!
//! Counterpart: `convertToAPIContainerStatuses`. Invariant: a container that will be started again waits; only one that ended for
//! good is terminated.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated,
    ContainerStateWaiting, ContainerStatus as ApiContainerStatus, ContainerUser,
    LinuxContainerUser, ResourceRequirements, VolumeMountStatus,
};
use skiff_api::duration;
use skiff_runtime::ContainerStatus;

use super::{StatusContext, container_id, whole_seconds};
use crate::pod::{
    backoff::CONTAINER,
    desired::{DesiredContainer, DesiredPod, Role},
    observed::{Failure, Observed, exit_code, finished_at, has_exited, is_running},
    plan::{Stage, StepKey, starts_again},
};

pub fn container_status(
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
