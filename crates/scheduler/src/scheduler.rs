//! The scheduling task: watch events in, placements out.
//!
//! One task owns the cache and the queue and does one thing at a time: apply what was heard, then place one pod. What
//! takes time (binding, conditions, events) runs beside it and reports back as one more event.
//! Counterpart: `scheduler.go`, `eventhandlers.go` and the loop of `schedule_one.go`.
//! Invariant: no pod is tried before everything that was there at the start is known; nothing here waits for the API.

use std::collections::{HashMap, HashSet};
use std::mem::{Discriminant, discriminant};
use std::sync::Arc;
use std::time::Duration;

use skiff_api::scheduling::{Labels, Selector};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::SchedulerConfig;
use crate::api_writes::Writer;
use crate::cache::Cache;
use crate::cycle::{Chance, Outcome, Scheduling};
use crate::framework::{ClusterEvent, Cycle};
use crate::informer::Change;
use crate::listers::{
    Attachment, Budget, Capacity, Claim, Class, CsiDriver, CsiNode, Listed, Lister, Listers, Volume,
};
use crate::node_info::NodeFacts;
use crate::nominations::Nominations;
use crate::plugins::volume_binding::{self, ClaimStep};
use crate::pod_info::{Condition, PodInfo};
use crate::preemption::Nomination;
use crate::profile::Profile;
use crate::queue::{QueuedPod, SchedulingQueue};
use crate::recorder::{Note, Recorder};

/// Everything the task reacts to.
#[derive(Debug)]
pub enum Event {
    Pods(Change<Arc<PodInfo>>),
    Nodes(Change<NodeFacts>),
    Namespaces(Change<Listed<Labels>>),
    Services(Change<Listed<Selector>>),
    ReplicationControllers(Change<Listed<Selector>>),
    ReplicaSets(Change<Listed<Selector>>),
    StatefulSets(Change<Listed<Selector>>),
    Claims(Change<Listed<Claim>>),
    Volumes(Change<Listed<Volume>>),
    Classes(Change<Listed<Class>>),
    Budgets(Change<Listed<Budget>>),
    CsiNodes(Change<Listed<CsiNode>>),
    CsiDrivers(Change<Listed<CsiDriver>>),
    Capacities(Change<Listed<Capacity>>),
    Attachments(Change<Listed<Attachment>>),
    /// What a pod's claims need has been asked for.
    ClaimsSettled {
        pod: Arc<PodInfo>,
        node: String,
    },
    /// The victims of a preemption were asked to go, or that failed.
    Preempted {
        pod: Arc<PodInfo>,
        asked: bool,
    },
    /// A binding ended.
    Bound {
        pod: Arc<PodInfo>,
        node: String,
        outcome: Result<(), BindError>,
    },
}

/// All kinds of which a complete list must have come before the first pod is tried.
const WATCHED_KINDS: usize = 15;

/// A pod with a node whose claims do not have their volumes yet.
struct AwaitingClaims {
    pod: Arc<PodInfo>,
    node: String,
    until: Instant,
}

/// Why a pod that was given a node is not bound to it.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(transparent)]
    Api(kube::Error),
    #[error("timed out waiting for the pod's claims to be bound")]
    ClaimsTimedOut,
}

/// Whether a change was the whole state of its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whole {
    Yes,
    No,
}

pub struct Scheduler {
    clock: fn() -> jiff::Timestamp,
    cache: Cache,
    listers: Listers,
    queue: SchedulingQueue,
    nominations: Nominations,
    profiles: Vec<Profile>,
    scheduling: Scheduling,
    writer: Writer,
    recorder: Recorder,
    /// For what runs beside the task to report back.
    reports: mpsc::UnboundedSender<Event>,
    /// The kinds of which a complete list has come.
    complete: HashSet<Discriminant<Event>>,
    awaiting_claims: Vec<AwaitingClaims>,
    /// The last write of a condition, by pod.
    telling: HashMap<String, JoinHandle<()>>,
}

// === impl Scheduler ===

impl Scheduler {
    pub fn new(
        config: SchedulerConfig,
        writer: Writer,
        recorder: Recorder,
        reports: mpsc::UnboundedSender<Event>,
    ) -> Scheduler {
        let seed = u64::try_from((config.clock)().as_nanosecond()).unwrap_or(1) | 1;
        let scheduling = Scheduling { start: 0, chance: Chance(seed) };
        Scheduler {
            clock: config.clock,
            cache: Cache::default(),
            listers: Listers::default(),
            queue: SchedulingQueue::new(config.initial_backoff, config.max_backoff),
            nominations: Nominations::default(),
            profiles: config.profiles,
            scheduling,
            writer,
            recorder,
            reports,
            complete: HashSet::new(),
            awaiting_claims: Vec::new(),
            telling: HashMap::new(),
        }
    }

