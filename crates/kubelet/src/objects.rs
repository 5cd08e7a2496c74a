//! ConfigMaps and Secrets that pods on this node refer to, kept fresh by one watch per object.
//!
//! Consumes references by pods, emits the objects and a note to every pod holding a reference when one changes.
//! Counterpart: `pkg/kubelet/util/manager` with the watch-based change detection.
//! Invariant: an object nobody refers to is not watched; a node never lists what its pods do not use.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Debug,
    sync::{Arc, Mutex},
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::{
    NamespaceResourceScope,
    api::core::v1::{ConfigMap, Secret},
};
use kube::{
    Api, Client, Resource,
    runtime::{WatchStreamExt, watcher},
};
use serde::de::DeserializeOwned;
use tokio::{
    sync::{mpsc, watch},
    task::AbortHandle,
};

/// Names one object of a kind.
pub type ObjectName = (String, String);

/// What one pod refers to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct References {
    pub config_maps: BTreeSet<String>,
    pub secrets: BTreeSet<String>,
}

/// Both kinds; pods are told of changes through one channel, by uid.
pub struct ReferencedObjects {
    pub config_maps: ObjectCache<ConfigMap>,
    pub secrets: ObjectCache<Secret>,
}

/// `Ok(None)` is a definite "does not exist".
pub type Lookup<K> = Result<Option<Arc<K>>, String>;

pub struct ObjectCache<K> {
    client: Client,
    changed: mpsc::UnboundedSender<String>,
    entries: Arc<Mutex<HashMap<ObjectName, Entry<K>>>>,
}

struct Entry<K> {
    /// `None` until the first answer.
    object: watch::Receiver<Option<Lookup<K>>>,
    users: BTreeSet<String>,
    task: AbortHandle,
}

// === impl ReferencedObjects ===

impl ReferencedObjects {
    /// `changed` receives the uid of every pod that refers to an object that changed.
    pub fn new(client: Client, changed: mpsc::UnboundedSender<String>) -> Self {
        ReferencedObjects {
            config_maps: ObjectCache::new(client.clone(), changed.clone()),
            secrets: ObjectCache::new(client, changed),
        }
    }

    /// Makes `references` the ones the pod holds; empty ones release everything.
    pub fn hold(&self, uid: &str, namespace: &str, references: &References) {
        self.config_maps.hold(uid, namespace, &references.config_maps);
        self.secrets.hold(uid, namespace, &references.secrets);
    }
}

// === impl ObjectCache ===

impl<K> ObjectCache<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    fn new(client: Client, changed: mpsc::UnboundedSender<String>) -> Self {
        ObjectCache { client, changed, entries: Arc::default() }
    }

    fn hold(&self, uid: &str, namespace: &str, names: &BTreeSet<String>) {
        let mut entries = self.entries.lock().expect("no holder panics");
        for name in names {
            let key = (namespace.to_owned(), name.clone());
            let entry = entries.entry(key.clone()).or_insert_with(|| self.watch(key));
            entry.users.insert(uid.to_owned());
        }
        entries.retain(|(ns, name), entry| {
            if ns == namespace && !names.contains(name) {
                entry.users.remove(uid);
            }
            if entry.users.is_empty() {
                entry.task.abort();
            }
            !entry.users.is_empty()
        });
    }

    /// The object, waiting for its first answer. The pod must hold a reference; an object that nobody holds is
    /// asked for once.
    pub async fn get(&self, namespace: &str, name: &str) -> Lookup<K> {
        let key = (namespace.to_owned(), name.to_owned());
        let held =
            self.entries.lock().expect("no holder panics").get(&key).map(|e| e.object.clone());
        match held {
            Some(mut object) => {
                let answer =
                    object.wait_for(|o| o.is_some()).await.map_err(|_| "released".to_owned())?;
                answer.clone().expect("just waited for it")
            }
            None => {
                let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
                api.get_opt(name).await.map(|o| o.map(Arc::new)).map_err(|e| e.to_string())
            }
        }
    }

    fn watch(&self, key: ObjectName) -> Entry<K> {
        let (sender, object) = watch::channel(None);
        let api: Api<K> = Api::namespaced(self.client.clone(), &key.0);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", key.1));
        let follow =
            Follow { key, sender, changed: self.changed.clone(), entries: self.entries.clone() };
        let task = tokio::spawn(follow.run(api, config)).abort_handle();
        Entry { object, users: BTreeSet::new(), task }
    }
}

