//! The shared cache of one kind: watch events and our own writes in, indexed `Arc<K>` snapshots and deltas out.
//!
//! Every controller reads the same store, so a kind is decoded and held once however many controllers care for it.
//! Counterpart: client-go `tools/cache` (Indexer and shared informer handlers). Differs from upstream: the API
//! server's answer to our own write is applied at once (`observe_write`), so a controller never plans twice from a
//! cache that has not yet seen what it just did; upstream needs a separate "expectations" ledger for that.
//!
//! Invariant: an object in the store is never older than one shown before, and an object whose deletion the watch has
//! already reported is never brought back by a late answer: both are decided by comparing resource versions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock, RwLock};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::Caches;

/// Any built-in kind: typed, decodable, shareable between threads.
pub trait Object:
    kube::Resource<DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
    + 'static
{
}

impl<K> Object for K where
    K: kube::Resource<DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn cluster(name: impl Into<String>) -> Key {
        Key::new("", name)
    }

    pub fn of<K: kube::Resource>(object: &K) -> Key {
        let meta = object.meta();
        Key::new(
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default(),
        )
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => f.write_str(&self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// One change of the store: an addition has no `old`, a removal no `new`.
pub struct Delta<'a, K> {
    pub old: Option<&'a Arc<K>>,
    pub new: Option<&'a Arc<K>>,
}

impl<'a, K> Delta<'a, K> {
    /// The object as it is now, or as it was last.
    pub fn latest(&self) -> &'a Arc<K> {
        self.new.or(self.old).expect("a delta has at least one side")
    }

    /// Both sides: what an edge must look at when membership may have moved from one owner to another.
    pub fn sides(&self) -> impl Iterator<Item = &'a Arc<K>> {
        self.old.into_iter().chain(self.new)
    }
}

pub type Handler<K> = Box<dyn Fn(&Caches, &Delta<K>) + Send + Sync>;

/// What a reflector tells the store.
pub enum Event<K> {
    /// The complete state at a revision.
    Replaced(Vec<K>, u64),
    Changed(K),
    Deleted(K),
    /// Nothing changed up to this revision.
    Bookmark(u64),
}

pub struct Store<K> {
    state: RwLock<State<K>>,
    handlers: OnceLock<Vec<Handler<K>>>,
    synced: watch::Sender<bool>,
}

struct State<K> {
    objects: BTreeMap<Key, Arc<K>>,
    /// Dependents by the uid of any owner.
    by_owner: HashMap<String, BTreeMap<Key, Arc<K>>>,
    /// Those that no controller owns: few, where a namespace may hold thousands that one does.
    orphans: BTreeMap<Key, Arc<K>>,
    /// The revision up to which the watch has reported everything.
    revision: u64,
}

type Change<K> = (Option<Arc<K>>, Option<Arc<K>>);

// === impl Store ===

impl<K: Object> Default for Store<K> {
    fn default() -> Self {
        let state = State {
            objects: BTreeMap::new(),
            by_owner: HashMap::new(),
            orphans: BTreeMap::new(),
            revision: 0,
        };
        Store {
            state: RwLock::new(state),
            handlers: OnceLock::new(),
            synced: watch::Sender::new(false),
        }
    }
}

