//! The copy of Services and EndpointSlices that the zone is made from, kept by watch events.
//!
//! Watch events come in; the Services whose records may have changed come out, with their new records.
//!
//! Invariant: after a relist, what the API server no longer has is gone here too.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;

use crate::records::{Entry, ServiceInfo, ServiceKey, SliceInfo, records};

/// Namespace and name of an EndpointSlice.
type SliceKey = (String, String);

#[derive(Debug, Default)]
pub struct Catalog {
    services: Mirror<ServiceKey, ServiceInfo>,
    slices: Mirror<SliceKey, (ServiceKey, SliceInfo)>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    dirty: HashSet<ServiceKey>,
}

/// A copy of one kind's objects.
#[derive(Debug)]
struct Mirror<K, V> {
    objects: BTreeMap<K, V>,
    /// What a relist has shown so far.
    relisting: Option<BTreeSet<K>>,
    complete: bool,
}

// === impl Catalog ===

impl Catalog {
    /// Whether both kinds have been listed once: before that, names would be missing that exist.
    pub fn complete(&self) -> bool {
        self.services.complete && self.slices.complete
    }

    pub fn service_event(&mut self, event: Event<Service>) {
        let parse = |service: Service| {
            Some((ServiceKey::of_service(&service)?, ServiceInfo::parse(&service)))
        };
        for (key, _) in self.services.apply(event, parse) {
            self.dirty.insert(key);
        }
    }

    pub fn slice_event(&mut self, event: Event<EndpointSlice>) {
        let parse = |slice: EndpointSlice| {
            let key = (slice.metadata.namespace.clone()?, slice.metadata.name.clone()?);
            let owner = ServiceKey::of_slice(&slice);
            Some((key, owner.map(|owner| (owner, SliceInfo::parse(&slice)))))
        };
        for (key, old) in self.slices.apply(event, parse) {
            if let Some((owner, _)) = old {
                self.disown(&owner, &key);
                self.dirty.insert(owner);
            }
            if let Some((owner, _)) = self.slices.objects.get(&key) {
                self.slices_of.entry(owner.clone()).or_default().insert(key);
                self.dirty.insert(owner.clone());
            }
        }
    }

    fn disown(&mut self, owner: &ServiceKey, slice: &SliceKey) {
        let slices = self.slices_of.get_mut(owner).expect("an owner lists its slices");
        slices.remove(slice);
        if slices.is_empty() {
            self.slices_of.remove(owner);
        }
    }

    /// The Services that changed since the last call, with the records they have now.
    pub fn take_changes(&mut self, zone: &Name) -> Vec<(ServiceKey, Vec<Entry>)> {
        let dirty = std::mem::take(&mut self.dirty);
        let with_records = |key| {
            let records = self.records(&key, zone);
            (key, records)
        };
        dirty.into_iter().map(with_records).collect()
    }

    fn records(&self, key: &ServiceKey, zone: &Name) -> Vec<Entry> {
        let Some(service) = self.services.objects.get(key) else {
            return Vec::new();
        };
        let slices = self.slices_of.get(key).into_iter().flatten();
        records(
            key,
            service,
            slices.filter_map(|slice| Some(&self.slices.objects.get(slice)?.1)),
            zone,
        )
    }
}

// === impl Mirror ===

impl<K, V> Default for Mirror<K, V> {
    fn default() -> Self {
        Self { objects: BTreeMap::new(), relisting: None, complete: false }
    }
}

impl<K: Ord + Clone, V: PartialEq> Mirror<K, V> {
    /// Applies an event and returns the keys that changed, each with the value it had.
    ///
    /// `parse` yields an object's key, and nothing more where the object is of no interest.
    fn apply<T>(
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
