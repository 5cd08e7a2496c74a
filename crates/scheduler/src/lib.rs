//! The scheduler: which node each new pod runs on.
//!
//! An ordinary Kubernetes client: watches in, bindings out. Counterpart: kube-scheduler with its default profile.
//! Invariant: it knows neither controllers nor the inside of nodes; it reacts to changes and never polls.

mod binding;
mod cluster;
mod framework;
mod plugins;
mod pod_info;
mod queue;
mod resources;
mod scheduler;
mod selectors;
mod watch;

use futures::StreamExt;
use futures::stream::{self, BoxStream};
use kube::Client;
use tokio_util::sync::CancellationToken;

use binding::Binder;
use framework::Framework;
use scheduler::{Event, Scheduler};

/// Events taken in before the next pod is scheduled: news first, but a storm of news must not stop scheduling.
const NEWS_PER_POD: usize = 64;

/// What the wiring decides about the scheduler.
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Pods with this `spec.schedulerName` are ours.
    pub scheduler_name: String,
    /// Which running instance reports events: usually the scheduler's name and the host's.
    pub instance: String,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        let name = "default-scheduler";
        SchedulerConfig { scheduler_name: name.into(), instance: name.into() }
    }
}

/// The user the scheduler acts as.
pub const USER: &str = "system:kube-scheduler";

/// Schedules pods until `shutdown`, then waits for the bindings already sent.
pub async fn run(client: Client, config: SchedulerConfig, shutdown: CancellationToken) {
    let mut events = events(&client);
    let binder =
        Binder { client, scheduler_name: config.scheduler_name.clone(), instance: config.instance };
    let mut scheduler =
        Scheduler::new(config.scheduler_name, Framework::new(plugins::DEFAULT), binder);
    while shutdown.run_until_cancelled(turn(&mut scheduler, &mut events)).await.is_some() {}
    while scheduler.bindings.join_next().await.is_some() {}
}

/// One turn: wait for something to happen, take in what is there, schedule one pod.
async fn turn(scheduler: &mut Scheduler, events: &mut BoxStream<'static, Event>) {
    for _ in 0..NEWS_PER_POD {
        let Some(news) = futures::FutureExt::now_or_never(events.next()) else { break };
        scheduler.observe(news.expect("watches never end"));
    }
    while let Some(bound) = scheduler.bindings.try_join_next() {
        scheduler.bound(bound.expect("a binding task does not panic"));
    }
    if scheduler.schedule_one() {
        return tokio::task::yield_now().await;
    }
    let wakes_at = scheduler.wakes_at();
    tokio::select! {
        news = events.next() => scheduler.observe(news.expect("watches never end")),
        Some(bound) = scheduler.bindings.join_next() => scheduler.bound(bound.expect("a binding task does not panic")),
        () = tokio::time::sleep_until(wakes_at.unwrap_or_else(tokio::time::Instant::now)), if wakes_at.is_some() => {}
    }
}

/// Every watched kind as one stream; each says once when it has told its complete state.
fn events(client: &Client) -> BoxStream<'static, Event> {
    let kinds: [BoxStream<'static, Event>; scheduler::WATCHED_KINDS] = [
        watch::changes(client.clone()).map(Event::Node).boxed(),
        watch::changes(client.clone()).map(Event::Pod).boxed(),
        watch::changes(client.clone()).map(Event::Namespace).boxed(),
        watch::changes(client.clone()).map(Event::Service).boxed(),
        watch::changes(client.clone()).map(Event::ReplicaSet).boxed(),
        watch::changes(client.clone()).map(Event::StatefulSet).boxed(),
        watch::changes(client.clone()).map(Event::Claim).boxed(),
        watch::changes(client.clone()).map(Event::Volume).boxed(),
        watch::changes(client.clone()).map(Event::Class).boxed(),
    ];
    stream::select_all(kinds).boxed()
}
