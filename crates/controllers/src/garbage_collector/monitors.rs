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
    let mut told = Told::of(kind.clone());
    while let Some(Some(event)) = stop.run_until_cancelled(events.next()).await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                tracing::debug!(resource = %resource.plural, %error, "watch failed");
                continue;
            }
        };
        for item in told.hear(event) {
            if news.send(item).await.is_err() {
                return;
            }
        }
    }
    // The resource is no longer served, so its objects are gone.
    for uid in told.known {
        if news.send(News::Gone(kind.clone(), uid)).await.is_err() {
            return;
        }
    }
}

type Heard = watcher::Event<PartialObjectMeta<DynamicObject>>;

/// What a watch has told of one resource.
struct Told {
    kind: Arc<Kind>,
    /// By uid.
    known: HashSet<String>,
    /// Known before the watch started over, and not heard of since.
    missing: HashSet<String>,
    /// The highest resource version since then.
    newest: u64,
}

// === impl Told ===

impl Told {
    fn of(kind: Arc<Kind>) -> Told {
        Told { kind, known: HashSet::new(), missing: HashSet::new(), newest: 0 }
    }

    /// An event that comes once more after later ones says nothing: its object may be gone by now.
    fn hear(&mut self, event: Heard) -> Vec<News> {
        match event {
            watcher::Event::Init => {
                self.missing = self.known.clone();
                self.newest = 0;
                Vec::new()
            }
            watcher::Event::Apply(object) if !self.is_new(&object) => Vec::new(),
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let observed = observed(&self.kind, &object);
                self.missing.remove(&observed.id.uid);
                self.known.insert(observed.id.uid.clone());
                vec![News::Observed(observed)]
            }
            watcher::Event::Delete(object) => {
                self.is_new(&object);
                let uid = object.metadata.uid.unwrap_or_default();
                self.known.remove(&uid);
                vec![News::Gone(self.kind.clone(), uid)]
            }
            watcher::Event::InitDone => {
                let gone = std::mem::take(&mut self.missing);
                self.known.retain(|uid| !gone.contains(uid));
                let gone = gone.into_iter().map(|uid| News::Gone(self.kind.clone(), uid));
                gone.chain([News::Synced(self.kind.clone())]).collect()
            }
        }
    }

    /// Whether nothing later has been heard yet. A version that is no number tells nothing of order.
    fn is_new(&mut self, object: &PartialObjectMeta<DynamicObject>) -> bool {
        let version = object.metadata.resource_version.as_deref();
        let Some(version) = version.and_then(|version| version.parse().ok()) else { return true };
        let new = version >= self.newest;
        self.newest = self.newest.max(version);
        new
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

#[cfg(test)]
mod tests {
    use super::*;

    fn object(uid: &str, version: &str) -> PartialObjectMeta<DynamicObject> {
        let object = serde_json::json!({"metadata": {"uid": uid, "resourceVersion": version}});
        serde_json::from_value(object).expect("metadata")
    }

    /// What is told, as one line each.
    fn hear(told: &mut Told, event: Heard) -> Vec<String> {
        let line = |news| match news {
            News::Observed(object) => format!("there: {}", object.id.uid),
            News::Gone(_, uid) => format!("gone: {uid}"),
            News::Synced(_) => "complete".to_owned(),
        };
        told.hear(event).into_iter().map(line).collect()
    }

    fn told() -> Told {
        let resource = ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&());
        Told::of(Arc::new(Kind { resource, namespaced: true }))
    }

    #[test]
    fn an_event_repeated_after_the_deletion_brings_no_owner_back() {
        let mut told = told();
        assert_eq!(hear(&mut told, watcher::Event::Apply(object("a", "5"))), ["there: a"]);
        assert_eq!(hear(&mut told, watcher::Event::Delete(object("a", "7"))), ["gone: a"]);
        assert!(hear(&mut told, watcher::Event::Apply(object("a", "5"))).is_empty());
        assert_eq!(hear(&mut told, watcher::Event::Apply(object("b", "8"))), ["there: b"]);
        assert_eq!(hear(&mut told, watcher::Event::Apply(object("c", "odd"))), ["there: c"]);
    }

    #[test]
    fn what_vanished_while_the_watch_was_away_is_gone() {
        let mut told = told();
        for uid in ["a", "b"] {
            hear(&mut told, watcher::Event::Apply(object(uid, "9")));
        }
        assert!(hear(&mut told, watcher::Event::Init).is_empty());
        assert_eq!(hear(&mut told, watcher::Event::InitApply(object("b", "3"))), ["there: b"]);
        assert_eq!(hear(&mut told, watcher::Event::InitDone), ["gone: a", "complete"]);
        assert_eq!(hear(&mut told, watcher::Event::Apply(object("b", "4"))), ["there: b"]);
    }
}
