//! The scheduling loop: take in what changed, schedule what waits, sleep otherwise.
//!
//! Watch changes and binding outcomes in -> one pod after another through the framework -> binds in the background.
//! Counterpart: `pkg/scheduler/schedule_one.go` and `eventhandlers.go`.
//! Invariant: a pod is assumed on its node before its binding is sent, so the next decision already counts it.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{
    Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, Service,
};
use k8s_openapi::api::storage::v1::StorageClass;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::binding::Binder;
use crate::cluster::{Cluster, ClusterEvent, Key};
use crate::framework::{Framework, Unschedulable};
use crate::pod_info::PodInfo;
use crate::queue::Queue;
use crate::selectors::Selector;
use crate::watch::Change;

/// Everything that can happen to the loop.
pub enum Event {
    Pod(Change<Pod>),
    Node(Change<Node>),
    Namespace(Change<Namespace>),
    Service(Change<Service>),
    ReplicaSet(Change<ReplicaSet>),
    StatefulSet(Change<StatefulSet>),
    Claim(Change<PersistentVolumeClaim>),
    Volume(Change<PersistentVolume>),
    Class(Change<StorageClass>),
}

macro_rules! any_kind {
    ($event:expr, $change:pat) => {
        matches!(
            $event,
            Event::Pod($change)
                | Event::Node($change)
                | Event::Namespace($change)
                | Event::Service($change)
                | Event::ReplicaSet($change)
                | Event::StatefulSet($change)
                | Event::Claim($change)
                | Event::Volume($change)
                | Event::Class($change)
        )
    };
}

impl Event {
    fn is_synced(&self) -> bool {
        any_kind!(self, Change::Synced)
    }
}

/// The number of watched kinds: scheduling starts when each has told its complete state.
pub const WATCHED_KINDS: usize = 9;

/// How a binding ended.
pub struct Bound {
    pod: Arc<PodInfo>,
    outcome: Result<(), kube::Error>,
}

pub struct Scheduler {
    name: String,
    cluster: Cluster,
    queue: Queue,
    framework: Framework,
    binder: Binder,
    pub bindings: JoinSet<Bound>,
    /// The uid of each pod we were told of; deletions are told by name.
    uids: HashMap<Key, String>,
    /// What was last said about a pod that does not fit, so that it is not said again.
    told: HashMap<String, String>,
    unsynced: usize,
}

// === impl Scheduler ===

impl Scheduler {
    pub fn new(name: String, framework: Framework, binder: Binder) -> Scheduler {
        Scheduler {
            name,
            cluster: Cluster::default(),
            queue: Queue::default(),
            framework,
            binder,
            bindings: JoinSet::new(),
            uids: HashMap::new(),
            told: HashMap::new(),
            unsynced: WATCHED_KINDS,
        }
    }

    pub fn is_synced(&self) -> bool {
        self.unsynced == 0
    }

    /// When a pod that backs off wants to be looked at.
    pub fn wakes_at(&self) -> Option<Instant> {
        if self.is_synced() { self.queue.wakes_at() } else { None }
    }

    pub fn observe(&mut self, event: Event) {
        match event {
            // A restarted watch says so again: the count stays at zero then.
            event if event.is_synced() => self.unsynced = self.unsynced.saturating_sub(1),
            Event::Pod(Change::Applied(key, pod)) => self.pod_applied(key, &pod),
            Event::Pod(Change::Deleted(key)) => self.pod_deleted(&key),
            Event::Node(Change::Applied(_, node)) => {
                for event in self.cluster.set_node(&node) {
                    self.notice(event);
                }
            }
            Event::Node(Change::Deleted((_, name))) => self.cluster.remove_node(&name),
            other => self.surroundings(other),
        }
    }

    /// Kinds that only matter to some plugins.
    fn surroundings(&mut self, event: Event) {
        let cluster = &mut self.cluster;
        let notice = match event {
            Event::Namespace(Change::Applied((_, name), namespace)) => {
                cluster.namespaces.insert(name, namespace.metadata.labels.unwrap_or_default());
                Some(ClusterEvent::NamespaceChanged)
            }
            Event::Namespace(Change::Deleted((_, name))) => {
                cluster.namespaces.remove(&name);
                None
            }
            Event::Service(Change::Applied(key, service)) => {
                cluster.set_service(key, &service);
                None
            }
            Event::Service(Change::Deleted(key)) => {
                cluster.services.remove(&key);
                None
            }
            Event::ReplicaSet(change) => {
                workload(cluster, "ReplicaSet", change, |set| set.spec.map(|spec| spec.selector))
            }
            Event::StatefulSet(change) => {
                workload(cluster, "StatefulSet", change, |set| set.spec.map(|spec| spec.selector))
            }
            Event::Claim(Change::Applied(key, claim)) => {
                cluster.set_claim(key, &claim);
                Some(ClusterEvent::StorageChanged)
            }
            Event::Claim(Change::Deleted(key)) => {
                cluster.claims.remove(&key);
                None
            }
            Event::Volume(Change::Applied((_, name), volume)) => {
                cluster.set_volume(name, &volume);
                Some(ClusterEvent::StorageChanged)
            }
            Event::Volume(Change::Deleted((_, name))) => {
                cluster.volumes.remove(&name);
                None
            }
            Event::Class(Change::Applied((_, name), class)) => {
                cluster.set_class(name, &class);
                Some(ClusterEvent::StorageChanged)
            }
            Event::Class(Change::Deleted((_, name))) => {
                cluster.classes.remove(&name);
                None
            }
            _told_elsewhere => None,
        };
        notice.into_iter().for_each(|event| self.notice(event));
    }

