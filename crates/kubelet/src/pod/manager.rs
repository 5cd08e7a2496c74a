//! Which pods have a worker.
//!
//! Consumes the watch on this node's pods, the runtime's events and changed objects, and hands each to the worker
//! it concerns. Counterpart: `syncLoop` and `HandlePodCleanups` of `pkg/kubelet`.
//! Invariant: one worker per uid; a worker that panics is replaced and told to look again; what the runtime or the
//! disk holds of pods that the API server does not know is removed once the first list is complete.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, RwLock},
    time::Duration,
};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::{WatchStreamExt, watcher},
};
use skiff_runtime::ContainerEvent;
use tokio::{
    sync::{broadcast, mpsc},
    task::{Id, JoinSet},
};

use super::{
    ending::Ending,
    worker::{Adopted, Event, PodWorker, newest_sandbox},
};
use crate::{
    context::NodeContext,
    orphans,
    static_pods::{
        FullName, Pods, full_name, is_mirror,
        workers::{StaticWorkers, deleted},
    },
};

const RETRY_AFTER: Duration = Duration::from_millis(500);

/// The pods of this node as last seen, for those who only read: the agent's API and node status.
pub type PodIndex = Arc<RwLock<BTreeMap<String, Arc<Pod>>>>;

/// What other parts of the agent have to say to workers, by uid.
pub struct Inbox {
    /// ConfigMaps or Secrets of the pod have changed.
    pub changed: mpsc::UnboundedReceiver<String>,
    /// The pod's waiting resize may begin.
    pub granted: mpsc::UnboundedReceiver<String>,
    /// The node ends the pod.
    pub ended: mpsc::UnboundedReceiver<(String, Ending)>,
    /// All pods that the node runs by itself, whenever that changes; `None` where it runs none.
    pub statics: Option<mpsc::Receiver<Pods>>,
}

pub struct PodManager {
    ctx: Arc<NodeContext>,
    index: PodIndex,
    workers: HashMap<String, mpsc::UnboundedSender<Event>>,
    tasks: JoinSet<()>,
    uids: HashMap<Id, String>,
    /// Uids named by the list under way.
    listed: BTreeSet<String>,
    synced: bool,
    statics: StaticWorkers,
}

// === impl PodManager ===

impl PodManager {
    pub fn new(ctx: Arc<NodeContext>, index: PodIndex) -> Self {
        PodManager {
            ctx,
            index,
            workers: HashMap::new(),
            tasks: JoinSet::new(),
            uids: HashMap::new(),
            listed: BTreeSet::new(),
            synced: false,
            statics: StaticWorkers::default(),
        }
    }

    pub async fn run(mut self, mut inbox: Inbox) {
        if let Some(statics) = &mut inbox.statics {
            self.statics.keep_mirrors(self.ctx.clone());
            // Before anything is taken for an orphan.
            let first = statics.recv().await.unwrap_or_default();
            self.set_statics(first).await;
        }
        let mut events = self.ctx.runtime.events();
        let api: Api<Pod> = Api::all(self.ctx.client.clone());
        let config = watcher::Config::default()
            .fields(&format!("spec.nodeName={}", self.ctx.config.node_name));
        let mut pods = watcher(api, config).default_backoff().boxed();
        loop {
            tokio::select! {
                event = pods.try_next() => match event {
                    Ok(Some(event)) => self.watch_event(event).await,
                    Ok(None) => return,
                    Err(error) => tracing::warn!(%error, "watch on pods broke, will resume"),
                },
                event = events.recv() => match event {
                    Ok(event) => self.runtime_event(event),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.tell_all(|| Event::Relist),
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                Some(uid) = inbox.changed.recv() => self.tell(&uid, Event::ObjectsChanged),
                Some(uid) = inbox.granted.recv() => self.tell(&uid, Event::Granted),
                Some((uid, ending)) = inbox.ended.recv() => self.tell(&uid, Event::Ended(ending)),
                Some(pods) = next(&mut inbox.statics) => self.set_statics(pods).await,
                Some(ended) = self.tasks.join_next_with_id() => self.worker_ended(ended).await,
            }
        }
    }

    async fn watch_event(&mut self, event: watcher::Event<Pod>) {
        match event {
            watcher::Event::Init => self.listed.clear(),
            watcher::Event::InitApply(pod) => {
                self.listed.extend(pod.metadata.uid.clone());
                self.apply(pod).await;
            }
            watcher::Event::InitDone => self.list_done().await,
            watcher::Event::Apply(pod) => self.apply(pod).await,
            watcher::Event::Delete(pod) if is_mirror(&pod) => self.mirror_gone(&pod),
            watcher::Event::Delete(pod) => self.remove(&pod.metadata.uid.unwrap_or_default()),
        }
    }

    async fn apply(&mut self, pod: Pod) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let pod = Arc::new(pod);
        if is_mirror(&pod) {
            return self.mirror_seen(pod);
        }
        self.index.write().expect("no writer panics").insert(uid.clone(), pod.clone());
        if self.workers.contains_key(&uid) {
            self.tell(&uid, Event::Desired(pod));
        } else {
            self.start_worker(uid, pod).await;
        }
    }

