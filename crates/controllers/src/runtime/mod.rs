//! What every controller shares: caches, edges, queue, clock, workers, fences and counters exist once, here.
//!
//! A controller is a `ControllerDef` value. `Edges` turns changes of cached kinds into keys, the `WorkQueue` hands each
//! key to one worker at a time, `reconcile` reads the caches and writes through `Ctx`.
//! Counterpart: the informer factory and the worker loops of kube-controller-manager.
//! Invariant: no reconcile starts before every kind its controller reads is complete in the cache.

mod clock;
mod edges;
pub mod events;
mod metrics;
pub mod queue;
mod reflector;
pub mod store;
mod write;

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Client;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use clock::{Clock, Hand};
pub use edges::Edges;
pub use metrics::Metrics;
pub use queue::WorkQueue;
pub use store::{Delta, Key, Object, Store};

use crate::ControllersConfig;
use events::Recorder;

/// A controller as a value. `name` is its identity: it acts as `system:serviceaccount:kube-system:<name>`.
pub struct ControllerDef {
    pub name: &'static str,
    /// How many keys are worked on at a time.
    pub workers: usize,
    /// Declares every kind the controller reads, and which changes concern which key.
    pub watches: fn(&mut Edges),
    pub reconcile: fn(Arc<Ctx>, Key) -> BoxFuture<'static, Result<Action>>,
}

/// What is left to do for a key after a successful reconcile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until something it watches changes.
    Done,
    /// Time alone will change the answer.
    After(Duration),
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {verb} {object}: {}", reason(.source))]
    /// `object` is kind and key.
    Write { verb: &'static str, object: String, source: kube::Error },
    #[error("cannot read {what}: {}", reason(.source))]
    Read { what: String, source: kube::Error },
    #[error("{0}")]
    Invalid(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What a reconcile works with: shared caches to read, its own client to write with.
pub struct Ctx {
    pub client: Client,
    pub config: Arc<ControllersConfig>,
    pub recorder: Recorder,
    queue: Arc<WorkQueue>,
    caches: Arc<Caches>,
    memory: RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// One store per kind, shared by all controllers.
#[derive(Default)]
pub struct Caches {
    stores: RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
    kinds: Mutex<Vec<Box<dyn edges::CachedKind>>>,
}

// === impl Error ===

impl Error {
    /// Somebody else wrote first, or the object is gone: the next look at the cache settles it.
    pub fn is_conflict(&self) -> bool {
        matches!(self.status_code(), Some(404 | 409))
    }

    pub fn is_not_found(&self) -> bool {
        self.status_code() == Some(404)
    }

    /// The HTTP code of the API server's answer, if there was an answer.
    pub fn status_code(&self) -> Option<u16> {
        self.status().map(|status| status.code)
    }

    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Write { source: kube::Error::Api(status), .. }
            | Error::Read { source: kube::Error::Api(status), .. } => Some(status),
            _ => None,
        }
    }

    /// Whether a create was refused because its namespace is being deleted.
    pub fn namespace_terminating(&self) -> bool {
        let causes =
            self.status().and_then(|status| status.details.as_ref()).map(|details| &details.causes);
        causes
            .is_some_and(|causes| causes.iter().any(|cause| cause.reason == "NamespaceTerminating"))
    }

    /// The API server's own words, as events quote them.
    pub fn message(&self) -> String {
        self.status().map_or_else(|| self.to_string(), |status| status.message.clone())
    }
}

fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

// === impl Ctx ===

impl Ctx {
    pub fn lister<K: Object>(&self) -> Arc<Store<K>> {
        self.caches.store::<K>()
    }

    pub fn now(&self) -> Timestamp {
        self.config.clock.now()
    }

    pub fn enqueue_after(&self, key: Key, delay: Duration) {
        self.queue.add_after(key, delay);
    }

    /// What a controller remembers between reconciles; made by `Default` on first use, lost on restart.
    pub fn memory<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let id = TypeId::of::<T>();
        let known =
            self.memory.read().expect("memory is never locked across a panic").get(&id).cloned();
        let any = known.unwrap_or_else(|| {
            let mut memory = self.memory.write().expect("memory is never locked across a panic");
            memory.entry(id).or_insert_with(|| Arc::new(T::default())).clone()
        });
        any.downcast().expect("memory is keyed by its own type")
    }
}

// === impl Caches ===