    /// Runs until both channels are closed or the future is dropped.
    pub async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut reports: mpsc::UnboundedReceiver<Event>,
    ) {
        loop {
            while let Ok(event) = reports.try_recv() {
                self.apply(event);
            }
            while let Ok(event) = events.try_recv() {
                self.apply(event);
            }
            if self.schedule_one() {
                // Lets bindings and watches run when there is but one thread.
                tokio::task::yield_now().await;
                continue;
            }
            let due = self.next_due();
            tokio::select! {
                Some(event) = reports.recv() => self.apply(event),
                event = events.recv() => match event {
                    Some(event) => self.apply(event),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.bind_settled();
                }
            }
        }
    }

    /// When there may be something to do without any event.
    fn next_due(&self) -> Option<Instant> {
        let claims = self.awaiting_claims.iter().map(|waiting| waiting.until).min();
        self.queue.next_due().into_iter().chain(claims).min()
    }

    fn apply(&mut self, event: Event) {
        let kind = discriminant(&event);
        if self.applied(event) == Whole::Yes {
            self.complete.insert(kind);
        }
    }

    /// Answers whether the whole state of a kind came.
    fn applied(&mut self, event: Event) -> Whole {
        match event {
            Event::Pods(change) => self.apply_pods(change),
            Event::Nodes(change) => self.apply_nodes(change),
            Event::Namespaces(change) => {
                let whole = apply(&mut self.listers.namespaces, change);
                self.happened(&ClusterEvent::NamespaceChanged, whole)
            }
            Event::Services(change) => apply(&mut self.listers.services, change),
            Event::ReplicationControllers(change) => {
                apply(&mut self.listers.replication_controllers, change)
            }
            Event::ReplicaSets(change) => apply(&mut self.listers.replica_sets, change),
            Event::StatefulSets(change) => apply(&mut self.listers.stateful_sets, change),
            Event::Claims(change) => {
                let whole = apply(&mut self.listers.claims, change);
                self.bind_settled();
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::Volumes(change) => {
                let whole = apply(&mut self.listers.volumes, change);
                self.bind_settled();
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::Classes(change) => {
                let whole = apply(&mut self.listers.classes, change);
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::Budgets(change) => apply(&mut self.listers.budgets, change),
            Event::CsiNodes(change) => {
                let whole = apply(&mut self.listers.csi_nodes, change);
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::CsiDrivers(change) => {
                let whole = apply(&mut self.listers.csi_drivers, change);
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::Capacities(change) => {
                let whole = apply(&mut self.listers.capacities, change);
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::Attachments(change) => {
                let whole = apply(&mut self.listers.attachments, change);
                self.happened(&ClusterEvent::StorageChanged, whole)
            }
            Event::ClaimsSettled { pod, node } => {
                let until = Instant::now() + self.claims_timeout(&pod);
                self.awaiting_claims.push(AwaitingClaims { pod, node, until });
                self.bind_settled();
                Whole::No
            }
            Event::Preempted { pod, asked } => {
                self.queue.preempted(&pod.uid, asked, Instant::now());
                Whole::No
            }
            Event::Bound { pod, node, outcome } => {
                self.bound(&pod, &node, outcome);
                Whole::No
            }
        }
    }

    /// How long a pod's claims may take to get their volumes.
    fn claims_timeout(&self, pod: &PodInfo) -> Duration {
        let profile = self.profile(pod).map(|at| &self.profiles[at]);
        profile.map_or(Duration::ZERO, |profile| profile.args.volume_binding.bind_timeout)
    }

    fn happened(&mut self, event: &ClusterEvent, whole: Whole) -> Whole {
        self.queue.happened(event, Instant::now());
        whole
    }

    fn apply_pods(&mut self, change: Change<Arc<PodInfo>>) -> Whole {
        match change {
            Change::Set(pod) => self.set_pod(pod),
            Change::Deleted(pod) => self.remove_pod(&pod.uid),
            Change::Replaced(pods) => {
                self.replace_pods(pods);
                return Whole::Yes;
            }
        }
        Whole::No
    }

    fn apply_nodes(&mut self, change: Change<NodeFacts>) -> Whole {
        match change {
            Change::Set(node) => self.set_node(node),
            Change::Deleted(node) => self.cache.remove_node(&node.name),
            Change::Replaced(nodes) => {
                self.replace_nodes(nodes);
                return Whole::Yes;
            }
        }
        Whole::No
    }

    // --- what the watches tell ---

    fn set_pod(&mut self, pod: Arc<PodInfo>) {
        if pod.finished {
            return self.remove_pod(&pod.uid);
        }
        if pod.node_name.is_some() {
            return self.set_placed(pod);
        }
        let ours = self.profile(&pod).is_some() && !pod.terminating;
        if !ours {
            self.nominations.remove(&pod.uid);
            return self.queue.remove(&pod.uid);
        }
        self.nominations.heard(&pod, self.queue.get(&pod.uid).map(Arc::as_ref));
        if !pod.gates.is_empty() {
            self.tell_unscheduled(
                &pod,
                "SchedulingGated",
                "Scheduling is blocked due to non-empty scheduling gates",
                None,
            );
        }
        self.queue.set(pod, Instant::now());
    }

    fn profile(&self, pod: &PodInfo) -> Option<usize> {
        self.profiles.iter().position(|profile| profile.name == pod.scheduler_name)
    }

    fn set_placed(&mut self, pod: Arc<PodInfo>) {
        self.queue.remove(&pod.uid);
        self.nominations.remove(&pod.uid);
        self.telling.remove(&pod.uid);
        let before = self.cache.pod(&pod.uid).cloned();
        self.cache.set_pod(pod.clone());
        let now = Instant::now();
        match before {
            Some(before) if before.requests != pod.requests => {
                self.queue.happened(&ClusterEvent::PodLeft(&before), now);
            }
            Some(before) if before.terminating != pod.terminating => {
                self.queue.happened(&ClusterEvent::PodTerminating(&pod), now);
            }
            Some(before) if before.labels == pod.labels => {}
            _ => self.queue.happened(&ClusterEvent::PodPlaced(&pod), now),
        }
    }

    fn remove_pod(&mut self, uid: &str) {
        self.queue.remove(uid);
        // Others may have been turned away for what was promised to it.
        let promised = self.nominations.node_of(uid).is_some();
        self.nominations.remove(uid);
        if promised {
            self.queue.happened(&ClusterEvent::PodLeft(&PodInfo::default()), Instant::now());
        }
        self.telling.remove(uid);
        if let Some(pod) = self.cache.remove_pod(uid) {
            self.queue.happened(&ClusterEvent::PodLeft(&pod), Instant::now());
        }
    }

    fn replace_pods(&mut self, pods: Vec<Arc<PodInfo>>) {
        let present: HashSet<String> = pods.iter().map(|pod| pod.uid.clone()).collect();
        // Assumed pods too: a list is never older than what made us place them, so one that it lacks is gone.
        let known = self.cache.uids().into_iter().chain(self.queue.uids());
        let gone: Vec<_> = known.filter(|uid| !present.contains(uid)).collect();
        gone.iter().for_each(|uid| self.remove_pod(uid));
        pods.into_iter().for_each(|pod| self.set_pod(pod));
    }

    fn set_node(&mut self, facts: NodeFacts) {
        let name = facts.name.clone();
        let before = self.cache.set_node(facts);
        let node = self.cache.node(&name).expect("it was just set");
        let event = match &before {
            None => ClusterEvent::NodeAdded(node),
            // A heartbeat: nothing that a plugin looks at.
            Some(before) if **before == *node.facts => return,
            Some(before) => ClusterEvent::NodeUpdated { before, now: node },
        };
        self.queue.happened(&event, Instant::now());
    }

    fn replace_nodes(&mut self, nodes: Vec<NodeFacts>) {
        let known: Vec<_> = self.cache.nodes().iter().map(|n| n.name().to_owned()).collect();
        for name in known.iter().filter(|name| !nodes.iter().any(|node| node.name == **name)) {
            self.cache.remove_node(name);
        }
        nodes.into_iter().for_each(|node| self.set_node(node));
    }

    // --- placing a pod ---

    /// Tries one pod, if one is waiting. Answers whether there was one.
    fn schedule_one(&mut self) -> bool {
        if self.complete.len() < WATCHED_KINDS {
            return false;
        }
        let Some(queued) = self.queue.pop(Instant::now()) else { return false };
        let pod = &queued.info;
        let Some(profile) = self.profile(pod) else { return true };
        self.cache.settle();
        let cycle = Cycle {
            pod,
            cache: &self.cache,
            listers: &self.listers,
            nominations: &self.nominations,
            profile: &self.profiles[profile],
        };
        match self.scheduling.schedule(cycle) {
            Outcome::Placed { node } => self.place(&queued, node),
            Outcome::Unschedulable { message, rejected_by, nomination } => {
                self.queue.unschedulable(&pod.uid, rejected_by, Instant::now());
                let nominated = self.nominate(pod, nomination);
                self.tell_failed(pod, "Unschedulable", message, nominated);
            }
        }
        true
    }

    /// Counts the pod on its node at once; what must be written for that is written beside the task.
    fn place(&mut self, queued: &QueuedPod, node: String) {
        let on = self.cache.node(&node).expect("the cycle chose a node of the cache");
        let steps = volume_binding::claim_steps(&queued.info, &self.listers, on);
        let mut assumed = PodInfo::clone(&queued.info);
        assumed.node_name = Some(node.clone());
        let pod = Arc::new(assumed);
        self.nominations.remove(&pod.uid);
        self.cache.assume(pod.clone());
        match steps.is_empty() {
            true => self.bind(pod, node),
            false => self.settle_claims(pod, node, steps),
        }
    }

    /// Promises the pod its node and has the victims evicted beside the task. Answers what the API must be told: the
    /// node's name, an empty one when the promise is withdrawn.
    fn nominate(&mut self, pod: &Arc<PodInfo>, nomination: Nomination) -> Option<String> {
        match nomination {
            Nomination::Keep => None,
            Nomination::Clear => {
                self.nominations.remove(&pod.uid);
                pod.nominated.is_some().then(String::new)
            }
            Nomination::Set { node, victims } => {
                let lesser = self.nominations.below(&node, pod.priority);
                for other in &lesser {
                    self.nominations.remove(&other.uid);
                    self.queue.activate(&other.uid);
                }
                self.nominations.set(pod.clone(), &node);
                self.evict(pod.clone(), node.clone(), victims, lesser);
                Some(node)
            }
        }
    }

    /// `lesser` are the pods to which the node was promised and who are pushed aside.
    fn evict(
        &mut self,
        pod: Arc<PodInfo>,
        node: String,
        victims: Vec<Arc<PodInfo>>,
        lesser: Vec<Arc<PodInfo>>,
    ) {
        let (mut waiting, mut running) = (Vec::new(), Vec::new());
        for victim in victims.into_iter().filter(|victim| !victim.terminating) {
            let in_memory = self.awaiting_claims.iter().any(|other| other.pod.uid == victim.uid);
            if in_memory { waiting.push(victim) } else { running.push(victim) }
        }
        for victim in &waiting {
            self.give_up_binding(victim);
            self.tell_preempted(
                &pod,
                victim,
                format!("{} (in kube-scheduler memory).", by(&pod, &node)),
            );
        }
        self.queue.preempting(&pod.uid);
        let (writer, reports, recorder) =
            (self.writer.clone(), self.reports.clone(), self.recorder.clone());
        let now = (self.clock)();
        tokio::spawn(async move {
            for other in lesser.iter().filter(|other| other.nominated.is_some()) {
                if let Err(error) = writer.withdraw_nomination(other).await {
                    tracing::debug!(pod = other.name, %error, "nomination was not withdrawn");
                }
            }
            let evictions = running.iter().map(async |victim| {
                writer.evict(victim, &pod.scheduler_name, now).await?;
                recorder.tell(preempted_note(&pod, victim, by(&pod, &node)));
                Ok::<(), kube::Error>(())
            });
            let outcome = futures::future::try_join_all(evictions).await;
            if let Err(error) = &outcome {
                tracing::warn!(namespace = pod.namespace, pod = pod.name, %error, "preemption failed");
            }
            let _ = reports.send(Event::Preempted { pod, asked: outcome.is_ok() });
        });
    }

    /// Takes back the node of a pod that only waits for its volumes: it is not bound, so nothing need be deleted.
    fn give_up_binding(&mut self, pod: &Arc<PodInfo>) {
        self.awaiting_claims.retain(|waiting| waiting.pod.uid != pod.uid);
        self.cache.forget(&pod.uid);
        self.queue.failed(&pod.uid, Instant::now());
    }

    fn tell_preempted(&self, pod: &PodInfo, victim: &PodInfo, note: String) {
        self.recorder.tell(preempted_note(pod, victim, note));
    }

    fn bind(&mut self, pod: Arc<PodInfo>, node: String) {
        let (writer, reports) = (self.writer.clone(), self.reports.clone());
        let told = self.telling.remove(&pod.uid);
        tokio::spawn(async move {
            // A condition that is still on its way must not arrive after the binding and deny it.
            if let Some(told) = told {
                let _ = told.await;
            }
            let outcome = writer.bind(&pod, &node).await.map_err(BindError::Api);
            // Nobody listens any more only when the scheduler has stopped.
            let _ = reports.send(Event::Bound { pod, node, outcome });
        });
    }

    fn settle_claims(&mut self, pod: Arc<PodInfo>, node: String, steps: Vec<ClaimStep>) {
        for step in &steps {
            if let ClaimStep::Promise { volume, .. } = step
                && let Some(volume) = self.listers.volumes.get_mut("", volume)
            {
                volume.available = false;
            }
        }
        let (writer, reports) = (self.writer.clone(), self.reports.clone());
        tokio::spawn(async move {
            let report = match writer.settle_claims(&pod, &node, &steps).await {
                Ok(()) => Event::ClaimsSettled { pod, node },
                Err(error) => Event::Bound { pod, node, outcome: Err(BindError::Api(error)) },
            };
            let _ = reports.send(report);
        });
    }

    /// Binds the pods whose claims have their volumes now, and gives up on those that waited too long.
    fn bind_settled(&mut self) {
        let now = Instant::now();
        for waiting in std::mem::take(&mut self.awaiting_claims) {
            if !self.cache.is_assumed(&waiting.pod.uid) {
                continue;
            }
            if volume_binding::all_bound(&waiting.pod, &self.listers) {
                self.bind(waiting.pod, waiting.node);
            } else if waiting.until <= now {
                self.bound(&waiting.pod, &waiting.node, Err(BindError::ClaimsTimedOut));
            } else {
                self.awaiting_claims.push(waiting);
            }
        }
    }

    fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, outcome: Result<(), BindError>) {
        let Err(error) = outcome else {
            return self.recorder.tell(Note {
                reporter: pod.scheduler_name.clone(),
                regarding: pod.reference(),
                related: None,
                type_: "Normal",
                reason: "Scheduled",
                action: "Binding",
                note: format!("Successfully assigned {}/{} to {node}", pod.namespace, pod.name),
            });
        };
        self.cache.forget(&pod.uid);
        let now = Instant::now();
        self.queue.happened(&ClusterEvent::PodLeft(pod), now);
        // Deleted meanwhile, or bound by somebody else: not a failure of ours.
        let Some(current) = self.queue.get(&pod.uid).cloned() else { return };
        tracing::warn!(namespace = pod.namespace, pod = pod.name, node, %error, "binding failed");
        self.queue.failed(&pod.uid, now);
        self.tell_failed(&current, "SchedulerError", format!("binding rejected: {error}"), None);
    }

    // --- telling ---

    fn tell_failed(
        &mut self,
        pod: &Arc<PodInfo>,
        reason: &'static str,
        message: String,
        nominated: Option<String>,
    ) {
        self.tell_unscheduled(pod, reason, &message, nominated);
        self.recorder.tell(Note {
            reporter: pod.scheduler_name.clone(),
            regarding: pod.reference(),
            related: None,
            type_: "Warning",
            reason: "FailedScheduling",
            action: "Scheduling",
            note: message,
        });
    }

    /// Sets PodScheduled to false, unless the pod says exactly that already. Writes about one pod keep their order.
    fn tell_unscheduled(
        &mut self,
        pod: &Arc<PodInfo>,
        reason: &str,
        message: &str,
        nominated: Option<String>,
    ) {
        let condition = Condition::unscheduled(reason, message);
        let known = nominated.is_none() || nominated == pod.nominated;
        if pod.scheduled.as_ref() == Some(&condition) && known {
            return;
        }
        let (writer, now) = (self.writer.clone(), (self.clock)());
        let (pod, before) = (pod.clone(), self.telling.remove(&pod.uid));
        let uid = pod.uid.clone();
        let telling = tokio::spawn(async move {
            if let Some(before) = before {
                let _ = before.await;
            }
            let written = writer.set_condition(&pod, &condition, nominated.as_deref(), now).await;
            if let Err(error) = written {
                tracing::debug!(namespace = pod.namespace, pod = pod.name, %error, "condition was not written");
            }
        });
        self.telling.insert(uid, telling);
    }
}

/// Who preempted, as the event about a victim says it.
fn by(pod: &PodInfo, node: &str) -> String {
    format!("Preempted by pod {} on node {node}", pod.uid)
}

fn preempted_note(pod: &PodInfo, victim: &PodInfo, note: String) -> Note {
    Note {
        reporter: pod.scheduler_name.clone(),
        regarding: victim.reference(),
        related: Some(pod.reference()),
        type_: "Normal",
        reason: "Preempted",
        action: "Preempting",
        note,
    }
}

fn apply<T>(lister: &mut Lister<T>, change: Change<Listed<T>>) -> Whole {
    let whole = if matches!(change, Change::Replaced(_)) { Whole::Yes } else { Whole::No };
    lister.apply(change);
    whole
}
