//! What to do next for a pod: the one decision of the node agent.
//!
//! Consumes the desired pod, what is observed and the time, decides the stage and the steps that may start now,
//! emits a [`Plan`]. Counterpart: `computePodActions` and the pod worker's state of `pkg/kubelet`.
//! Differs from upstream: steps run beside the decision, not inside a sync; a plan never starts a step whose key
//! is in flight, so planning again at any moment is harmless.
//! Invariant: pure, and with nothing changed a second plan has no actions once the first one's are in flight.

use jiff::{SignedDuration, Timestamp};
use skiff_runtime::ContainerStatus;

use super::{
    desired::{DesiredContainer, DesiredPod, RestartPolicy, Role},
    observed::{Observed, exit_code, finished_at, has_exited, is_running},
    resize::{self, Change},
};

/// How long a pod's containers must not have been edited before one is replaced by its new definition.
const SETTLES_IN: SignedDuration = SignedDuration::from_millis(250);

/// Where a pod stands on this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// Containers are started and kept running.
    /// Left for `Terminating` when deletion is requested, the deadline has passed, the API object is gone, or
    /// every regular container has ended for good.
    #[default]
    Active,
    /// Nothing is started any more; what runs is killed, sidecars last, then the sandbox is stopped and volumes
    /// are taken down. Left for `Terminated` when all that is done. Never returns to `Active`.
    Terminating(Why),
    /// Nothing runs. The final status is reported; a pod being deleted is then deleted from the API.
    /// Left for `Gone` when the API object is gone.
    Terminated(Why),
    /// Every trace is removed; the worker ends.
    Gone,
}

/// Why a pod ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Completed,
    Deleted,
    DeadlineExceeded,
    /// The node would not take it.
    Rejected,
    /// The node cannot go on with it: see [`Observed::ending`].
    EndedByNode,
}

/// One lane of work. At most one step per lane is in flight.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepKey {
    Volumes,
    Sandbox,
    Resources,
    Container(String),
    Object,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    SetUpVolumes,
    TearDownVolumes,
    RunSandbox {
        attempt: u32,
    },
    StopSandbox {
        id: String,
    },
    StartContainer {
        name: String,
        attempt: u32,
    },
    KillContainer {
        name: String,
        id: String,
        grace: SignedDuration,
        message: String,
    },
    RemoveContainer {
        name: String,
        id: String,
    },
    /// Bring the limits of these running containers, and of the pod, to what was granted.
    Resize {
        containers: Vec<String>,
    },
    /// Flush the final status, then delete the API object.
    DeletePod,
    /// Remove the sandbox, its containers and the pod's directories.
    RemovePod,
}

#[derive(Debug, Default, PartialEq)]
pub struct Plan {
    pub stage: Stage,
    pub actions: Vec<Action>,
    /// When to plan again although nothing happened.
    pub wake_at: Option<Timestamp>,
}

// === impl Action ===

impl Action {
    pub fn key(&self) -> StepKey {
        match self {
            Action::SetUpVolumes | Action::TearDownVolumes => StepKey::Volumes,
            Action::RunSandbox { .. } | Action::StopSandbox { .. } => StepKey::Sandbox,
            Action::StartContainer { name, .. }
            | Action::KillContainer { name, .. }
            | Action::RemoveContainer { name, .. } => StepKey::Container(name.clone()),
            Action::Resize { .. } => StepKey::Resources,
            Action::DeletePod | Action::RemovePod => StepKey::Object,
        }
    }
}

/// Decides the next steps. Call again after every event and at `wake_at`.
pub fn plan(pod: &DesiredPod, seen: &Observed, now: Timestamp) -> Plan {
    let mut planner =
        Planner { pod, seen, now, plan: Plan { stage: seen.stage, ..Plan::default() } };
    planner.advance_stage();
    match planner.plan.stage {
        Stage::Active => planner.active(),
        Stage::Terminating(_) => planner.terminating(),
        Stage::Terminated(why) => planner.terminated(why),
        Stage::Gone => {}
    }
    planner.plan
}