    fn remove(&mut self, uid: &str) {
        self.index.write().expect("no writer panics").remove(uid);
        self.tell(uid, Event::Removed);
    }

    /// Pods that vanished while nobody watched, and what they left behind.
    async fn list_done(&mut self) {
        let own = &self.statics;
        let gone = self.workers.keys().filter(|uid| !self.listed.contains(*uid) && !own.runs(uid));
        for uid in gone.cloned().collect::<Vec<String>>() {
            self.remove(&uid);
        }
        for mirror in self.statics.list_done(&self.listed) {
            self.tell_mirrored(&mirror, None);
        }
        if !self.synced {
            self.synced = true;
            let known = self.workers.keys().cloned().collect();
            tokio::spawn(orphans::remove(self.ctx.clone(), known));
        }
    }

    /// Ends the pods whose files are gone, and starts those that are new. One of the same name as another that still
    /// ends has to wait for it.
    async fn set_statics(&mut self, pods: Pods) {
        for ended in self.statics.set(pods) {
            let uid = ended.metadata.uid.clone().unwrap_or_default();
            self.tell(&uid, Event::Desired(Arc::new(deleted(&ended))));
        }
        self.start_statics().await;
    }

    async fn start_statics(&mut self) {
        for pod in self.statics.startable() {
            let uid = pod.metadata.uid.clone().unwrap_or_default();
            self.index.write().expect("no writer panics").insert(uid.clone(), pod.clone());
            self.start_worker(uid, pod.clone()).await;
            self.tell_mirrored(&full_name(&pod), self.statics.mirror(&pod));
        }
    }

    fn mirror_seen(&mut self, mirror: Arc<Pod>) {
        let name = full_name(&mirror);
        self.statics.mirror_seen(mirror.clone());
        self.tell_mirrored(&name, Some(mirror));
    }

    fn mirror_gone(&mut self, mirror: &Pod) {
        if self.statics.mirror_gone(mirror) {
            self.tell_mirrored(&full_name(mirror), None);
        }
    }

    fn tell_mirrored(&self, name: &FullName, mirror: Option<Arc<Pod>>) {
        if let Some(uid) = self.statics.running(name) {
            self.tell(uid, Event::Mirror(mirror));
        }
    }

    async fn start_worker(&mut self, uid: String, pod: Arc<Pod>) {
        let adopted = self.adopt(&uid).await;
        let (sender, events) = mpsc::unbounded_channel();
        let worker = PodWorker::new(self.ctx.clone(), pod, adopted, (sender.clone(), events));
        let handle = self.tasks.spawn(worker.run());
        self.uids.insert(handle.id(), uid.clone());
        self.workers.insert(uid, sender);
    }

    /// What the runtime holds of a pod. Without an answer nothing can be started either, so this waits for one.
    async fn adopt(&self, uid: &str) -> Adopted {
        loop {
            match self.try_adopt(uid).await {
                Ok(adopted) => return adopted,
                Err(error) => {
                    tracing::warn!(uid, %error, "the runtime did not answer, will ask again")
                }
            }
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn try_adopt(&self, uid: &str) -> skiff_runtime::Result<Adopted> {
        let runtime = &self.ctx.runtime;
        let mut sandboxes = runtime.list_pod_sandboxes().await?;
        sandboxes.retain(|s| s.metadata.uid == uid);
        let mut containers = runtime.list_containers().await?;
        containers.retain(|c| sandboxes.iter().any(|s| s.id == c.sandbox_id));
        Ok(Adopted { sandbox: newest_sandbox(sandboxes), containers })
    }

    fn runtime_event(&self, event: ContainerEvent) {
        let uid = event.pod_uid.clone();
        self.tell(&uid, Event::Runtime(event));
    }

    fn tell(&self, uid: &str, event: Event) {
        if let Some(worker) = self.workers.get(uid) {
            // A worker that has just ended is collected by `worker_ended`.
            let _ = worker.send(event);
        }
    }

    fn tell_all(&self, event: impl Fn() -> Event) {
        self.workers.values().for_each(|worker| drop(worker.send(event())));
    }

    async fn worker_ended(&mut self, ended: Result<(Id, ()), tokio::task::JoinError>) {
        let id = ended.as_ref().map_or_else(|error| error.id(), |(id, ())| *id);
        let Some(uid) = self.uids.remove(&id) else { return };
        self.workers.remove(&uid);
        if self.statics.ended(&uid) {
            self.index.write().expect("no writer panics").remove(&uid);
            return self.start_statics().await;
        }
        let pod = self.index.read().expect("no writer panics").get(&uid).cloned();
        match (ended, pod) {
            (Err(error), Some(pod)) if error.is_panic() => {
                tracing::error!(uid, %error, "pod worker panicked, starting another");
                self.start_worker(uid, pod).await;
            }
            (_, Some(_)) | (_, None) => {}
        }
    }
}

async fn next(statics: &mut Option<mpsc::Receiver<Pods>>) -> Option<Pods> {
    statics.as_mut()?.recv().await
}
