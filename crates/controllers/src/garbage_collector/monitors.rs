//! One metadata-only watch per deletable resource, started and stopped as discovery says.
//!
//! Discovery in -> `News` out. Counterpart: the monitors of `graph_builder.go`.
//! Invariant: a watch that restarts tells what vanished meanwhile, so the graph never keeps ghosts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::core::{ApiResource, DynamicObject, PartialObjectMeta};
use kube::discovery::{Scope, verbs};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Discovery};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::graph::Observed;
use super::{Kind, ObjectId};

pub enum News {
    Observed(Observed),
    Gone(Arc<Kind>, String),
    /// The resource has told its complete state.
    Synced(Arc<Kind>),
}

/// Group and kind: what an owner reference names.
pub type Kinds = HashMap<(String, String), Arc<Kind>>;

pub struct Monitors {
    client: Client,
    news: mpsc::Sender<News>,
    watched: HashMap<(String, String), Watched>,
    kinds: Arc<Kinds>,
    rediscovery: Option<Instant>,
}

struct Watched {
    kind: Arc<Kind>,
    synced: bool,
    /// Dropping it ends the watch.
    _stop: DropGuard,
}

// === impl Monitors ===

impl Monitors {
    pub fn new(client: Client, news: mpsc::Sender<News>) -> Monitors {
        Monitors { client, news, watched: HashMap::new(), kinds: Arc::default(), rediscovery: None }
    }

    pub fn kinds(&self) -> Arc<Kinds> {
        self.kinds.clone()
    }

    pub fn all_synced(&self) -> bool {
        self.watched.values().all(|watched| watched.synced)
    }

    pub fn synced(&mut self, kind: &Kind) {
        let key = (kind.resource.group.clone(), kind.resource.plural.clone());
        if let Some(watched) = self.watched.get_mut(&key) {
            watched.synced = true;
        }
    }

    pub fn rediscover_after(&mut self, delay: Duration) {
        self.rediscovery.get_or_insert(Instant::now() + delay);
    }

    /// Resolves when a rediscovery is due; never, if none is wanted.
    pub async fn rediscovery_due(&self) {
        match self.rediscovery {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    /// Starts watches for new resources and ends those of resources that are gone.
    pub async fn rediscover(&mut self) -> Result<(), kube::Error> {
        self.rediscovery = None;
        let discovery = Discovery::new(self.client.clone()).run_aggregated().await?;
        let found = deletable(&discovery);
        self.kinds = Arc::new(found.iter().map(|kind| (name_of(kind), kind.clone())).collect());
        let keys: HashSet<_> = found.iter().map(|kind| key_of(kind)).collect();
        self.watched.retain(|key, _| keys.contains(key));
        for kind in found {
            let known =
                self.watched.get(&key_of(&kind)).is_some_and(|watched| watched.kind == kind);
            if !known {
                let stop = CancellationToken::new();
                tokio::spawn(watch(
                    self.client.clone(),
                    kind.clone(),
                    self.news.clone(),
                    stop.clone(),
                ));
                self.watched.insert(
                    key_of(&kind),
                    Watched { kind, synced: false, _stop: stop.drop_guard() },
                );
            }
        }
        Ok(())
    }
}

fn key_of(kind: &Kind) -> (String, String) {
    (kind.resource.group.clone(), kind.resource.plural.clone())
}

fn name_of(kind: &Kind) -> (String, String) {
    (kind.resource.group.clone(), kind.resource.kind.clone())
}

/// Everything that can be listed, watched and deleted. Events own nothing and are never owned.
fn deletable(discovery: &Discovery) -> Vec<Arc<Kind>> {
    let all = discovery.groups().flat_map(|group| group.recommended_resources());
    let needed = [verbs::LIST, verbs::WATCH, verbs::DELETE];
    let usable = all.filter(|(resource, can)| {
        needed.iter().all(|verb| can.supports_operation(verb)) && resource.kind != "Event"
    });
    usable
        .map(|(resource, can)| {
            Arc::new(Kind { resource, namespaced: can.scope == Scope::Namespaced })
        })
        .collect()
}

async fn watch(client: Client, kind: Arc<Kind>, news: mpsc::Sender<News>, stop: CancellationToken) {
    let resource: &ApiResource = &kind.resource;
    let api = Api::<PartialObjectMeta<DynamicObject>>::all_with(client, resource);
    let config = watcher::Config::default().streaming_lists();
    let mut events = watcher(api, config).default_backoff().boxed();
    let mut known: HashSet<String> = HashSet::new();
    let mut missing: HashSet<String> = HashSet::new();
    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
        let told = match event {
            Err(error) => {
                tracing::debug!(resource = %resource.plural, %error, "watch failed");
                continue;
            }
            Ok(watcher::Event::Init) => {
                missing = known.clone();
                continue;
            }
            Ok(watcher::Event::InitApply(object) | watcher::Event::Apply(object)) => {
                let observed = observed(&kind, &object);
                missing.remove(&observed.id.uid);
                known.insert(observed.id.uid.clone());
                vec![News::Observed(observed)]
            }
            Ok(watcher::Event::Delete(object)) => {
                let uid = object.metadata.uid.unwrap_or_default();
                known.remove(&uid);
                vec![News::Gone(kind.clone(), uid)]
            }
            Ok(watcher::Event::InitDone) => {
                let gone = std::mem::take(&mut missing);
                known.retain(|uid| !gone.contains(uid));
                let gone = gone.into_iter().map(|uid| News::Gone(kind.clone(), uid));
                gone.chain([News::Synced(kind.clone())]).collect()
            }
        };
        for item in told {
            if news.send(item).await.is_err() {
                return;
            }
        }
    }
    // The resource is no longer served, so its objects are gone.
    for uid in known {
        if news.send(News::Gone(kind.clone(), uid)).await.is_err() {
            return;
        }
    }
}

fn observed(kind: &Arc<Kind>, object: &PartialObjectMeta<DynamicObject>) -> Observed {
    let meta = &object.metadata;
    let id = ObjectId {
        kind: kind.clone(),
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
    };
    Observed::new(id, meta)
}
