//! The scheduling task: watch events in, placements out.
//!
//! One task owns the cache and the queue and does one thing at a time: apply what was heard, then place one pod. What
//! takes time (binding, conditions, events) runs beside it and reports back as one more event.
//! Counterpart: `scheduler.go`, `eventhandlers.go` and the loop of `schedule_one.go`.
//! Invariant: no pod is tried before everything that was there at the start is known; nothing here waits for the API.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::SchedulerConfig;
use crate::api_writes::Writer;
use crate::cache::Cache;
use crate::cycle::{Chance, Outcome, Scheduling};
use crate::framework::ClusterEvent;
use crate::informer::Change;
use crate::node_info::NodeFacts;
use crate::pod_info::PodInfo;
use crate::queue::{QueuedPod, SchedulingQueue};
use crate::recorder::{Note, Recorder};

/// Everything the task reacts to.
#[derive(Debug)]
pub enum Event {
    Pods(Change<Arc<PodInfo>>),
    Nodes(Change<NodeFacts>),
    /// A binding ended.
    Bound {
        pod: Arc<PodInfo>,
        node: String,
        outcome: Result<(), kube::Error>,
    },
}

pub struct Scheduler {
    config: SchedulerConfig,
    cache: Cache,
    queue: SchedulingQueue,
    scheduling: Scheduling,
    writer: Writer,
    recorder: Recorder,
    /// For what runs beside the task to report back.
    reports: mpsc::UnboundedSender<Event>,
    unsynced: Unsynced,
}

/// The kinds of which no complete list has come yet.
struct Unsynced {
    pods: bool,
    nodes: bool,
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
        let scheduling = Scheduling {
            percentage_of_nodes_to_score: config.percentage_of_nodes_to_score,
            start: 0,
            chance: Chance(seed),
        };
        Scheduler {
            config,
            cache: Cache::default(),
            queue: SchedulingQueue::default(),
            scheduling,
            writer,
            recorder,
            reports,
            unsynced: Unsynced { pods: true, nodes: true },
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
            let due = self.queue.next_due();
            tokio::select! {
                Some(event) = reports.recv() => self.apply(event),
                event = events.recv() => match event {
                    Some(event) => self.apply(event),
                    None => return,
                },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            }
        }
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Pods(Change::Set(pod)) => self.set_pod(pod),
            Event::Pods(Change::Deleted(pod)) => self.remove_pod(&pod.uid),
            Event::Pods(Change::Replaced(pods)) => {
                self.replace_pods(pods);
                self.unsynced.pods = false;
            }
            Event::Nodes(Change::Set(node)) => self.set_node(node),
            Event::Nodes(Change::Deleted(node)) => self.cache.remove_node(&node.name),
            Event::Nodes(Change::Replaced(nodes)) => {
                self.replace_nodes(nodes);
                self.unsynced.nodes = false;
            }
            Event::Bound { pod, node, outcome } => self.bound(&pod, &node, outcome),
        }
    }

    // --- what the watches tell ---

    fn set_pod(&mut self, pod: Arc<PodInfo>) {
        if pod.finished {
            return self.remove_pod(&pod.uid);
        }
        if pod.node_name.is_some() {
            return self.set_placed(pod);
        }
        let ours = pod.scheduler_name == self.config.scheduler_name && !pod.terminating;
        if !ours {
            return self.queue.remove(&pod.uid);
        }
        if !pod.gates.is_empty() {
            self.tell_unscheduled(
                &pod,
                "SchedulingGated",
                "Scheduling is blocked due to non-empty scheduling gates",
            );
        }
        self.queue.set(pod, Instant::now());
    }

    fn set_placed(&mut self, pod: Arc<PodInfo>) {
        self.queue.remove(&pod.uid);
        let before = self.cache.pod(&pod.uid).cloned();
        self.cache.set_pod(pod.clone());
        let now = Instant::now();
        match before {
            Some(before) if before.requests != pod.requests => {
                self.queue.happened(&ClusterEvent::PodLeft(&before), now);
            }
            Some(before) if before.labels == pod.labels => {}
            _ => self.queue.happened(&ClusterEvent::PodPlaced(&pod), now),
        }
    }

    fn remove_pod(&mut self, uid: &str) {
        self.queue.remove(uid);
        if let Some(pod) = self.cache.remove_pod(uid) {
            self.queue.happened(&ClusterEvent::PodLeft(&pod), Instant::now());
        }
    }

    fn replace_pods(&mut self, pods: Vec<Arc<PodInfo>>) {
        let present: std::collections::HashSet<String> =
            pods.iter().map(|pod| pod.uid.clone()).collect();
        let known = self.cache.confirmed_uids().into_iter().chain(self.queue.uids());
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
        if self.unsynced.pods || self.unsynced.nodes {
            return false;
        }
        let Some(queued) = self.queue.pop(Instant::now()) else { return false };
        self.cache.settle();
        match self.scheduling.schedule(&queued.info, &self.cache) {
            Outcome::Placed { node } => self.place(&queued, node),
            Outcome::Unschedulable { message, rejected_by } => {
                let pod = &queued.info;
                self.queue.unschedulable(&pod.uid, rejected_by, Instant::now());
                self.tell_failed(pod, message);
            }
        }
        true
    }

    /// Counts the pod on its node at once and binds it beside the task.
    fn place(&mut self, queued: &QueuedPod, node: String) {
        let mut assumed = PodInfo::clone(&queued.info);
        assumed.node_name = Some(node.clone());
        let pod = Arc::new(assumed);
        self.cache.assume(pod.clone());
        let (writer, reports) = (self.writer.clone(), self.reports.clone());
        tokio::spawn(async move {
            let outcome = writer.bind(&pod, &node).await;
            // Nobody listens any more only when the scheduler has stopped.
            let _ = reports.send(Event::Bound { pod, node, outcome });
        });
    }

    fn bound(&mut self, pod: &Arc<PodInfo>, node: &str, outcome: Result<(), kube::Error>) {
        let Err(error) = outcome else {
            return self.recorder.tell(Note {
                regarding: pod.reference(),
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
        self.tell(&current, "SchedulerError", format!("binding rejected: {error}"));
    }

    // --- telling ---

    fn tell_failed(&self, pod: &Arc<PodInfo>, message: String) {
        self.tell(pod, "Unschedulable", message);
    }

    fn tell(&self, pod: &Arc<PodInfo>, reason: &'static str, message: String) {
        self.tell_unscheduled(pod, reason, &message);
        self.recorder.tell(Note {
            regarding: pod.reference(),
            type_: "Warning",
            reason: "FailedScheduling",
            action: "Scheduling",
            note: message,
        });
    }

    fn tell_unscheduled(&self, pod: &Arc<PodInfo>, reason: &'static str, message: &str) {
        let (writer, now) = (self.writer.clone(), (self.config.clock)());
        let (pod, message) = (pod.clone(), message.to_owned());
        tokio::spawn(async move {
            if let Err(error) = writer.tell_unscheduled(&pod, reason, &message, now).await {
                tracing::debug!(namespace = pod.namespace, pod = pod.name, %error, "condition was not written");
            }
        });
    }
}
