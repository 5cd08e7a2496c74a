//! Deletes what has lost its owners, and carries out foreground and orphan deletion.
//!
//! Metadata of every deletable resource found by discovery in -> a graph of who owns whom -> deletes and patches.
//! Counterpart: `pkg/controller/garbagecollector`. Unlike the other controllers its kinds are not known in advance: a
//! CustomResourceDefinition that comes or goes makes it look at discovery again.
//! Invariant: nothing is deleted because the graph lacks its owner; the API server is asked for the owner first.

mod deeds;
mod graph;
mod monitors;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::runtime::{Key, Metrics, Result, WorkQueue};
use deeds::Outcome;
use graph::{Graph, Work};
use monitors::{Monitors, News};

/// The service account the collector acts as.
pub const NAME: &str = "generic-garbage-collector";
const WORKERS: usize = 20;
/// How long the first complete picture may take before work starts without it: one broken resource must not stop all.
const PATIENCE: Duration = Duration::from_secs(5);
/// A new definition needs a moment until its resource is served; several at once need one look only.
const REDISCOVER_AFTER: Duration = Duration::from_millis(300);
const REDISCOVER_AFTER_FAILURE: Duration = Duration::from_secs(5);

/// One finished piece of work.
type Done = (Key, Result<Outcome>);

struct Collector {
    client: Client,
    graph: Graph,
    queue: WorkQueue,
    monitors: Monitors,
    running: JoinSet<Done>,
    metrics: Metrics,
}

/// Runs until shutdown.
pub async fn run(client: Client, metrics: Metrics, shutdown: CancellationToken) {
    let (sender, mut news) = mpsc::channel(1024);
    let mut collector = Collector {
        monitors: Monitors::new(client.clone(), sender),
        client,
        graph: Graph::default(),
        queue: WorkQueue::default(),
        running: JoinSet::new(),
        metrics,
    };
    while shutdown
        .run_until_cancelled(collector.first_look(&mut news))
        .await
        .is_some_and(|complete| !complete)
    {}
    while shutdown.run_until_cancelled(collector.turn(&mut news)).await.is_some() {}
    while collector.running.join_next().await.is_some() {}
}

// === impl Collector ===

impl Collector {
    /// Discovers and takes in the first complete picture; false if discovery failed and must be tried again.
    async fn first_look(&mut self, news: &mut mpsc::Receiver<News>) -> bool {
        if let Err(error) = self.monitors.rediscover().await {
            tracing::debug!(%error, "discovery failed");
            tokio::time::sleep(REDISCOVER_AFTER).await;
            return false;
        }
        let gather = async {
            while !self.monitors.all_synced() {
                let Some(next) = news.recv().await else { return };
                observe(&mut self.graph, &self.queue, &mut self.monitors, next);
            }
        };
        if tokio::time::timeout(PATIENCE, gather).await.is_err() {
            tracing::warn!(
                "not every resource could be listed in time: collecting garbage without it"
            );
        }
        true
    }

    /// Waits for one thing to happen and acts on it.
    async fn turn(&mut self, news: &mut mpsc::Receiver<News>) {
        let has_room = self.running.len() < WORKERS;
        tokio::select! {
            Some(next) = news.recv() => observe(&mut self.graph, &self.queue, &mut self.monitors, next),
            key = self.queue.next(), if has_room => self.start(key),
            Some(done) = self.running.join_next() => self.finish(done.expect("a piece of work does not panic")),
            () = self.monitors.rediscovery_due() => self.rediscover().await,
        }
    }

    async fn rediscover(&mut self) {
        if let Err(error) = self.monitors.rediscover().await {
            tracing::debug!(%error, "discovery failed");
            self.monitors.rediscover_after(REDISCOVER_AFTER_FAILURE);
            return;
        }
        // An owner of a kind unknown until now may be known now.
        for uid in self.graph.dependents_of_unknown() {
            self.queue.add(Key::cluster(uid));
        }
    }

    fn start(&mut self, key: Key) {
        let work = self.graph.plan(&key.name);
        if let Work::DeleteBlocking(dependents) = &work {
            dependents.iter().for_each(|uid| self.queue.add(Key::cluster(uid)));
        }
        let (client, kinds) = (self.client.clone(), self.monitors.kinds());
        self.running.spawn(async move {
            let outcome = deeds::perform(&client, &kinds, work).await;
            (key, outcome)
        });
    }

    fn finish(&mut self, (key, outcome): Done) {
        self.metrics.count(NAME, outcome.is_err());
        match outcome {
            Ok(Outcome::Settled) => self.queue.forget(&key),
            Ok(Outcome::GraphBehind) => self.queue.add_failed(key.clone()),
            Err(error) => {
                tracing::debug!(uid = %key, %error, "will try again");
                self.queue.add_failed(key.clone());
            }
        }
        self.queue.done(key, Duration::ZERO);
    }
}

fn observe(graph: &mut Graph, queue: &WorkQueue, monitors: &mut Monitors, news: News) {
    match news {
        News::Synced(kind) => monitors.synced(&kind),
        News::Observed(object) => {
            if object.id.kind.is_definition() {
                monitors.rediscover_after(REDISCOVER_AFTER);
            }
            graph.observe(object).into_iter().for_each(|uid| queue.add(Key::cluster(uid)));
        }
        News::Gone(kind, uid) => {
            if kind.is_definition() {
                monitors.rediscover_after(REDISCOVER_AFTER);
            }
            graph.remove(&uid).into_iter().for_each(|uid| queue.add(Key::cluster(uid)));
        }
    }
}

/// What is the same for every object of a resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Kind {
    pub resource: kube::core::ApiResource,
    pub namespaced: bool,
}

// === impl Kind ===

impl Kind {
    /// Objects of this kind change what discovery answers.
    fn is_definition(&self) -> bool {
        matches!(self.resource.plural.as_str(), "customresourcedefinitions" | "apiservices")
    }
}

/// Where an object is found.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectId {
    pub kind: Arc<Kind>,
    pub namespace: String,
    pub name: String,
    pub uid: String,
}
