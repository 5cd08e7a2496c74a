//! One worker per pod: learns, plans, acts, reports.
//!
//! Consumes a closed set of events, asks [`super::plan`] what to do, starts steps beside itself and writes the
//! status. Counterpart: `pkg/kubelet/pod_workers.go` with `syncPod` and its siblings.
//! Invariant: the worker alone changes its [`Observed`]; it never waits for a step, and it sleeps until an event
//! or the plan's own time.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ContainerStatus as ApiContainerStatus, Node, Pod, PodStatus};
use kube::Api;
use skiff_runtime::{ContainerEvent, ContainerEventKind, ContainerStatus, PodSandboxStatus};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

use super::{
    backoff::{Backoff, CONTAINER},
    desired::{DesiredPod, PodKey, RestartPolicy, Role},
    ending::Ending,
    observed::{Failure, Health, Observed, Volumes, finished_at, is_running},
    plan::{Action, Plan, Stage, StepKey, plan},
    resize,
    status::{ID_SCHEME, StatusContext, status},
    status_writer::StatusWriter,
};
use crate::{
    allocation::{self, Granted, Pending},
    context::NodeContext,
    events::EventType,
    logs::termination,
    objects::{References, references},
    probe::{ProbeSet, Verdict},
    static_pods::is_static,
    step::{self, Outcome, StepError, StepInput},
};

/// Everything a worker can be told.
#[derive(Debug)]
pub enum Event {
    /// The API object is new or has changed.
    Desired(Arc<Pod>),
    /// The API object is gone.
    Removed,
    Runtime(ContainerEvent),
    /// Runtime events were missed; look again.
    Relist,
    Probe(Verdict),
    StepDone(StepKey, Box<Result<Outcome, StepError>>),
    /// A ConfigMap or Secret that the pod refers to has changed.
    ObjectsChanged,
    /// There is room now for the resize that waited.
    Granted,
    /// The node cannot go on with the pod.
    Ended(Ending),
    /// What the API server shows of a pod that the node runs by itself is another now, or nothing.
    Mirror(Option<Arc<Pod>>),
}

/// What the runtime already held of a pod when its worker was made.
#[derive(Debug, Default)]
pub struct Adopted {
    pub sandbox: Option<PodSandboxStatus>,
    pub containers: Vec<ContainerStatus>,
}

pub struct PodWorker {
    ctx: Arc<NodeContext>,
    /// As the API has it: what is wished, of which `pod` has what is granted.
    object: Arc<Pod>,
    pod: Arc<DesiredPod>,
    seen: Observed,
    events: mpsc::UnboundedReceiver<Event>,
    /// For steps and probes to report back.
    sender: mpsc::UnboundedSender<Event>,
    probes: ProbeSet,
    /// None while nobody but this node knows the pod.
    writer: Option<StatusWriter>,
    reported: PodStatus,
    /// How long a stop may take; shrinks with a more impatient deletion.
    grace: watch::Sender<SignedDuration>,
    /// The start under way, which termination gives up.
    starting: Option<AbortHandle>,
}

// === impl PodWorker ===

impl PodWorker {
    pub fn new(
        ctx: Arc<NodeContext>,
        object: Arc<Pod>,
        adopted: Adopted,
        channel: (mpsc::UnboundedSender<Event>, mpsc::UnboundedReceiver<Event>),
    ) -> Self {
        let reported = object.status.clone().unwrap_or_default();
        let pod = Arc::new(DesiredPod::new(object.clone()));
        let (sender, events) = channel;
        let start_time = reported.start_time.as_ref().map(|t| t.0);
        let seen = Observed {
            sandbox: adopted.sandbox,
            containers: adopted.containers,
            start_time: start_time
                .or_else(|| Timestamp::from_second(Timestamp::now().as_second()).ok()),
            ..Observed::default()
        };
        let probes = ProbeSet::new(ctx.clone(), sender.clone());
        let known = !is_static(&object);
        let writer =
            known.then(|| StatusWriter::spawn(ctx.client.clone(), &pod.key, reported.clone()));
        let grace = watch::channel(SignedDuration::MAX).0;
        PodWorker {
            ctx,
            object,
            pod,
            seen,
            events,
            sender,
            probes,
            writer,
            reported,
            grace,
            starting: None,
        }
    }

    /// Runs until the pod has left this node.
    pub async fn run(mut self) {
        self.admit().await;
        self.hold_references();
        self.adopt();
        loop {
            let plan = plan(&self.pod, &self.seen, Timestamp::now());
            let wake_at = plan.wake_at;
            let moved = self.carry_out(plan);
            if self.seen.stage == Stage::Gone {
                break;
            }
            self.report();
            if moved {
                continue;
            }
            let Some(event) = self.next(wake_at).await else { continue };
            self.learn(event).await;
            while let Ok(event) = self.events.try_recv() {
                self.learn(event).await;
            }
        }
        self.ctx.objects.hold(&self.pod.key.uid, &self.pod.key.namespace, &References::default());
        tracing::debug!(pod = %self.pod.key, "pod has left this node");
    }