impl<K: Object> Store<K> {
    pub fn get(&self, key: &Key) -> Option<Arc<K>> {
        self.read().objects.get(key).cloned()
    }

    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().objects.values().cloned().collect()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        beneath(&self.read().objects, namespace)
    }

    /// Objects that name `uid` in their ownerReferences.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let state = self.read();
        let owned = state.by_owner.get(uid);
        owned.map(|owned| owned.values().cloned().collect()).unwrap_or_default()
    }

    /// Objects of a namespace that no controller owns yet.
    pub fn orphans(&self, namespace: &str) -> Vec<Arc<K>> {
        beneath(&self.read().orphans, namespace)
    }

    pub async fn wait_synced(&self) {
        // The sender lives in self, so waiting can only end by the flag being set.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Handlers are fixed before the first event: a late one would have missed objects.
    pub(super) fn set_handlers(&self, handlers: Vec<Handler<K>>) {
        if self.handlers.set(handlers).is_err() {
            panic!("handlers of a store are set once");
        }
    }

    /// Applies what the watch reported and tells every handler what changed by it.
    pub fn apply(&self, caches: &Caches, event: Event<K>) {
        let replaced = matches!(event, Event::Replaced(..));
        let changes = self.write().apply(event);
        if replaced {
            self.synced.send_replace(true);
        }
        self.dispatch(caches, &changes);
    }

    /// Takes the API server's answer to our own create, update or patch, unless the watch is already past it.
    pub fn observe_write(&self, caches: &Caches, mut object: K) -> Arc<K> {
        trim(&mut object);
        let object = Arc::new(object);
        let change = self.write().observe(object.clone());
        self.dispatch(caches, change.as_slice());
        object
    }

    /// Forgets an object that the API server said is gone. If it is only terminating, the watch brings it back.
    pub fn observe_removal(&self, caches: &Caches, key: &Key) {
        let change = self.write().remove(key).map(|old| (Some(old), None));
        self.dispatch(caches, change.as_slice());
    }

    fn dispatch(&self, caches: &Caches, changes: &[Change<K>]) {
        for (old, new) in changes {
            let delta = Delta { old: old.as_ref(), new: new.as_ref() };
            for handler in self.handlers.get().into_iter().flatten() {
                handler(caches, &delta);
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State<K>> {
        self.state.read().expect("no panic happens while the store is locked")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State<K>> {
        self.state.write().expect("no panic happens while the store is locked")
    }
}

// === impl State ===

impl<K: Object> State<K> {
    fn apply(&mut self, event: Event<K>) -> Vec<Change<K>> {
        match event {
            Event::Replaced(objects, revision) => self.replace(objects, revision),
            Event::Bookmark(revision) => {
                self.revision = self.revision.max(revision);
                Vec::new()
            }
            Event::Changed(mut object) => {
                trim(&mut object);
                let seen = revision_of(&object);
                // Told again after later news: what it was then may be gone by now.
                if seen < self.revision {
                    return Vec::new();
                }
                self.revision = seen;
                self.insert_newer(Arc::new(object)).into_iter().collect()
            }
            Event::Deleted(object) => {
                let gone = revision_of(&object);
                self.revision = self.revision.max(gone);
                let key = Key::of(&object);
                // Our own write may have made another of that name since.
                let held = self.objects.get(&key);
                if held.is_some_and(|held| revision_of(held.as_ref()) > gone) {
                    return Vec::new();
                }
                self.remove(&key).map(|old| (Some(old), None)).into_iter().collect()
            }
        }
    }

    /// Objects missing from the complete state are gone, except our own writes made after that revision.
    fn replace(&mut self, objects: Vec<K>, revision: u64) -> Vec<Change<K>> {
        let listed: BTreeSet<Key> = objects.iter().map(Key::of).collect();
        let vanished: Vec<Key> = self
            .objects
            .iter()
            .filter(|(key, object)| {
                !listed.contains(key) && revision_of(object.as_ref()) <= revision
            })
            .map(|(key, _)| key.clone())
            .collect();
        let mut changes: Vec<Change<K>> = vanished
            .iter()
            .filter_map(|key| self.remove(key))
            .map(|old| (Some(old), None))
            .collect();
        for mut object in objects {
            trim(&mut object);
            changes.extend(self.insert_newer(Arc::new(object)));
        }
        self.revision = self.revision.max(revision);
        changes
    }

    fn observe(&mut self, object: Arc<K>) -> Option<Change<K>> {
        let revision = revision_of(object.as_ref());
        // Whatever happened up to `self.revision` the watch has told us, including that this object is gone again.
        if revision <= self.revision { None } else { self.insert_newer(object) }
    }

    fn insert_newer(&mut self, object: Arc<K>) -> Option<Change<K>> {
        let key = Key::of(object.as_ref());
        if let Some(held) = self.objects.get(&key)
            && revision_of(held.as_ref()) >= revision_of(object.as_ref())
        {
            return None;
        }
        let old = self.remove(&key);
        for owner in object.meta().owner_references.iter().flatten() {
            let owned = self.by_owner.entry(owner.uid.clone()).or_default();
            owned.insert(key.clone(), object.clone());
        }
        if super::controller_of(object.meta()).is_none() {
            self.orphans.insert(key.clone(), object.clone());
        }
        self.objects.insert(key, object.clone());
        Some((old, Some(object)))
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<K>> {
        let old = self.objects.remove(key)?;
        self.orphans.remove(key);
        for owner in old.meta().owner_references.iter().flatten() {
            if let Some(owned) = self.by_owner.get_mut(&owner.uid) {
                owned.remove(key);
                if owned.is_empty() {
                    self.by_owner.remove(&owner.uid);
                }
            }
        }
        Some(old)
    }
}

fn beneath<K>(objects: &BTreeMap<Key, Arc<K>>, namespace: &str) -> Vec<Arc<K>> {
    let from = objects.range(Key::new(namespace, "")..);
    from.take_while(|(key, _)| key.namespace == namespace)
        .map(|(_, object)| object.clone())
        .collect()
}

/// Resource versions are ordered integers since Kubernetes 1.35; anything else counts as oldest.
pub fn revision_of<K: kube::Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// managedFields are often half of an object, and no controller reads them. A write without them leaves them alone.
fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn config_map(name: &str, version: u64) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.namespace = Some("ns".into());
        map.metadata.name = Some(name.into());
        map.metadata.resource_version = Some(version.to_string());
        map
    }

    fn names(store: &Store<ConfigMap>) -> Vec<String> {
        store.all().iter().map(|map| map.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn own_write_is_seen_before_the_watch_reports_it() {
        let (store, caches) = (Store::default(), Caches::default());
        store.apply(&caches, Event::Replaced(vec![], 5));
        store.observe_write(&caches, config_map("a", 7));
        assert_eq!(names(&store), ["a"]);
    }

    #[test]
    fn late_answer_does_not_bring_back_what_the_watch_saw_deleted() {
        let (store, caches) = (Store::default(), Caches::default());
        store.apply(&caches, Event::Changed(config_map("a", 7)));
        store.apply(&caches, Event::Deleted(config_map("a", 9)));
        store.observe_write(&caches, config_map("a", 7));
        assert!(names(&store).is_empty());
    }

    #[test]
    fn late_deletion_does_not_remove_what_was_made_since() {
        let (store, caches) = (Store::default(), Caches::default());
        store.apply(&caches, Event::Changed(config_map("a", 7)));
        store.observe_removal(&caches, &Key::new("ns", "a"));
        store.observe_write(&caches, config_map("a", 12));
        store.apply(&caches, Event::Deleted(config_map("a", 9)));
        assert_eq!(names(&store), ["a"]);
    }

    #[test]
    fn news_told_again_does_not_bring_back_what_is_gone() {
        let (store, caches) = (Store::default(), Caches::default());
        store.apply(&caches, Event::Changed(config_map("a", 7)));
        store.apply(&caches, Event::Deleted(config_map("a", 9)));
        store.apply(&caches, Event::Changed(config_map("a", 7)));
        assert!(names(&store).is_empty());
    }

    #[test]
    fn complete_state_removes_what_vanished_but_keeps_later_writes() {
        let (store, caches) = (Store::default(), Caches::default());
        store.apply(&caches, Event::Changed(config_map("old", 3)));
        store.observe_write(&caches, config_map("mine", 12));
        store.apply(&caches, Event::Replaced(vec![config_map("b", 8)], 10));
        assert_eq!(names(&store), ["b", "mine"]);
    }

    #[test]
    fn handlers_hear_each_version_once() {
        let (store, caches) = (Store::default(), Caches::default());
        let heard = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = heard.clone();
        store.set_handlers(vec![Box::new(move |_, _| {
            count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        })]);
        store.observe_write(&caches, config_map("a", 7));
        store.apply(&caches, Event::Changed(config_map("a", 7)));
        store.apply(&caches, Event::Changed(config_map("a", 8)));
        assert_eq!(heard.load(std::sync::atomic::Ordering::Relaxed), 2);
    }

    #[test]
    fn owner_index_follows_changes() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
        let (store, caches) = (Store::default(), Caches::default());
        let mut owned = config_map("a", 1);
        owned.metadata.owner_references =
            Some(vec![OwnerReference { uid: "u".into(), ..Default::default() }]);
        store.apply(&caches, Event::Changed(owned));
        assert_eq!(store.owned_by("u").len(), 1);
        store.apply(&caches, Event::Changed(config_map("a", 2)));
        assert!(store.owned_by("u").is_empty());
    }

    #[test]
    fn orphans_are_those_without_a_controller_in_the_namespace() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
        let (store, caches) = (Store::<ConfigMap>::default(), Caches::default());
        let orphans = || -> Vec<_> {
            store.orphans("ns").iter().map(|object| Key::of(object.as_ref()).name).collect()
        };
        let mut elsewhere = config_map("c", 1);
        elsewhere.metadata.namespace = Some("other".into());
        let mut owned = config_map("a", 2);
        owned.metadata.owner_references = Some(vec![OwnerReference {
            uid: "u".into(),
            controller: Some(true),
            ..Default::default()
        }]);
        for object in [elsewhere, owned, config_map("b", 3)] {
            store.apply(&caches, Event::Changed(object));
        }
        assert_eq!(orphans(), ["b"]);
        store.apply(&caches, Event::Changed(config_map("a", 4)));
        assert_eq!(orphans(), ["a", "b"], "released");
        store.apply(&caches, Event::Deleted(config_map("a", 5)));
        assert_eq!(orphans(), ["b"]);
    }
}
