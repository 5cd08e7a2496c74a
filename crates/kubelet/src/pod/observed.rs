//! What a pod worker knows of its pod on this machine.
//!
//! Consumes runtime states, step outcomes and probe verdicts, emits the facts that [`super::plan`] and
//! [`super::status`] decide from. Counterpart: `kubecontainer.PodStatus` with the reason cache and the prober's
//! results manager.
//! Invariant: the newest attempt of a container speaks for it; older ones are history.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ResourceRequirements;
use skiff_runtime::{ContainerState, ContainerStatus, PodSandboxState, PodSandboxStatus};

use super::{
    backoff::Backoff,
    desired::{DesiredContainer, DesiredPod},
    ending::Ending,
    plan::{Stage, StepKey},
};
use crate::allocation::{Pending, Rejection};

#[derive(Debug, Clone, Default)]
pub struct Observed {
    pub stage: Stage,
    pub volumes: Volumes,
    /// The newest sandbox, ready or not.
    pub sandbox: Option<PodSandboxStatus>,
    pub containers: Vec<ContainerStatus>,
    /// By container id.
    pub health: BTreeMap<String, Health>,
    pub failures: BTreeMap<StepKey, Failure>,
    /// By container name.
    pub restarts: BTreeMap<String, Backoff>,
    pub in_flight: BTreeSet<StepKey>,
    /// By container id: what running containers have been given.
    pub actuated: BTreeMap<String, ResourceRequirements>,
    pub resize: Resize,
    /// Ids of containers that were killed to be started anew, whatever their restart policy says of the exit.
    pub replaced: BTreeSet<String>,
    /// Why the pod may not run here.
    pub rejected: Option<Rejection>,
    /// The node ends the pod.
    pub ending: Option<Ending>,
    /// When the pod's object last changed.
    pub changed_at: Option<Timestamp>,
    pub start_time: Option<Timestamp>,
    /// When termination began.
    pub terminating_since: Option<Timestamp>,
    /// The API server no longer has the pod.
    pub removed: bool,
}

/// How far a resize of the pod has come. Generations are those of the pod's object that asked for it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Resize {
    pub pending: Option<(Pending, i64)>,
    pub in_progress: Option<i64>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Volumes {
    pub mounted: bool,
    /// Setting up was begun, by this agent or an earlier one: something may be there to take down.
    pub begun: bool,
    /// Something the content derives from has changed.
    pub stale: bool,
    /// When a token in a volume wants renewal.
    pub refresh_at: Option<Timestamp>,
}

// === impl Volumes ===

impl Volumes {
    pub fn content_changed(&mut self) {
        self.stale = true;
    }

    /// From here on a change may come too late for the set-up under way, and asks for another.
    pub fn begin_set_up(&mut self) {
        self.stale = false;
        self.begun = true;
    }

    pub fn are_held(&self) -> bool {
        self.mounted || self.begun
    }

    pub fn set_up(&mut self, refresh_at: Option<Timestamp>) {
        *self = Volumes { mounted: true, refresh_at, ..*self };
    }
}

/// What probes say of one running container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub started: bool,
    pub ready: bool,
    /// Set once by a liveness or startup probe that gave up; the container is to be killed.
    pub unhealthy: Option<Unhealthy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unhealthy {
    pub probe: &'static str,
    pub grace_seconds: Option<i64>,
}

/// A step that did not succeed, and when to try again.
#[derive(Debug, Clone, PartialEq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    pub at: Timestamp,
    pub backoff: Backoff,
    /// Waiting for a referenced object: tried again as soon as one changes.
    pub repairable: bool,
}

// === impl Observed ===

impl Observed {
    /// The newest attempt of a container.
    pub fn newest(&self, name: &str) -> Option<&ContainerStatus> {
        self.attempts(name).next()
    }

    /// All attempts of a container, newest first.
    pub fn attempts<'a>(
        &'a self,
        name: &str,
    ) -> impl Iterator<Item = &'a ContainerStatus> + use<'a> {
        let mut found: Vec<_> =
            self.containers.iter().filter(|c| c.metadata.name == name).collect();
        found.sort_by_key(|c| std::cmp::Reverse((c.metadata.attempt, c.created_at)));
        found.into_iter()
    }

    pub fn next_attempt(&self, name: &str) -> u32 {
        self.newest(name).map_or(0, |c| c.metadata.attempt + 1)
    }

    pub fn ready_sandbox(&self) -> Option<&PodSandboxStatus> {
        self.sandbox.as_ref().filter(|s| s.state == PodSandboxState::Ready)
    }

    pub fn running(&self) -> impl Iterator<Item = &ContainerStatus> {
        self.containers.iter().filter(|c| is_running(c))
    }

    /// What the pod's containers get to end: what its object grants, or the node if that is less.
    pub fn grace(&self, pod: &DesiredPod) -> SignedDuration {
        let most = self.ending.as_ref().map_or(SignedDuration::MAX, |ending| ending.grace);
        pod.grace().min(most)
    }

    pub fn health_of(&self, container: &ContainerStatus) -> Health {
        self.health.get(&container.id).cloned().unwrap_or(Health {
            started: false,
            ready: false,
            unhealthy: None,
        })
    }
}

pub fn is_running(container: &ContainerStatus) -> bool {
    container.state == ContainerState::Running
}

pub fn has_exited(container: &ContainerStatus) -> bool {
    matches!(container.state, ContainerState::Exited | ContainerState::Unknown)
}

/// The exit code; an exit nobody saw counts as a kill.
pub fn exit_code(container: &ContainerStatus) -> i32 {
    container.exit_code.unwrap_or(137)
}

pub fn finished_at(container: &ContainerStatus) -> Timestamp {
    container.finished_at.and_then(|t| Timestamp::try_from(t).ok()).unwrap_or(Timestamp::UNIX_EPOCH)
}

// === impl Health ===

impl Health {
    /// Before the first probe has spoken.
    pub fn initial(container: &DesiredContainer) -> Self {
        let spec = &container.spec;
        Health {
            started: spec.startup_probe.is_none(),
            ready: spec.readiness_probe.is_none(),
            unhealthy: None,
        }
    }
}

// === impl Failure ===

/// How long a failed pull is shown as itself, before it shows as waiting for the next one.
const PULL_ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(1);

impl Failure {
    /// When a failed pull turns into a back-off for those who look; `None` for any other failure.
    pub fn backs_off_at(&self) -> Option<Timestamp> {
        (self.reason == "ErrImagePull").then(|| self.at + PULL_ERROR_SHOWN)
    }

    pub fn retry_at(&self) -> Timestamp {
        self.backoff.retry_at(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_during_a_set_up_is_not_lost() {
        let mut volumes = Volumes::default();
        volumes.begin_set_up();
        volumes.content_changed();
        volumes.set_up(None);
        assert_eq!(volumes, Volumes { mounted: true, begun: true, stale: true, refresh_at: None });
        volumes.begin_set_up();
        volumes.set_up(None);
        assert!(!volumes.stale, "the second set-up saw everything");
    }
}
