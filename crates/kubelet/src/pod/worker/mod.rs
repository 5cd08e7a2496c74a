//! One worker per pod: learns, plans, acts, reports.
//!
//! Consumes a closed set of events, asks [`super::plan`] what to do, starts steps beside itself and writes the
//! status. Counterpart: `pkg/kubelet/pod_workers.go` with `syncPod` and its siblings.
//! Invariant: the worker alone changes its [`Observed`]; it never waits for a step, and it sleeps until an event
//! or the plan's own time.

mod learn;
mod report;

use std::{pin::pin, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::Api;
use skiff_runtime::{ContainerEvent, ContainerStatus, PodSandboxStatus};
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

pub use learn::newest_sandbox;
use report::container_statuses;

use super::{
    backoff::{Backoff, CONTAINER},
    desired::{DesiredPod, PodKey, RestartPolicy, Role},
    ending::{Ending, PREEMPTING},
    observed::{Observed, Volumes, finished_at},
    plan::{Action, Plan, Stage, StepKey, plan},
    resize,
    status::container_id,
    status_writer::StatusWriter,
};
use crate::{
    allocation::{self, Granted, Pending, Rejection},
    context::NodeContext,
    events::EventType,
    eviction::is_critical,
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
        let begun = ctx.config.pod_dir(&pod.key.uid).join("volumes").exists()
            || ctx.claims.holds(&pod.key.uid);
        let seen = Observed {
            volumes: Volumes { begun, ..Volumes::default() },
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
        let mut admitted = match welcome {
            Ok(()) => self.find_place(node.as_ref(), runs).await,
            refused => refused,
        };
        if admitted.is_ok() {
            admitted = self.ctx.devices.allocate(&self.object, runs).await;
        }
        match admitted {
            Ok(()) => {
                self.pod =
                    Arc::new(DesiredPod::new(self.ctx.allocations.grant(self.object.clone()).pod))
            }
            Err(rejection) => {
                self.release();
                let (reason, message) = (rejection.reason.clone(), rejection.message.clone());
                self.ctx.recorder.pod(&self.pod, EventType::Warning, reason, message);
                self.seen.rejected = Some(rejection);
            }
        }
    }

    /// Where there is none, others end for a critical pod.
    async fn find_place(&self, node: Option<&Node>, runs: bool) -> Result<(), Rejection> {
        let allocations = &self.ctx.allocations;
        loop {
            let mut released = pin!(allocations.released());
            released.as_mut().enable();
            let Err(refused) = allocations.admit(&self.object, node, runs) else { return Ok(()) };
            if !is_critical(&self.object) {
                return Err(refused);
            }
            let Some(victims) = allocations.preempt(&self.object, node)? else {
                return allocations.admit(&self.object, node, runs);
            };
            for uid in victims {
                tracing::info!(pod = %self.pod.key, victim = uid, "preempting");
                self.ctx.endings.end(&uid, Ending::preempted());
            }
            released.await;
        }
    }

    /// Others may have what the pod had.
    fn release(&self) {
        self.ctx.allocations.release(&self.pod.key.uid);
        self.ctx.devices.release(&self.pod.key.uid);
        self.ctx.users.release(&self.pod.key.uid);
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
            self.release();
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
        let id = container_id(&self.ctx.config.container_runtime, &status.id);
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
            if ending.reason == PREEMPTING {
                let message = ending.message.clone();
                self.ctx.recorder.pod(&self.pod, EventType::Warning, PREEMPTING, message);
            }
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
}
