//! What a reader keeps of Services and their slices, and which of them changed.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::watcher::Event;

use crate::mirror::Mirror;
use crate::{Change, ServiceKey};

/// What is of interest of a Service, and what is made of it.
///
/// What a reader does not keep cannot cause a change.
pub trait Reader {
    type Service: PartialEq;
    type Slice: PartialEq;
    /// The default is what is made of a Service that is gone.
    type Made: Default;

    /// None for a Service that nothing is made of.
    fn service(&self, service: &Service) -> Option<Self::Service>;

    fn slice(&self, slice: &EndpointSlice) -> Self::Slice;

    fn make<'a>(
        &self,
        key: &ServiceKey,
        service: &Self::Service,
        slices: impl Iterator<Item = &'a Self::Slice> + Clone,
    ) -> Self::Made
    where
        Self::Slice: 'a;
}

/// Namespace and name of an EndpointSlice.
type SliceKey = (String, String);

pub struct Catalog<R: Reader> {
    reader: R,
    services: Mirror<ServiceKey, R::Service>,
    slices: Mirror<SliceKey, (ServiceKey, R::Slice)>,
    slices_of: BTreeMap<ServiceKey, BTreeSet<SliceKey>>,
    dirty: HashSet<ServiceKey>,
}

// === impl Catalog ===

impl<R: Reader> Catalog<R> {
    pub fn new(reader: R) -> Catalog<R> {
        Catalog {
            reader,
            services: Mirror::default(),
            slices: Mirror::default(),
            slices_of: BTreeMap::new(),
            dirty: HashSet::new(),
        }
    }

    /// Whether both kinds have been listed once: before that, Services would be missing, or look as if they had no endpoints.
    pub fn complete(&self) -> bool {
        self.services.complete() && self.slices.complete()
    }

    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Service(event) => self.service_event(event),
            Change::Slice(event) => self.slice_event(event),
        }
    }

    pub fn service_event(&mut self, event: Event<Service>) {
        let parse = |service: Service| {
            Some((ServiceKey::of_service(&service)?, self.reader.service(&service)))
        };
        for (key, _) in self.services.apply(event, parse) {
            self.dirty.insert(key);
        }
    }

    pub fn slice_event(&mut self, event: Event<EndpointSlice>) {
        let parse = |slice: EndpointSlice| {
            let key = (slice.metadata.namespace.clone()?, slice.metadata.name.clone()?);
            let owner = ServiceKey::of_slice(&slice);
            Some((key, owner.map(|owner| (owner, self.reader.slice(&slice)))))
        };
        for (key, old) in self.slices.apply(event, parse) {
            if let Some((owner, _)) = old {
                self.disown(&owner, &key);
                self.dirty.insert(owner);
            }
            if let Some((owner, _)) = self.slices.get(&key) {
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

    /// The Services that changed since the last call, with what is made of them now.
    pub fn take_changes(&mut self) -> Vec<(ServiceKey, R::Made)> {
        let dirty = std::mem::take(&mut self.dirty);
        let with_made = |key| {
            let made = self.make(&key);
            (key, made)
        };
        dirty.into_iter().map(with_made).collect()
    }

    fn make(&self, key: &ServiceKey) -> R::Made {
        let Some(service) = self.services.get(key) else { return R::Made::default() };
        let slices = self.slices_of.get(key).into_iter().flatten();
        let slices = slices.filter_map(|slice| Some(&self.slices.get(slice)?.1));
        self.reader.make(key, service, slices)
    }
}
