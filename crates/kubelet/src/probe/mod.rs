//! Probes: is a container alive, ready, started?
//!
//! Consumes running containers with their probes, asks at the probes' own times, emits a [`Verdict`] when a
//! threshold is crossed. Counterpart: `pkg/kubelet/prober`.
//! Differs from upstream: a container that has not been ready (or started) yet is also asked early, after 50 ms and
//! then at doubling distances up to its period, so that a fast start is seen at once; such early refusals neither
//! count towards a threshold nor make an event.
//! Invariant: a probe sleeps on the runtime's timer wheel between attempts and holds no thread.

mod attempt;
mod grpc;
pub mod http;
pub mod port;
mod state;

use std::{collections::HashMap, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Probe;
use skiff_runtime::{ContainerStatus, PodSandboxStatus};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use self::{
    attempt::{Answer, Target},
    state::{Change, ProbeState},
};
use crate::{
    context::NodeContext,
    events::EventType,
    pod::{
        desired::{DesiredContainer, DesiredPod},
        observed::{Health, Unhealthy},
        worker::Event,
    },
};

const FIRST_EARLY_LOOK: Duration = Duration::from_millis(50);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeKind {
    Liveness,
    Readiness,
    Startup,
}

/// A threshold was crossed.
#[derive(Debug)]
pub struct Verdict {
    pub container_id: String,
    pub kind: ProbeKind,
    pub success: bool,
    pub grace_seconds: Option<i64>,
}

// === impl ProbeKind ===

impl ProbeKind {
    fn label(self) -> &'static str {
        match self {
            ProbeKind::Liveness => "liveness",
            ProbeKind::Readiness => "readiness",
            ProbeKind::Startup => "startup",
        }
    }

    fn title(self) -> &'static str {
        match self {
            ProbeKind::Liveness => "Liveness",
            ProbeKind::Readiness => "Readiness",
            ProbeKind::Startup => "Startup",
        }
    }
}

// === impl Verdict ===

impl Verdict {
    pub fn apply(self, health: &mut Health) {
        match (self.kind, self.success) {
            (ProbeKind::Readiness, success) => health.ready = success,
            (ProbeKind::Startup, true) => health.started = true,
            (ProbeKind::Liveness, true) => {}
            (kind, false) => {
                health.unhealthy =
                    Some(Unhealthy { probe: kind.label(), grace_seconds: self.grace_seconds });
            }
        }
    }
}

/// The probes of one pod's running containers.
pub struct ProbeSet {
    ctx: Arc<NodeContext>,
    events: mpsc::UnboundedSender<Event>,
    /// By container id; dropping a set ends its probes.
    running: HashMap<String, Running>,
}

struct Running {
    readiness: JoinSet<()>,
    /// Liveness and startup: those that may lead to a kill.
    restarting: JoinSet<()>,
}

// === impl ProbeSet ===

impl ProbeSet {
    pub fn new(ctx: Arc<NodeContext>, events: mpsc::UnboundedSender<Event>) -> Self {
        ProbeSet { ctx, events, running: HashMap::new() }
    }

    /// Begins the probes of a container that has just started (or was found running).
    pub fn start(
        &mut self,
        pod: &Arc<DesiredPod>,
        container: &DesiredContainer,
        status: &ContainerStatus,
        sandbox: Option<&PodSandboxStatus>,
    ) {
        let spec = &container.spec;
        let (started, wait_for_start) = watch::channel(spec.startup_probe.is_none());
        let started = Arc::new(started);
        let mut running = Running { readiness: JoinSet::new(), restarting: JoinSet::new() };
        let probes = [
            (ProbeKind::Startup, &spec.startup_probe),
            (ProbeKind::Readiness, &spec.readiness_probe),
            (ProbeKind::Liveness, &spec.liveness_probe),
        ];
        for (kind, probe) in probes {
            let Some(probe) = probe else { continue };
            let prober = Prober {
                ctx: self.ctx.clone(),
                events: self.events.clone(),
                kind,
                state: ProbeState::new(probe, kind != ProbeKind::Liveness),
                target: Target::new(
                    pod.clone(),
                    container.clone(),
                    status.id.clone(),
                    sandbox.cloned(),
                ),
                probe: probe.clone(),
                started: started.clone(),
                wait_for_start: wait_for_start.clone(),
            };
            let set = if kind == ProbeKind::Readiness {
                &mut running.readiness
            } else {
                &mut running.restarting
            };
            set.spawn(prober.run());
        }
        self.running.insert(status.id.clone(), running);
    }

