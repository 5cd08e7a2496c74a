//! The scheduler: pods without a node in, bindings out.
//!
//! An ordinary Kubernetes client: it holds a `kube::Client` and nothing else, so it schedules for any API server.
//! Informers parse what they hear, one task (`scheduler`) keeps the `cache` and the `queue` and runs one `cycle` after
//! another over the `plugins`, writes happen beside it. Counterpart: kube-scheduler.
//! Invariant: knows neither the store, nor controllers, nor the inside of a node.

mod api_writes;
mod cache;
mod claim_writes;
mod config;
mod cycle;
mod devices;
mod extenders;
mod filters;
mod framework;
mod groups;
mod informer;
mod listers;
mod node_info;
mod nominations;
mod plugins;
mod pod_info;
mod pod_terms;
mod preemption;
mod profile;
mod queue;
mod recorder;
mod scheduler;
#[cfg(test)]
mod testing;
mod topology;
mod watches;
mod zoning;

use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use api_writes::Writer;
pub use config::ConfigError;
use extenders::{ExtenderConfig, Extenders};
use profile::Profile;
use scheduler::Scheduler;

/// The user the scheduler acts as; RBAC's default roles are bound to it.
pub const USER: &str = "system:kube-scheduler";

/// Changes heard but not applied yet; more make the watches wait.
const EVENTS_AHEAD: usize = 4096;

#[derive(Clone)]
pub struct SchedulerConfig {
    /// Only pods whose `spec.schedulerName` is that of a profile are placed.
    profiles: Vec<Profile>,
    /// Programs that have a say in placements, in the order they are asked.
    extenders: Vec<ExtenderConfig>,
    /// How long a pod waits after its first failed attempt, and at most.
    initial_backoff: Duration,
    max_backoff: Duration,
    /// Which running instance reports events: usually the scheduler's name and the host's.
    pub instance: String,
    pub clock: fn() -> Timestamp,
}

impl Default for SchedulerConfig {
    fn default() -> SchedulerConfig {
        SchedulerConfig {
            profiles: vec![Profile::default()],
            extenders: Vec::new(),
            initial_backoff: Duration::from_secs(1),
            max_backoff: Duration::from_secs(10),
            instance: profile::DEFAULT_NAME.into(),
            clock: Timestamp::now,
        }
    }
}

/// How long to wait before starting over after a part panicked, so that a panic at every start is no busy loop.
const RESTART_DELAY: Duration = Duration::from_secs(1);

/// Places pods until `shutdown`. A panic in a part costs a restart: all state comes back from the watches.
pub async fn run(client: Client, config: SchedulerConfig, shutdown: CancellationToken) {
    loop {
        let mut parts = start(client.clone(), config.clone()).await;
        let ended = tokio::select! {
            () = shutdown.cancelled() => return,
            ended = parts.join_next() => ended,
        };
        tracing::error!(?ended, "a part of the scheduler ended, starting over");
        drop(parts);
        if shutdown.run_until_cancelled(tokio::time::sleep(RESTART_DELAY)).await.is_none() {
            return;
        }
    }
}

/// The informers, the scheduling task and the recorder; they end when the set is dropped.
async fn start(client: Client, config: SchedulerConfig) -> JoinSet<()> {
    let (events, heard) = mpsc::channel(EVENTS_AHEAD);
    let (reports, reported) = mpsc::unbounded_channel();
    let (recorder, recording) =
        recorder::recorder(client.clone(), config.instance.clone(), config.clock);
    let mut parts = JoinSet::new();
    parts.spawn(recording);
    let watched = watches::start(client.clone(), events, &mut parts);
    let extenders = Extenders::connect(&config.extenders, client.clone()).await;
    let writer = Writer::new(client);
    let scheduler = Scheduler::new(config, extenders, writer, recorder, reports, watched);
    parts.spawn(scheduler.run(heard, reported));
    parts
}
