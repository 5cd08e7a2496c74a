//! What a worker learns of its pod: from the runtime, from probes and from its own steps.
//!
//! Events -> the worker's [`Observed`](super::super::observed::Observed). Counterpart: the kubelet's PLEG and pod cache.
//! Invariant: what is noted of a container goes when the container does.

use jiff::Timestamp;
use skiff_runtime::{ContainerEvent, ContainerEventKind, ContainerStatus, PodSandboxStatus};

use super::PodWorker;
use crate::{
    pod::{
        backoff::Backoff,
        observed::{Failure, Health, Volumes, is_running},
        plan::{Stage, StepKey},
    },
    probe::Verdict,
    static_pods::is_static,
    step::{Outcome, StepError},
};

impl PodWorker {
    pub(super) async fn runtime_event(&mut self, event: ContainerEvent) {
        match event.kind {
            ContainerEventKind::SandboxStopped => self.relist().await,
            // What an ended pod leaves may be removed to make room; it is still what its status tells of.
            ContainerEventKind::Deleted if matches!(self.seen.stage, Stage::Terminated(_)) => {}
            ContainerEventKind::Deleted => self.forget_container(&event.container_id),
            ContainerEventKind::Created | ContainerEventKind::Started => {}
            ContainerEventKind::Stopped { .. } => self.look_at_container(&event.container_id).await,
        }
    }

    async fn look_at_container(&mut self, id: &str) {
        match self.ctx.runtime.container_status(id).await {
            Ok(status) => self.put_container(status),
            Err(skiff_runtime::Error::NotFound { .. }) => self.forget_container(id),
            Err(error) => {
                tracing::warn!(pod = %self.pod.key, id, %error, "container status unknown")
            }
        }
    }

    fn put_container(&mut self, status: ContainerStatus) {
        if !is_running(&status) {
            self.probes.stop(&status.id);
            self.seen.health.remove(&status.id);
            self.seen.actuated.remove(&status.id);
        }
        match self.seen.containers.iter_mut().find(|c| c.id == status.id) {
            Some(known) => *known = status,
            None => self.seen.containers.push(status),
        }
    }

    fn forget_container(&mut self, id: &str) {
        self.probes.stop(id);
        self.seen.health.remove(id);
        self.seen.actuated.remove(id);
        self.seen.replaced.remove(id);
        self.seen.containers.retain(|c| c.id != id);
    }

    pub(super) async fn relist(&mut self) {
        let uid = self.pod.key.uid.clone();
        let runtime = self.ctx.runtime.clone();
        let (sandboxes, containers) =
            tokio::join!(runtime.list_pod_sandboxes(), runtime.list_containers());
        match (sandboxes, containers) {
            (Ok(sandboxes), Ok(containers)) => {
                let ours: Vec<PodSandboxStatus> =
                    sandboxes.into_iter().filter(|s| s.metadata.uid == uid).collect();
                let in_ours = |c: &ContainerStatus| ours.iter().any(|s| s.id == c.sandbox_id);
                let containers: Vec<_> = containers.into_iter().filter(in_ours).collect();
                self.seen.sandbox = newest_sandbox(ours);
                self.seen.containers.clear();
                containers.into_iter().for_each(|c| self.put_container(c));
            }
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(pod = %self.pod.key, %error, "the runtime did not answer");
            }
        }
    }

    pub(super) fn probed(&mut self, verdict: Verdict) {
        let Some(health) = self.seen.health.get_mut(&verdict.container_id) else { return };
        verdict.apply(health);
    }

    pub(super) async fn step_done(&mut self, key: StepKey, result: Result<Outcome, StepError>) {
        self.seen.in_flight.remove(&key);
        match result {
            Ok(outcome) => {
                self.seen.failures.remove(&key);
                self.achieved(outcome).await;
            }
            Err(error) => {
                let terminating = self.seen.stage != Stage::Active;
                match key {
                    StepKey::Container(_) => self.relist().await,
                    // What this attempt was to bring in is still to come.
                    StepKey::Volumes => self.seen.volumes.content_changed(),
                    StepKey::Resources => self.relist().await,
                    StepKey::Sandbox | StepKey::Object => {}
                }
                if !(terminating && error.interrupted) {
                    self.failed(key, error);
                }
            }
        }
    }

    async fn achieved(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::VolumesUp { refresh_at } => {
                self.seen.volumes.set_up(refresh_at);
            }
            Outcome::VolumesDown => self.seen.volumes = Volumes::default(),
            Outcome::SandboxChanged => self.relist().await,
            Outcome::Resized { containers } => {
                self.relist().await;
                self.seen.actuated.extend(containers);
            }
            Outcome::ContainerStarted { id, resources } => {
                self.starting = None;
                self.seen.actuated.insert(id.clone(), resources);
                self.look_at_container(&id).await;
                let status =
                    self.seen.containers.iter().find(|c| c.id == id && is_running(c)).cloned();
                if let Some(status) = status {
                    self.watch_health(&status);
                }
            }
            Outcome::ContainerStopped { id } => self.look_at_container(&id).await,
            Outcome::ContainerRemoved { id } => self.forget_container(&id),
            // The watch tells when the object is gone; until then there is nothing to do.
            Outcome::PodDeleted => self.seen.removed |= is_static(&self.object),
            Outcome::PodRemoved => self.seen.stage = Stage::Gone,
        }
    }

    fn failed(&mut self, key: StepKey, error: StepError) {
        let now = Timestamp::now();
        let before = self.seen.failures.get(&key);
        let backoff = Backoff::next(before.map(|f| f.backoff), error.policy, now);
        let failure = Failure {
            reason: error.reason.into(),
            message: error.message,
            at: now,
            backoff,
            repairable: error.repairable,
        };
        tracing::debug!(pod = %self.pod.key, ?key, reason = failure.reason, message = failure.message, "step failed");
        self.seen.failures.insert(key, failure);
    }

    pub(super) fn watch_health(&mut self, status: &ContainerStatus) {
        let Some(container) = self.pod.container(&status.metadata.name) else { return };
        self.seen.health.insert(status.id.clone(), Health::initial(container));
        self.probes.start(&self.pod, container, status, self.seen.sandbox.as_ref());
    }
}

/// The one with the highest attempt speaks for the pod.
pub fn newest_sandbox(
    sandboxes: impl IntoIterator<Item = PodSandboxStatus>,
) -> Option<PodSandboxStatus> {
    sandboxes.into_iter().max_by_key(|s| (s.metadata.attempt, s.created_at))
}
