//! Watches a kind and tells the scheduling loop single changes, restarts included.
//!
//! A restarted watch lists everything again: what was known and is not listed is told as deleted.
//! Invariant: `Synced` is told once the complete state has been told.

use std::collections::HashSet;
use std::fmt::Debug;

use futures::{StreamExt, stream::BoxStream};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;

use crate::cluster::Key;

pub enum Change<K> {
    Applied(Key, Box<K>),
    Deleted(Key),
    Synced,
}

/// Remembers which objects have been told, so that a restart can tell which are gone.
#[derive(Default)]
struct Told {
    known: HashSet<Key>,
    /// While a new state comes in: what was known before and has not been listed yet.
    missing: HashSet<Key>,
}

pub fn changes<K>(client: Client) -> BoxStream<'static, Change<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let events = watcher(Api::<K>::all(client), watcher::Config::default().streaming_lists())
        .default_backoff();
    let mut told = Told::default();
    let changes = events.filter_map(|event| async move {
        event
            .inspect_err(|error| tracing::debug!(kind = %K::kind(&()), %error, "watch failed"))
            .ok()
    });
    changes.flat_map(move |event| futures::stream::iter(told.translate(event))).boxed()
}

// === impl Told ===

impl Told {
    fn translate<K: Resource>(&mut self, event: watcher::Event<K>) -> Vec<Change<K>> {
        match event {
            watcher::Event::Init => {
                self.missing = self.known.clone();
                Vec::new()
            }
            watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
                let key = key_of(&object);
                self.missing.remove(&key);
                self.known.insert(key.clone());
                vec![Change::Applied(key, Box::new(object))]
            }
            watcher::Event::Delete(object) => {
                let key = key_of(&object);
                self.known.remove(&key);
                vec![Change::Deleted(key)]
            }
            watcher::Event::InitDone => {
                let gone = std::mem::take(&mut self.missing);
                self.known.retain(|key| !gone.contains(key));
                gone.into_iter().map(Change::Deleted).chain([Change::Synced]).collect()
            }
        }
    }
}

fn key_of<K: Resource>(object: &K) -> Key {
    let meta = object.meta();
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Node;

    fn node(name: &str) -> Node {
        let mut node = Node::default();
        node.metadata.name = Some(name.into());
        node
    }

    #[test]
    fn a_restart_tells_what_is_gone() {
        let mut told = Told::default();
        told.translate(watcher::Event::Apply(node("a")));
        told.translate(watcher::Event::Apply(node("b")));
        told.translate(watcher::Event::<Node>::Init);
        told.translate(watcher::Event::InitApply(node("b")));
        let last = told.translate(watcher::Event::<Node>::InitDone);
        assert!(matches!(&last[..], [Change::Deleted((_, name)), Change::Synced] if name == "a"));
    }
}
