//! The kinds that are served, found by path.
//!
//! Group, version and resource -> a [`KindDef`]. Counterpart: the route tables and `runtime.Scheme`.
//! Invariant: one definition per group, version and resource, and always in their order.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::KindDef;

/// The built-in and custom kinds that are served now. Cheap to clone; changed by building a new one.
#[derive(Clone, Default)]
pub struct Kinds {
    served: Shelf,
    /// Versions that are stored but not served.
    hidden: Shelf,
}

/// Kinds by group, version and resource.
#[derive(Clone, Default)]
struct Shelf {
    ordered: Vec<Arc<KindDef>>,
    /// The same by the hash of their keys: every request looks one up, and so neither makes a key of its own nor compares
    /// itself with kinds that are not in the processor's cache.
    hashed: Vec<(u64, Arc<KindDef>)>,
}

// === impl Kinds ===

impl Kinds {
    pub fn get(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<KindDef>> {
        self.served.get((group, version, resource))
    }

    pub fn by_kind(&self, group: &str, version: &str, kind: &str) -> Option<&Arc<KindDef>> {
        self.in_version(group, version).find(|def| def.kind == kind)
    }

    /// Every kind of a group and version, by resource name.
    pub fn in_version(&self, group: &str, version: &str) -> impl Iterator<Item = &Arc<KindDef>> {
        let served = &self.served.ordered;
        let place =
            |def: &Arc<KindDef>| (def.group.as_str(), def.version.as_str()).cmp(&(group, version));
        let first = served.partition_point(|def| place(def).is_lt());
        let count = served[first..].partition_point(|def| place(def).is_eq());
        served[first..first + count].iter()
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<KindDef>> {
        self.served.ordered.iter()
    }

    pub fn insert(&mut self, def: KindDef) {
        self.served.insert(def);
    }

    /// Adds a version that objects are stored in although nobody is served it.
    pub fn insert_hidden(&mut self, def: KindDef) {
        self.hidden.insert(def);
    }

    pub fn remove(&mut self, group: &str, version: &str, resource: &str) {
        self.served.retain(|def| key_of(def) != (group, version, resource));
    }

    /// Removes every version of a custom resource.
    pub fn remove_custom(&mut self, group: &str, resource: &str) {
        let others =
            |def: &KindDef| !(def.custom && def.group == group && def.resource == resource);
        self.served.retain(others);
        self.hidden.retain(others);
    }

    /// A version of a resource, served or not.
    pub fn defined(&self, group: &str, version: &str, resource: &str) -> Option<&Arc<KindDef>> {
        let key = (group, version, resource);
        self.served.get(key).or_else(|| self.hidden.get(key))
    }

    /// The kind in the version that its objects are stored in.
    pub fn stored(&self, kind: &Arc<KindDef>) -> Arc<KindDef> {
        let storage = &kind.storage_version;
        if storage.version == kind.version && storage.group == kind.group {
            return kind.clone();
        }
        self.defined(&storage.group, &storage.version, &kind.resource).unwrap_or(kind).clone()
    }
}

// === impl Shelf ===

impl Shelf {
    fn get(&self, key: (&str, &str, &str)) -> Option<&Arc<KindDef>> {
        let hash = hash_of(key);
        let first = self.hashed.partition_point(|(other, _)| *other < hash);
        let alike = self.hashed[first..].iter().take_while(|(other, _)| *other == hash);
        alike.map(|(_, def)| def).find(|def| key_of(def) == key)
    }

    fn insert(&mut self, def: KindDef) {
        let hash = hash_of(key_of(&def));
        if self.get(key_of(&def)).is_some() {
            self.retain(|other| key_of(other) != key_of(&def));
        }
        let def = Arc::new(def);
        let place = self.ordered.partition_point(|other| key_of(other) < key_of(&def));
        self.ordered.insert(place, def.clone());
        let place = self.hashed.partition_point(|(other, _)| *other < hash);
        self.hashed.insert(place, (hash, def));
    }

    fn retain(&mut self, stays: impl Fn(&KindDef) -> bool) {
        self.ordered.retain(|def| stays(def));
        self.hashed.retain(|(_, def)| stays(def));
    }
}

impl FromIterator<KindDef> for Kinds {
    fn from_iter<I: IntoIterator<Item = KindDef>>(defs: I) -> Kinds {
        let mut kinds = Kinds::default();
        defs.into_iter().for_each(|def| kinds.insert(def));
        kinds
    }
}

fn key_of(def: &KindDef) -> (&str, &str, &str) {
    (&def.group, &def.version, &def.resource)
}

/// The same in every process, though nothing depends on it.
fn hash_of(key: (&str, &str, &str)) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}