struct Follow<K> {
    key: ObjectName,
    sender: watch::Sender<Option<Lookup<K>>>,
    changed: mpsc::UnboundedSender<String>,
    entries: Arc<Mutex<HashMap<ObjectName, Entry<K>>>>,
}

// === impl Follow ===

impl<K> Follow<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    async fn run(self, api: Api<K>, config: watcher::Config) {
        let mut stream = watcher(api, config).default_backoff().boxed();
        let mut listed = None;
        loop {
            match stream.try_next().await {
                Ok(Some(watcher::Event::Init)) => listed = None,
                Ok(Some(watcher::Event::InitApply(o))) => listed = Some(Arc::new(o)),
                Ok(Some(watcher::Event::InitDone)) => self.set(Ok(listed.take())),
                Ok(Some(watcher::Event::Apply(o))) => self.set(Ok(Some(Arc::new(o)))),
                Ok(Some(watcher::Event::Delete(_))) => self.set(Ok(None)),
                Ok(None) => return,
                Err(error) => self.failed(&error),
            }
        }
    }

    fn set(&self, lookup: Lookup<K>) {
        let version = |l: &Lookup<K>| match l {
            Ok(Some(o)) => o.meta().resource_version.clone(),
            _ => None,
        };
        let before = self.sender.borrow().clone();
        let same = matches!((&before, &lookup), (Some(Ok(a)), Ok(b)) if a.is_some() == b.is_some())
            && before.as_ref().map(version) == Some(version(&lookup));
        self.sender.send_replace(Some(lookup));
        if before.is_some() && !same {
            self.notify();
        }
    }

    /// A broken watch keeps the last good answer; only who has none yet is told.
    fn failed(&self, error: &watcher::Error) {
        self.sender.send_if_modified(|answer| {
            let first = answer.is_none();
            if first {
                *answer = Some(Err(error.to_string()));
            }
            first
        });
    }

    fn notify(&self) {
        let entries = self.entries.lock().expect("no holder panics");
        for uid in entries.get(&self.key).into_iter().flat_map(|e| &e.users) {
            // The receiver is gone only when the agent shuts down.
            let _ = self.changed.send(uid.clone());
        }
    }
}

/// Collects what a pod refers to, by name.
pub fn references(spec: &k8s_openapi::api::core::v1::PodSpec) -> References {
    let mut found = References::default();
    let init = spec.init_containers.iter().flatten();
    for container in init.chain(&spec.containers) {
        found.environment(container.env.as_deref(), container.env_from.as_deref());
    }
    for container in spec.ephemeral_containers.iter().flatten() {
        found.environment(container.env.as_deref(), container.env_from.as_deref());
    }
    for volume in spec.volumes.iter().flatten() {
        found.volume(volume);
    }
    let pull_secrets = spec.image_pull_secrets.iter().flatten().map(|secret| &secret.name);
    found.secrets.extend(pull_secrets.filter(|name| !name.is_empty()).cloned());
    found
}

// === impl References ===

impl References {
    fn environment(
        &mut self,
        env: Option<&[k8s_openapi::api::core::v1::EnvVar]>,
        env_from: Option<&[k8s_openapi::api::core::v1::EnvFromSource]>,
    ) {
        for source in env.into_iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            self.config_maps.extend(source.config_map_key_ref.as_ref().map(|r| r.name.clone()));
            self.secrets.extend(source.secret_key_ref.as_ref().map(|r| r.name.clone()));
        }
        for source in env_from.into_iter().flatten() {
            self.config_maps.extend(source.config_map_ref.as_ref().map(|r| r.name.clone()));
            self.secrets.extend(source.secret_ref.as_ref().map(|r| r.name.clone()));
        }
    }

    fn volume(&mut self, volume: &k8s_openapi::api::core::v1::Volume) {
        self.config_maps.extend(volume.config_map.as_ref().map(|c| c.name.clone()));
        self.secrets.extend(volume.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            self.config_maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
            self.secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
}