    /// Asks for a place on this node. What already runs has one, and what has ended needs none.
    async fn admit(&mut self) {
        if self.pod.is_terminal() {
            return;
        }
        let runs = self.seen.sandbox.is_some();
        let node = match !runs && allocation::needs_node(&self.object) {
            true => self.node().await,
            false => None,
        };
        let conditions = &self.ctx.conditions;
        let welcome = if runs {
            Ok(())
        } else {
            self.ctx.going.admit().and_then(|()| conditions.admit(&self.object))
        };
        let admitted =
            welcome.and_then(|()| self.ctx.allocations.admit(&self.object, node.as_ref(), runs));
        match admitted {
            Ok(()) => {
                self.pod =
                    Arc::new(DesiredPod::new(self.ctx.allocations.grant(self.object.clone()).pod))
            }
            Err(rejection) => {
                let (reason, message) = (rejection.reason.clone(), rejection.message.clone());
                self.ctx.recorder.pod(&self.pod, EventType::Warning, reason, message);
                self.seen.rejected = Some(rejection);
            }
        }
    }

    /// This node's object; without one its labels are not known, and the scheduler's word has to do.
    async fn node(&self) -> Option<Node> {
        let api: Api<Node> = Api::all(self.ctx.client.clone());
        let found = api.get_opt(&self.ctx.config.node_name).await;
        found.inspect_err(|error| tracing::warn!(%error, "this node's labels are unknown")).ok()?
    }

    /// The pod with what it may use now; notes how a resize stands.
    fn granted(&mut self, object: Arc<Pod>) -> DesiredPod {
        let generation = object.metadata.generation.unwrap_or_default();
        let Granted { pod, pending } = self.ctx.allocations.grant(object);
        let pod = DesiredPod::new(pod);
        if resize::grants_differ(&self.pod, &pod) {
            self.seen.resize.in_progress = Some(generation);
            self.seen.failures.remove(&StepKey::Resources);
            let message = resize::message("Pod resize started", &pod, generation, None);
            self.ctx.recorder.pod(&pod, EventType::Normal, "ResizeStarted", message);
        }
        let pending = pending.map(|pending| (pending, generation));
        if let Some((Pending { reason, message }, _)) = &pending
            && self.seen.resize.pending != pending
        {
            let wished = DesiredPod::new(self.object.clone());
            let text = resize::message(
                &format!("Pod resize {reason}"),
                &wished,
                generation,
                Some(message),
            );
            let event = if *reason == allocation::INFEASIBLE {
                "ResizeInfeasible"
            } else {
                "ResizeDeferred"
            };
            self.ctx.recorder.pod(&pod, EventType::Warning, event, text);
        }
        self.seen.resize.pending = pending;
        pod
    }

    /// A resize that has come to its end is not mentioned any longer.
    fn note_resize_end(&mut self) {
        let Some(generation) = self.seen.resize.in_progress else { return };
        if self.seen.stage == Stage::Active && resize::is_done(&self.pod, &self.seen) {
            self.seen.resize.in_progress = None;
            let message = resize::message("Pod resize completed", &self.pod, generation, None);
            self.ctx.recorder.pod(&self.pod, EventType::Normal, "ResizeCompleted", message);
        }
    }

    /// The next event; `None` when the plan's own time has come.
    async fn next(&mut self, wake_at: Option<Timestamp>) -> Option<Event> {
        let Some(at) = wake_at else {
            return self.events.recv().await;
        };
        let wait = Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default();
        tokio::time::timeout(wait, self.events.recv()).await.ok().flatten()
    }

    /// Starts the planned steps; true when the stage moved, which asks for another plan.
    fn carry_out(&mut self, plan: Plan) -> bool {
        let moved = self.enter(plan.stage);
        for action in plan.actions {
            self.start_step(action);
        }
        moved
    }

    fn enter(&mut self, stage: Stage) -> bool {
        if self.seen.stage == stage {
            return false;
        }
        tracing::debug!(pod = %self.pod.key, from = ?self.seen.stage, to = ?stage, "stage");
        self.seen.stage = stage;
        if let Stage::Terminating(_) = stage {
            self.seen.terminating_since = Some(Timestamp::now());
            self.seen.failures.clear();
            self.probes.stop_restarting();
            if let Some(starting) = self.starting.take() {
                starting.abort();
            }
        }
        if let Stage::Terminated(_) = stage {
            self.probes.stop_all();
            self.ctx.allocations.release(&self.pod.key.uid);
        }
        true
    }

