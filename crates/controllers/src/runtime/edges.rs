//! Watch edges: which change of which kind concerns which key of a controller.
//!
//! Declared once per controller, before anything runs; each becomes a handler of the shared store of that kind.
//! Counterpart: the AddEventHandler calls in every upstream controller's constructor.
//! Invariant: one reflector per kind, whatever the number of controllers that watch it.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::queue::WorkQueue;
use super::store::{Delta, Handler, Key, Object, Store};
use super::{Caches, controller_of, reflector};

pub struct Edges<'a> {
    caches: &'a Arc<Caches>,
    queue: Arc<WorkQueue>,
    synced: Vec<BoxFuture<'static, ()>>,
}

// === impl Edges ===

impl<'a> Edges<'a> {
    pub(super) fn new(caches: &'a Arc<Caches>, queue: Arc<WorkQueue>) -> Self {
        Edges { caches, queue, synced: Vec::new() }
    }

    /// The kind the controller is about: every change of an object concerns that object.
    pub fn primary<K: Object>(&mut self) {
        self.mapped::<K>(|_, delta| vec![Key::of(delta.latest().as_ref())]);
    }

    /// Dependents: a change concerns the controlling owner, if that is an `O`. Both the old and the new owner hear.
    pub fn owned<K: Object, O: Object>(&mut self) {
        self.mapped::<K>(|_, delta| {
            let owners = delta.sides().filter_map(|object| {
                let owner = controller_of(object.meta())?;
                let ours = owner.kind == O::kind(&()) && owner.api_version == O::api_version(&());
                ours.then(|| {
                    Key::new(object.meta().namespace.as_deref().unwrap_or_default(), &owner.name)
                })
            });
            owners.collect()
        });
    }

    /// Any other edge: `concerns` names the keys that a change may matter to.
    pub fn mapped<K: Object>(&mut self, concerns: fn(&Caches, &Delta<K>) -> Vec<Key>) {
        let queue = self.queue.clone();
        let handler: Handler<K> = Box::new(move |caches, delta| {
            concerns(caches, delta).into_iter().for_each(|key| queue.add(key));
        });
        self.declare::<K>(None, Some(handler));
    }

    /// Like `primary`, for the few objects of a large kind that a field selector names.
    pub fn selected<K: Object>(
        &mut self,
        fields: &'static str,
        concerns: fn(&Caches, &Delta<K>) -> Vec<Key>,
    ) {
        let queue = self.queue.clone();
        let handler: Handler<K> = Box::new(move |caches, delta| {
            concerns(caches, delta).into_iter().for_each(|key| queue.add(key));
        });
        self.declare::<K>(Some(fields), Some(handler));
    }

    /// A kind that is only looked up: its changes alone are no reason to reconcile.
    pub fn reads<K: Object>(&mut self) {
        self.declare::<K>(None, None);
    }

    /// Resolves when every declared kind is complete in the cache.
    pub(super) fn synced(self) -> BoxFuture<'static, ()> {
        futures::future::join_all(self.synced).map(|_| ()).boxed()
    }

    fn declare<K: Object>(&mut self, fields: Option<&'static str>, handler: Option<Handler<K>>) {
        let store = self.caches.declare::<K>(fields, handler);
        self.synced.push(async move { store.wait_synced().await }.boxed());
    }
}

/// A kind some controller declared, with the handlers gathered so far.
struct Declared<K> {
    store: Arc<Store<K>>,
    fields: Option<&'static str>,
    handlers: Vec<Handler<K>>,
}

/// A `Declared` of any kind, so that they fit one list.
pub(super) trait CachedKind: std::any::Any + Send {
    /// Freezes the handlers and gives the reflector to run.
    fn start(
        self: Box<Self>,
        client: Client,
        caches: Arc<Caches>,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, ()>;
}

impl<K: Object> CachedKind for Declared<K> {
    fn start(
        self: Box<Self>,
        client: Client,
        caches: Arc<Caches>,
        shutdown: CancellationToken,
    ) -> BoxFuture<'static, ()> {
        self.store.set_handlers(self.handlers);
        reflector::run(client, self.fields, self.store, caches, shutdown).boxed()
    }
}

// === impl Caches ===

impl Caches {
    fn declare<K: Object>(
        &self,
        fields: Option<&'static str>,
        handler: Option<Handler<K>>,
    ) -> Arc<Store<K>> {
        let mut kinds = self.kinds.lock().expect("no panic happens while the kinds are locked");
        let known = kinds
            .iter_mut()
            .find_map(|kind| (&mut **kind as &mut dyn std::any::Any).downcast_mut());
        if let Some(declared) = known {
            let declared: &mut Declared<K> = declared;
            assert_eq!(
                declared.fields,
                fields,
                "controllers agree on what part of {} they watch",
                K::kind(&())
            );
            declared.handlers.extend(handler);
            return declared.store.clone();
        }
        let store = Arc::new(Store::<K>::default());
        let mut stores = self.stores.write().expect("no panic happens while the stores are locked");
        stores.insert(std::any::TypeId::of::<K>(), store.clone());
        kinds.push(Box::new(Declared {
            store: store.clone(),
            fields,
            handlers: handler.into_iter().collect(),
        }));
        store
    }
}

pub(super) fn start_reflectors(
    caches: &Arc<Caches>,
    client: &Client,
    shutdown: &CancellationToken,
    tasks: &mut JoinSet<()>,
) {
    let kinds = std::mem::take(
        &mut *caches.kinds.lock().expect("no panic happens while the kinds are locked"),
    );
    for kind in kinds {
        tasks.spawn(kind.start(client.clone(), caches.clone(), shutdown.clone()));
    }
}