    fn notice(&mut self, event: ClusterEvent) {
        self.queue.notice(event, Instant::now());
    }

    fn pod_applied(&mut self, key: Key, pod: &Pod) {
        let pod = PodInfo::arc(pod);
        // A pod of the same name but another uid: the old one is gone.
        if self.uids.insert(key.clone(), pod.uid.clone()).is_some_and(|old| old != pod.uid) {
            self.pod_deleted(&key);
            self.uids.insert(key, pod.uid.clone());
        }
        match &pod.node_name {
            _ if pod.finished => self.forget_pod(&pod.uid),
            Some(node) => {
                self.queue.remove(&pod.uid);
                self.told.remove(&pod.uid);
                self.cluster.place(pod.clone(), node);
                self.notice(ClusterEvent::PodPlaced);
            }
            None if pod.scheduler_name != self.name || pod.terminating => {
                self.queue.remove(&pod.uid)
            }
            // Assumed: this is news from before our binding.
            None if self.cluster.is_placed(&pod.uid) => {}
            None => self.queue.put(pod),
        }
    }

    fn pod_deleted(&mut self, key: &Key) {
        if let Some(uid) = self.uids.remove(key) {
            self.forget_pod(&uid);
        }
    }

    fn forget_pod(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.told.remove(uid);
        if self.cluster.remove_pod(uid) {
            self.notice(ClusterEvent::PodRemoved);
        }
    }

    /// Schedules the next waiting pod; false if none waits.
    pub fn schedule_one(&mut self) -> bool {
        if !self.is_synced() {
            return false;
        }
        let Some(pod) = self.queue.pop(Instant::now()) else { return false };
        match self.framework.schedule(&pod, &self.cluster) {
            Ok(node) => self.assume_and_bind(pod, node),
            Err(failure) => self.does_not_fit(&pod, &failure),
        }
        true
    }

    fn assume_and_bind(&mut self, pod: Arc<PodInfo>, node: String) {
        self.cluster.place(pod.clone(), &node);
        let binder = self.binder.clone();
        self.bindings.spawn(async move {
            let outcome = binder.bind(&pod, &node).await;
            Bound { pod, outcome }
        });
    }

    /// A binding ended. A refused one frees the place and tries again.
    pub fn bound(&mut self, Bound { pod, outcome }: Bound) {
        let Err(error) = outcome else { return };
        // Gone meanwhile, or bound after all: the watch knows better than a lost answer.
        if !self.queue.contains(&pod.uid) {
            return;
        }
        tracing::warn!(pod = %format!("{}/{}", pod.namespace, pod.name), %error, "binding was refused");
        self.cluster.remove_pod(&pod.uid);
        self.notice(ClusterEvent::PodRemoved);
        self.queue.failed(&pod.uid, Instant::now());
        self.report(&pod, "SchedulerError", format!("binding rejected: {error}"));
    }

    fn does_not_fit(&mut self, pod: &Arc<PodInfo>, failure: &Unschedulable) {
        let plugins = failure.plugins.iter().flat_map(|plugin| self.framework.retry_on(plugin));
        let mut retry_on: Vec<ClusterEvent> = plugins.copied().collect();
        // Whatever the reason, a new node was not among those that rejected.
        retry_on.push(ClusterEvent::NodeAdded);
        self.queue.unschedulable(&pod.uid, retry_on, Instant::now());
        self.report(pod, "Unschedulable", failure.to_string());
    }

    fn report(&mut self, pod: &Arc<PodInfo>, reason: &'static str, message: String) {
        if self.told.insert(pod.uid.clone(), message.clone()).as_ref() == Some(&message) {
            return;
        }
        let (binder, pod) = (self.binder.clone(), pod.clone());
        self.bindings.spawn(async move {
            binder.report_failure(&pod, reason, message).await;
            Bound { pod, outcome: Ok(()) }
        });
    }
}

fn workload<K>(
    cluster: &mut Cluster,
    kind: &'static str,
    change: Change<K>,
    selector: fn(K) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector>,
) -> Option<ClusterEvent> {
    match change {
        Change::Applied(key, object) => {
            let selector = Selector::from_labels(selector(*object).as_ref());
            cluster.workloads.insert((kind, key), selector);
        }
        Change::Deleted(key) => drop(cluster.workloads.remove(&(kind, key))),
        Change::Synced => {}
    }
    None
}