impl Caches {
    /// The store of a kind. Panics if no controller declared it: reading an unwatched kind is our own mistake.
    pub fn store<K: Object>(&self) -> Arc<Store<K>> {
        self.find::<K>()
            .unwrap_or_else(|| panic!("{} is read but not declared in any watches", K::kind(&())))
    }

    fn find<K: Object>(&self) -> Option<Arc<Store<K>>> {
        let stores = self.stores.read().expect("no panic happens while the stores are locked");
        let any = stores.get(&TypeId::of::<K>())?.clone();
        Some(any.downcast().expect("stores are keyed by their own kind"))
    }
}

/// The controller reference of an object: the one owner that manages it.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Runs all controllers until shutdown: declare edges, start one reflector per kind, then the workers.
pub async fn run_all(
    defs: &[ControllerDef],
    client_for: impl Fn(&str) -> Client,
    reader: Client,
    config: Arc<ControllersConfig>,
    shutdown: CancellationToken,
) {
    let caches = Arc::new(Caches::default());
    let mut controllers = Vec::new();
    let mut tasks = JoinSet::new();
    for def in defs {
        let queue = Arc::new(WorkQueue::new(config.clock.clone()));
        let mut edges = Edges::new(&caches, queue.clone());
        (def.watches)(&mut edges);
        controllers.push((def, queue, edges.synced()));
    }
    edges::start_reflectors(&caches, &reader, &shutdown, &mut tasks);
    for (def, queue, synced) in controllers {
        let client = client_for(&crate::service_account(def.name));
        let (recorder, recording) = events::recorder(
            client.clone(),
            crate::event_source(def.name),
            config.clock.clone(),
            shutdown.clone(),
        );
        tasks.spawn(recording);
        let ctx = Arc::new(Ctx {
            client,
            config: config.clone(),
            recorder,
            queue,
            caches: caches.clone(),
            memory: RwLock::default(),
        });
        tasks.spawn(run_controller(
            def.name,
            def.workers,
            def.reconcile,
            ctx,
            synced,
            shutdown.clone(),
        ));
    }
    while tasks.join_next().await.is_some() {}
}

type Reconcile = fn(Arc<Ctx>, Key) -> BoxFuture<'static, Result<Action>>;

async fn run_controller(
    name: &'static str,
    workers: usize,
    reconcile: Reconcile,
    ctx: Arc<Ctx>,
    synced: BoxFuture<'static, ()>,
    shutdown: CancellationToken,
) {
    if shutdown.run_until_cancelled(synced).await.is_none() {
        return;
    }
    tracing::debug!(controller = name, "caches are complete");
    let slots = Arc::new(Semaphore::new(workers));
    let mut running = JoinSet::new();
    while let Some(key) = shutdown.run_until_cancelled(ctx.queue.next()).await {
        let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
        let ctx = ctx.clone();
        running.spawn(async move {
            reconcile_fenced(name, reconcile, &ctx, key).await;
            drop(slot);
        });
        while running.try_join_next().is_some() {}
    }
    // Work in flight ends by itself: a half-done reconcile is safe, an aborted write is only wasteful.
    while running.join_next().await.is_some() {}
}

/// One reconcile: a panic is fenced and counted, a failure comes again later, success may ask for a later look.
async fn reconcile_fenced(name: &'static str, reconcile: Reconcile, ctx: &Arc<Ctx>, key: Key) {
    let outcome = AssertUnwindSafe(reconcile(ctx.clone(), key.clone())).catch_unwind();
    let (outcome, busy) = metrics::timed(outcome).await;
    let metrics = &ctx.config.metrics;
    metrics.observe(name, busy);
    match outcome {
        Ok(Ok(action)) => {
            ctx.queue.forget(&key);
            if let Action::After(delay) = action {
                ctx.queue.add_after(key.clone(), delay);
            }
        }
        Ok(Err(error)) => {
            metrics.count_error(name);
            match error.is_conflict() {
                true => tracing::debug!(controller = name, %key, %error, "will look again"),
                false => tracing::warn!(controller = name, %key, %error, "reconcile failed"),
            }
            ctx.queue.add_failed(key.clone());
        }
        Err(_panic) => {
            metrics.count_panic(name);
            tracing::error!(controller = name, %key, "reconcile panicked");
            ctx.queue.add_failed(key.clone());
        }
    }
    ctx.queue.done(key, busy);
}