    fn start_step(&mut self, action: Action) {
        let key = action.key();
        self.seen.in_flight.insert(key.clone());
        match &action {
            Action::StartContainer { name, .. } => self.note_restart(name.clone()),
            Action::KillContainer { name, id, .. } => self.note_replacement(name, id),
            _ => {}
        }
        if action == Action::SetUpVolumes {
            self.seen.volumes.begin_set_up();
        }
        let is_start = matches!(action, Action::StartContainer { .. });
        let input = StepInput {
            pod: self.pod.clone(),
            sandbox: self.seen.sandbox.clone(),
            containers: self.seen.containers.clone(),
            grace: self.grace.subscribe(),
            flushed: self
                .writer
                .as_ref()
                .filter(|_| matches!(action, Action::DeletePod))
                .map(|writer| Box::pin(writer.flushed()) as _),
        };
        let ctx = self.ctx.clone();
        let sender = self.sender.clone();
        let step = tokio::spawn(async move { step::run(&ctx, action, input).await });
        if is_start {
            self.starting = Some(step.abort_handle());
        }
        tokio::spawn(async move {
            let result = step.await.unwrap_or_else(|error| Err(StepError::interrupted(&error)));
            // Nobody listens only when the agent shuts down.
            let _ = sender.send(Event::StepDone(key, Box::new(result)));
        });
    }

    /// A restart raises the delay before the one after it.
    fn note_restart(&mut self, name: String) {
        let Some(last) = self.seen.newest(&name) else { return };
        let finished = finished_at(last);
        if let Some(container) = self.pod.container(&name)
            && container.role == Role::Init
            && last.exit_code == Some(0)
        {
            return;
        }
        let next = Backoff::next(self.seen.restarts.get(&name).copied(), CONTAINER, finished);
        self.seen.restarts.insert(name, next);
    }

    /// A container killed while the pod goes on comes back, but for one whose probe failed in a pod that never restarts.
    fn note_replacement(&mut self, name: &str, id: &str) {
        let Some(container) = self.pod.container(name) else { return };
        let unhealthy = self.seen.health.get(id).is_some_and(|health| health.unhealthy.is_some());
        let comes_back = !unhealthy || container.restart_policy != RestartPolicy::Never;
        if self.seen.stage == Stage::Active && self.seen.ready_sandbox().is_some() && comes_back {
            self.seen.replaced.insert(id.to_owned());
        }
    }

    /// What a container that ran before this agent did has: as last reported, or else what the pod is granted.
    fn note_given(&mut self, status: &ContainerStatus) {
        let id = format!("{ID_SCHEME}{}", status.id);
        let reported =
            container_statuses(&self.reported).find(|s| s.container_id.as_ref() == Some(&id));
        let granted =
            || self.pod.container(&status.metadata.name).and_then(|c| c.spec.resources.clone());
        let given = reported.and_then(|s| s.resources.clone()).or_else(granted);
        self.seen.actuated.insert(status.id.clone(), given.unwrap_or_default());
    }

    async fn learn(&mut self, event: Event) {
        match event {
            Event::Desired(object) => self.desire(object),
            Event::Removed => {
                self.seen.removed = true;
                self.seen.failures.remove(&StepKey::Object);
                self.grace.send_replace(SignedDuration::ZERO);
            }
            Event::Runtime(event) => self.runtime_event(event).await,
            Event::Relist => self.relist().await,
            Event::Probe(verdict) => self.probed(verdict),
            Event::StepDone(key, result) => self.step_done(key, *result).await,
            Event::Granted => self.desire(self.object.clone()),
            Event::Ended(ending) => self.end(ending),
            Event::Mirror(mirror) => self.mirror(mirror),
            Event::ObjectsChanged => {
                self.seen.volumes.content_changed();
                self.seen.failures.retain(|_, f| !f.repairable);
            }
        }
    }

    fn desire(&mut self, object: Arc<Pod>) {
        self.object = object.clone();
        let pod = self.granted(object);
        if pod.object.spec != self.pod.object.spec {
            self.seen.changed_at = Some(Timestamp::now());
        }
        if pod.labels() != self.pod.labels() || pod.annotations() != self.pod.annotations() {
            self.seen.volumes.content_changed();
        }
        if pod.deletion_requested().is_some() {
            self.grace.send_replace(self.seen.grace(&pod));
        }
        self.pod = Arc::new(pod);
        self.hold_references();
    }