/// Whether every regular container has ended and none will be started again.
pub fn has_completed(pod: &DesiredPod, seen: &Observed) -> bool {
    if init_failed(pod, seen) {
        return true;
    }
    pod.of_role(Role::Regular).all(|c| ended_for_good(c, seen))
}

/// An init container ended in a way that is final for the whole pod.
pub fn init_failed(pod: &DesiredPod, seen: &Observed) -> bool {
    pod.of_role(Role::Init).any(|c| {
        c.restart_policy == RestartPolicy::Never && ended_for_good(c, seen) && failed(c, seen)
    })
}

fn ended_for_good(container: &DesiredContainer, seen: &Observed) -> bool {
    seen.newest(container.name())
        .is_some_and(|c| has_exited(c) && !starts_again(container, c, seen))
}

/// Whether an exited container is followed by another start: by its policy, or because it was killed to be replaced.
pub fn starts_again(
    container: &DesiredContainer,
    exited: &ContainerStatus,
    seen: &Observed,
) -> bool {
    container.restarts_after(exit_code(exited)) || seen.replaced.contains(&exited.id)
}

fn failed(container: &DesiredContainer, seen: &Observed) -> bool {
    seen.newest(container.name()).is_some_and(|c| exit_code(c) != 0)
}

struct Planner<'a> {
    pod: &'a DesiredPod,
    seen: &'a Observed,
    now: Timestamp,
    plan: Plan,
}

// === impl Planner ===