    pub fn stop(&mut self, container_id: &str) {
        self.running.remove(container_id);
    }

    /// While a pod terminates its containers are no longer restarted, but still say whether they are ready.
    pub fn stop_restarting(&mut self) {
        self.running.values_mut().for_each(|r| r.restarting.abort_all());
    }

    pub fn stop_all(&mut self) {
        self.running.clear();
    }
}

struct Prober {
    ctx: Arc<NodeContext>,
    events: mpsc::UnboundedSender<Event>,
    kind: ProbeKind,
    probe: Probe,
    state: ProbeState,
    target: Target,
    started: Arc<watch::Sender<bool>>,
    wait_for_start: watch::Receiver<bool>,
}

// === impl Prober ===

impl Prober {
    async fn run(mut self) {
        if self.kind != ProbeKind::Startup {
            // An error means that the container is gone, and this task with it.
            let _ = self.wait_for_start.wait_for(|started| *started).await;
        }
        tokio::time::sleep(seconds(self.probe.initial_delay_seconds, 0)).await;
        let period = seconds(self.probe.period_seconds, 10).max(Duration::from_secs(1));
        let early_from = FIRST_EARLY_LOOK.min(period);
        if self.kind != ProbeKind::Liveness && self.look_early(early_from, period).await {
            return;
        }
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = self.ask().await;
            if self.judge(answer) {
                return;
            }
        }
    }

    /// Asks at growing distances during the first period; true when the probe has done its work.
    async fn look_early(&mut self, mut distance: Duration, period: Duration) -> bool {
        let begun = tokio::time::Instant::now();
        while begun.elapsed() + distance < period {
            let answer = self.ask().await;
            if matches!(answer, Answer::Success) {
                return self.judge(answer) || {
                    tokio::time::sleep(period).await;
                    false
                };
            }
            tokio::time::sleep(distance).await;
            distance *= 2;
        }
        false
    }

    async fn ask(&self) -> Answer {
        let timeout = seconds(self.probe.timeout_seconds, 1).max(Duration::from_secs(1));
        self.target.ask(&self.ctx, &self.probe, timeout).await
    }

    /// Counts the answer and reports a change; true when this probe has nothing more to say.
    fn judge(&mut self, answer: Answer) -> bool {
        if let Answer::Failure(output) = &answer {
            let message = format!("{} probe failed: {output}", self.kind.title());
            let (pod, container) = (&self.target.pod, &self.target.container);
            self.ctx.recorder.container(pod, container, EventType::Warning, "Unhealthy", message);
        }
        let Some(change) = self.state.count(matches!(answer, Answer::Success)) else {
            return false;
        };
        let success = change == Change::Succeeded;
        if self.kind == ProbeKind::Startup && success {
            self.started.send_replace(true);
        }
        let verdict = Verdict {
            container_id: self.target.container_id.clone(),
            kind: self.kind,
            success,
            grace_seconds: self.probe.termination_grace_period_seconds,
        };
        let listening = self.events.send(Event::Probe(verdict)).is_ok();
        // A startup probe is done either way; a liveness failure ends in a kill.
        !listening
            || self.kind == ProbeKind::Startup
            || (self.kind == ProbeKind::Liveness && !success)
    }
}

fn seconds(value: Option<i32>, default: u64) -> Duration {
    Duration::from_secs(value.map_or(default, |s| u64::try_from(s).unwrap_or(0)))
}