    /// The first decision stands, and so does the end of a pod that has come to it by itself.
    fn end(&mut self, ending: Ending) {
        let ended = matches!(self.seen.stage, Stage::Terminated(_) | Stage::Gone);
        if self.seen.ending.is_none() && !ended {
            self.seen.ending = Some(ending);
            self.grace.send_replace(self.seen.grace(&self.pod));
        }
    }

    /// The status goes to the mirror pod, which may be a new one.
    fn mirror(&mut self, mirror: Option<Arc<Pod>>) {
        let known = self.writer.as_ref().map(|writer| writer.uid().to_owned());
        let uid = mirror.as_ref().and_then(|mirror| mirror.metadata.uid.clone());
        if uid == known {
            return;
        }
        self.writer = mirror.map(|mirror| {
            let status = mirror.status.clone().unwrap_or_default();
            let writer = StatusWriter::spawn(self.ctx.client.clone(), &PodKey::of(&mirror), status);
            writer.write(self.reported.clone());
            writer
        });
    }

    fn hold_references(&self) {
        let key = &self.pod.key;
        self.ctx.objects.hold(&key.uid, &key.namespace, &references(self.pod.spec()));
    }

    /// Containers that ran before this agent did keep running; their probes start over.
    fn adopt(&mut self) {
        let running: Vec<ContainerStatus> = self.seen.running().cloned().collect();
        for container in running {
            self.note_given(&container);
            self.watch_health(&container);
        }
        let conditions = self.reported.conditions.as_deref().unwrap_or_default();
        self.seen.resize.in_progress = resize::in_progress_of(conditions);
    }

    async fn runtime_event(&mut self, event: ContainerEvent) {
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

    async fn relist(&mut self) {
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

    fn probed(&mut self, verdict: Verdict) {
        let Some(health) = self.seen.health.get_mut(&verdict.container_id) else { return };
        verdict.apply(health);
    }

    async fn step_done(&mut self, key: StepKey, result: Result<Outcome, StepError>) {
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

    fn watch_health(&mut self, status: &ContainerStatus) {
        let Some(container) = self.pod.container(&status.metadata.name) else { return };
        self.seen.health.insert(status.id.clone(), Health::initial(container));
        self.probes.start(&self.pod, container, status, self.seen.sandbox.as_ref());
    }

    fn report(&mut self) {
        self.note_resize_end();
        let ctx = StatusContext {
            node_ips: &self.ctx.config.node_ips,
            now: Timestamp::now(),
            previous: &self.reported,
            termination_message: &|c: &ContainerStatus| termination::message(&self.pod, c),
        };
        let status = status(&self.pod, &self.seen, &ctx);
        if status != self.reported {
            self.announce_backoffs(&status);
            if let Some(writer) = &self.writer {
                writer.write(status.clone());
            }
            self.reported = status;
        }
    }

    /// An event for each container that has begun to wait for its next try.
    fn announce_backoffs(&self, status: &PodStatus) {
        for now in container_statuses(status) {
            let before = container_statuses(&self.reported).find(|s| s.name == now.name);
            let (reason, message) = waiting(Some(now));
            let Some(container) =
                self.pod.container(&now.name).filter(|_| reason != waiting(before).0)
            else {
                continue;
            };
            let recorder = &self.ctx.recorder;
            match reason {
                "CrashLoopBackOff" => {
                    let message = format!(
                        "Back-off restarting failed container {} in pod {}",
                        now.name, self.pod.key
                    );
                    recorder.container(
                        &self.pod,
                        container,
                        EventType::Warning,
                        "BackOff",
                        message,
                    );
                }
                "ImagePullBackOff" => {
                    recorder.container(&self.pod, container, EventType::Normal, "BackOff", message);
                    let message = "Error: ImagePullBackOff";
                    recorder.container(&self.pod, container, EventType::Warning, "Failed", message);
                }
                _ => {}
            }
        }
    }
}

fn container_statuses(status: &PodStatus) -> impl Iterator<Item = &ApiContainerStatus> {
    [&status.init_container_statuses, &status.container_statuses]
        .into_iter()
        .flat_map(|l| l.iter().flatten())
}

/// Reason and message of a waiting container; empty for one that does not wait.
fn waiting(status: Option<&ApiContainerStatus>) -> (&str, &str) {
    let waiting = status.and_then(|s| s.state.as_ref()?.waiting.as_ref());
    waiting.map_or(("", ""), |w| {
        (w.reason.as_deref().unwrap_or_default(), w.message.as_deref().unwrap_or_default())
    })
}

/// The one with the highest attempt speaks for the pod.
pub fn newest_sandbox(
    sandboxes: impl IntoIterator<Item = PodSandboxStatus>,
) -> Option<PodSandboxStatus> {
    sandboxes.into_iter().max_by_key(|s| (s.metadata.attempt, s.created_at))
}