impl Planner<'_> {
    fn advance_stage(&mut self) {
        if self.plan.stage == Stage::Active
            && let Some(why) = self.reason_to_end()
        {
            self.plan.stage = Stage::Terminating(why);
        }
        if let Stage::Terminating(why) = self.plan.stage
            && self.is_still()
        {
            self.plan.stage = Stage::Terminated(why);
        }
    }

    fn reason_to_end(&mut self) -> Option<Why> {
        if self.seen.removed || self.pod.deletion_requested().is_some() {
            return Some(Why::Deleted);
        }
        if self.seen.rejected.is_some() {
            return Some(Why::Rejected);
        }
        if self.pod.is_terminal() || has_completed(self.pod, self.seen) {
            return Some(Why::Completed);
        }
        if self.seen.ending.is_some() {
            return Some(Why::EndedByNode);
        }
        let deadline = self.seen.start_time?.checked_add(self.pod.active_deadline()?).ok()?;
        if deadline <= self.now {
            return Some(Why::DeadlineExceeded);
        }
        self.wake_at(deadline);
        None
    }

    /// Nothing runs, nothing is under way, and what the pod held is given back.
    fn is_still(&self) -> bool {
        let seen = self.seen;
        seen.running().next().is_none()
            && seen.ready_sandbox().is_none()
            && !seen.volumes.are_held()
            && seen.in_flight.iter().all(|key| *key == StepKey::Object)
    }

    fn active(&mut self) {
        self.volumes();
        if !self.seen.volumes.mounted {
            return;
        }
        if self.seen.ready_sandbox().is_none() {
            return self.sandbox();
        }
        self.resize();
        self.containers();
        self.history();
    }

    fn volumes(&mut self) {
        let volumes = self.seen.volumes;
        let due = volumes.refresh_at.is_some_and(|t| t <= self.now);
        if !volumes.mounted || volumes.stale || due {
            self.attempt(Action::SetUpVolumes);
        } else if let Some(refresh) = volumes.refresh_at {
            self.wake_at(refresh);
        }
    }

    /// The sandbox is missing or dead. What ran in a dead one has died with it.
    fn sandbox(&mut self) {
        if self.seen.running().next().is_some() {
            return self.kill_all(SignedDuration::ZERO, "Stopping container");
        }
        let attempt = self.seen.sandbox.as_ref().map_or(0, |s| s.metadata.attempt + 1);
        self.attempt(Action::RunSandbox { attempt });
    }

    fn resize(&mut self) {
        if resize::is_needed(self.pod, self.seen) {
            let in_place = self
                .pod
                .containers
                .iter()
                .filter(|c| resize::change(c, self.seen) == Change::InPlace);
            let containers = in_place.filter_map(|c| Some(self.seen.newest(c.name())?.id.clone()));
            self.attempt(Action::Resize { containers: containers.collect() });
        }
    }

    fn containers(&mut self) {
        if !self.initialize() {
            return;
        }
        let pod = self.pod;
        for container in pod.of_role(Role::Regular).chain(pod.of_role(Role::Ephemeral)) {
            self.keep_running(container);
        }
    }

    /// Brings init containers and sidecars as far as they can go; true once regular containers may run.
    fn initialize(&mut self) -> bool {
        let initialized = self.is_initialized();
        let pod = self.pod;
        for container in pod.init() {
            match container.role {
                Role::Sidecar => {
                    self.keep_running(container);
                    if !initialized && !self.has_started(container) {
                        return false;
                    }
                }
                _ if initialized => {}
                _ => {
                    if !self.completed_here(container) {
                        self.keep_running(container);
                        return false;
                    }
                }
            }
        }
        true
    }

    /// A regular container was created in this sandbox, so initialisation is behind us.
    fn is_initialized(&self) -> bool {
        self.pod.of_role(Role::Regular).any(|c| self.here(c).is_some())
    }

    /// The newest attempt, if it belongs to the present sandbox.
    fn here(&self, container: &DesiredContainer) -> Option<&ContainerStatus> {
        let sandbox = self.seen.ready_sandbox()?;
        self.seen.newest(container.name()).filter(|c| c.sandbox_id == sandbox.id)
    }

    fn completed_here(&self, container: &DesiredContainer) -> bool {
        self.here(container).is_some_and(|c| has_exited(c) && exit_code(c) == 0)
    }

    fn has_started(&self, container: &DesiredContainer) -> bool {
        let in_flight = self.seen.in_flight.contains(&StepKey::Container(container.name().into()));
        self.here(container).is_some_and(|c| is_running(c) && self.seen.health_of(c).started)
            && !in_flight
    }

    fn keep_running(&mut self, container: &DesiredContainer) {
        let Some(current) = self.seen.newest(container.name()) else {
            return self.start(container);
        };
        if is_running(current) {
            self.check_running(container, &current.id);
        } else if !has_exited(current) {
            // Created and never started: the daemon died between the two.
            self.attempt(Action::RemoveContainer {
                name: container.name().into(),
                id: current.id.clone(),
            });
        } else if starts_again(container, current, self.seen) || self.must_run_again(container) {
            self.restart(container, finished_at(current));
        }
    }

    /// An init container that succeeded in an earlier sandbox has to succeed in this one too.
    fn must_run_again(&self, container: &DesiredContainer) -> bool {
        container.role == Role::Init && self.here(container).is_none()
    }

    fn check_running(&mut self, container: &DesiredContainer, id: &str) {
        let name = container.name();
        let current = self.seen.newest(name).expect("the caller found it");
        if let Some(unhealthy) = self.seen.health_of(current).unhealthy {
            let grace = unhealthy.grace_seconds.map_or(self.pod.grace(), SignedDuration::from_secs);
            let message =
                format!("Container {name} failed {} probe, will be restarted", unhealthy.probe);
            return self.kill(name, id, grace, message);
        }
        if resize::change(container, self.seen) == Change::Restart {
            let message = format!("Container {name} resize requires restart");
            return self.kill(name, id, self.pod.grace(), message);
        }
        let changed = !current.image.is_empty() && current.image != container.image();
        if changed && container.role != Role::Ephemeral && self.has_settled() {
            let message = format!("Container {name} definition changed, will be restarted");
            self.kill(name, id, self.pod.grace(), message);
        }
    }

    /// Another edit may follow the first; together they cost one restart.
    fn has_settled(&mut self) -> bool {
        let settled = self.seen.changed_at.map(|at| at + SETTLES_IN);
        match settled.filter(|at| *at > self.now) {
            Some(at) => {
                self.wake_at(at);
                false
            }
            None => true,
        }
    }

    fn restart(&mut self, container: &DesiredContainer, finished: Timestamp) {
        match self.seen.restarts.get(container.name()).map(|b| b.retry_at(finished)) {
            Some(at) if at > self.now => self.wake_at(at),
            _ => self.start(container),
        }
    }

    /// Containers start one after another: a slow post-start hook holds the next one back, as upstream.
    fn start(&mut self, container: &DesiredContainer) {
        let starting = self.plan.actions.iter().any(|a| matches!(a, Action::StartContainer { .. }));
        // A container is not started into limits that are about to change.
        let resizing = self.plan.actions.iter().any(|a| matches!(a, Action::Resize { .. }));
        let busy = self
            .seen
            .in_flight
            .iter()
            .any(|k| matches!(k, StepKey::Container(_) | StepKey::Resources));
        let busy = busy || resizing;
        if !starting && !busy {
            let name = container.name().to_owned();
            let attempt = self.seen.next_attempt(&name);
            self.attempt(Action::StartContainer { name, attempt });
        }
    }

    /// Dead containers beyond the newest and the one before it have no reader.
    fn history(&mut self) {
        for container in &self.pod.containers {
            let name = container.name();
            for old in self.seen.attempts(name).skip(2).filter(|c| has_exited(c)) {
                self.attempt(Action::RemoveContainer { name: name.into(), id: old.id.clone() });
            }
        }
    }

    fn terminating(&mut self) {
        let since = self.seen.terminating_since.unwrap_or(self.now);
        let grace =
            if self.seen.removed { SignedDuration::ZERO } else { self.seen.grace(self.pod) };
        let left = grace.saturating_sub(self.now.duration_since(since)).max(SignedDuration::ZERO);
        if self.seen.running().next().is_some() {
            return self.kill_all(left, "Stopping container");
        }
        if self.seen.in_flight.iter().any(|k| matches!(k, StepKey::Container(_))) {
            return;
        }
        if let Some(sandbox) = self.seen.ready_sandbox() {
            self.attempt(Action::StopSandbox { id: sandbox.id.clone() });
        } else if self.seen.volumes.are_held() && !self.seen.in_flight.contains(&StepKey::Sandbox) {
            self.attempt(Action::TearDownVolumes);
        }
    }

    /// Kills everything but sidecars first; then sidecars, last started first.
    fn kill_all(&mut self, grace: SignedDuration, message: &str) {
        let seen = self.seen;
        let is_sidecar = |c: &ContainerStatus| {
            self.pod.container(&c.metadata.name).is_some_and(|d| d.role == Role::Sidecar)
        };
        let main: Vec<_> = seen.running().filter(|c| !is_sidecar(c)).collect();
        let last_sidecar = || {
            let order = self.pod.of_role(Role::Sidecar).rev();
            order
                .filter_map(|d| seen.newest(d.name()))
                .find(|c| is_running(c))
                .into_iter()
                .collect()
        };
        let victims: Vec<&ContainerStatus> = if main.is_empty() { last_sidecar() } else { main };
        for c in victims {
            let message = format!("{message} {}", c.metadata.name);
            self.kill(&c.metadata.name, &c.id, grace, message);
        }
    }

    fn terminated(&mut self, why: Why) {
        if self.seen.removed {
            self.attempt(Action::RemovePod);
        } else if why == Why::Deleted || self.pod.deletion_requested().is_some() {
            self.attempt(Action::DeletePod);
        }
    }

    fn kill(&mut self, name: &str, id: &str, grace: SignedDuration, message: String) {
        self.attempt(Action::KillContainer { name: name.into(), id: id.into(), grace, message });
    }

    /// Takes the action unless its lane is busy or it failed a moment ago.
    fn attempt(&mut self, action: Action) {
        let key = action.key();
        if self.seen.in_flight.contains(&key) || self.plan.actions.iter().any(|a| a.key() == key) {
            return;
        }
        match self.seen.failures.get(&key) {
            Some(failure) if failure.retry_at() > self.now => {
                self.wake_at(failure.retry_at());
                failure
                    .backs_off_at()
                    .filter(|at| *at > self.now)
                    .into_iter()
                    .for_each(|at| self.wake_at(at));
            }
            _ => self.plan.actions.push(action),
        }
    }

    fn wake_at(&mut self, at: Timestamp) {
        self.plan.wake_at = Some(self.plan.wake_at.map_or(at, |other| other.min(at)));
    }
}

#[cfg(test)]
mod tests;
