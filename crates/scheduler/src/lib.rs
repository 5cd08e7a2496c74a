//! The scheduler: pods without a node in, bindings out.
//!
//! An ordinary Kubernetes client: it holds a `kube::Client` and nothing else, so it schedules for any API server.
//! Informers parse what they hear, one task (`scheduler`) keeps the `cache` and the `queue` and runs one `cycle` after
//! another over the `plugins`, writes happen beside it. Counterpart: kube-scheduler.
//! Invariant: knows neither the store, nor controllers, nor the inside of a node.

mod api_writes;
mod cache;
mod cycle;
mod framework;
mod informer;
mod node_info;
mod plugins;
mod pod_info;
mod preemption;
mod queue;
mod recorder;
mod resources;
mod scheduler;
mod selector;
#[cfg(test)]
mod testing;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use api_writes::Writer;
use node_info::NodeFacts;
use pod_info::PodInfo;
use scheduler::{Event, Scheduler};

/// The user the scheduler acts as; RBAC's default roles are bound to it.
pub const USER: &str = "system:kube-scheduler";

/// Finished pods hold nothing and are the largest part of a batch cluster's pods.
const UNFINISHED: &str = "status.phase!=Succeeded,status.phase!=Failed";

/// Changes heard but not applied yet; more make the watches wait.
const EVENTS_AHEAD: usize = 4096;

#[derive(Clone)]
pub struct SchedulerConfig {
    /// Only pods whose `spec.schedulerName` is this are placed.
    pub scheduler_name: String,
    /// How much of the cluster to look at for one pod; 0 lets the size of the cluster decide.
    pub percentage_of_nodes_to_score: usize,
    pub clock: fn() -> Timestamp,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            scheduler_name: "default-scheduler".into(),
            percentage_of_nodes_to_score: 0,
            clock: Timestamp::now,
        }
    }
}

/// Places pods until `shutdown`.
pub async fn run(client: Client, config: SchedulerConfig, shutdown: CancellationToken) {
    let (events, heard) = mpsc::channel(EVENTS_AHEAD);
    let (reports, reported) = mpsc::unbounded_channel();
    let (recorder, recording) =
        recorder::recorder(client.clone(), config.scheduler_name.clone(), config.clock);
    let scheduler = Scheduler::new(config, Writer::new(client.clone()), recorder, reports);

    let mut parts = JoinSet::new();
    parts.spawn(recording);
    parts.spawn(informer::run(
        client.clone(),
        Some(UNFINISHED),
        PodInfo::of,
        Event::Pods,
        events.clone(),
    ));
    parts.spawn(informer::run(client, None, NodeFacts::of, Event::Nodes, events));
    parts.spawn(scheduler.run(heard, reported));
    shutdown.cancelled().await;
}
