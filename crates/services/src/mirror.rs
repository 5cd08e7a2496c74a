//! A copy of one kind's objects, kept by watch events.
//!
//! Events in, the keys that changed out. Invariant: after a relist, what the API server no longer has is gone here too.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::watcher::Event;

#[derive(Debug)]
pub struct Mirror<K, V> {
    objects: BTreeMap<K, V>,
    /// What a relist has shown so far.
    relisting: Option<BTreeSet<K>>,
    complete: bool,
}

// === impl Mirror ===

impl<K, V> Default for Mirror<K, V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), relisting: None, complete: false }
    }
}

impl<K: Ord + Clone, V: PartialEq> Mirror<K, V> {
    /// Whether everything has been listed once.
    pub fn complete(&self) -> bool {
        self.complete
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.objects.get(key)
    }

    /// Applies an event and returns the keys that changed, each with the value it had.
    ///
    /// `parse` yields an object's key, and nothing more where the object is of no interest.
    pub fn apply<T>(
        &mut self,
        event: Event<T>,
        parse: impl Fn(T) -> Option<(K, Option<V>)>,
    ) -> Vec<(K, Option<V>)> {
        match event {
            Event::Init => {
                self.relisting = Some(BTreeSet::new());
                Vec::new()
            }
            Event::InitApply(object) => {
                let parsed = parse(object);
                if let (Some(seen), Some((key, _))) = (&mut self.relisting, &parsed) {
                    seen.insert(key.clone());
                }
                parsed.and_then(|(key, value)| self.replace(key, value)).into_iter().collect()
            }
            Event::InitDone => {
                self.complete = true;
                let seen = self.relisting.take().unwrap_or_default();
                let gone: Vec<_> =
                    self.objects.keys().filter(|key| !seen.contains(key)).cloned().collect();
                gone.into_iter().filter_map(|key| self.replace(key, None)).collect()
            }
            Event::Apply(object) => parse(object)
                .and_then(|(key, value)| self.replace(key, value))
                .into_iter()
                .collect(),
            Event::Delete(object) => {
                parse(object).and_then(|(key, _)| self.replace(key, None)).into_iter().collect()
            }
        }
    }

    fn replace(&mut self, key: K, value: Option<V>) -> Option<(K, Option<V>)> {
        if self.objects.get(&key) == value.as_ref() {
            return None;
        }
        let old = match value {
            Some(value) => self.objects.insert(key.clone(), value),
            None => self.objects.remove(&key),
        };
        Some((key, old))
    }
}
