//! Simulated nodes: Node objects without a machine, whose pods run and end by what the API says alone.
//!
//! Nodes that carry [`LABEL`] and the pods bound to them in; statuses, heartbeats and deletions out, as a kubelet would
//! write them. The nodes themselves are made and deleted by whoever wants them: nothing is remembered elsewhere.
//! Counterpart: `pkg/kubemark`, KWOK. Differs from a kubelet: one task serves all nodes, and a lease is good for an hour.
//! Invariant: without a simulated node there is one watch and no work; a pod has one write on its way at most.

mod addresses;
mod leases;
mod pods;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{Stream, StreamExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::mpsc;

use leases::Change;
use pods::{Done, Pods};

/// What makes a Node a simulated one.
pub const LABEL: &str = "node.skiff.dev/simulated";

/// How long a simulated pod that may end runs: seconds, as an annotation of the pod.
pub const RUN_SECONDS: &str = "node.skiff.dev/run-seconds";

/// More only wait for each other in the API server.
const WRITES_AT_A_TIME: usize = 64;

/// A node, as its pods tell of it.
#[derive(Clone, Debug)]
struct Host {
    address: String,
}

/// Plays the kubelet of every simulated node until dropped.
pub async fn run(client: Client) {
    let selected = watcher::Config::default().labels(LABEL).streaming_lists();
    let mut nodes = pin!(watcher(Api::<Node>::all(client.clone()), selected).default_backoff());
    // Pods are followed only once there is a node to have some.
    let first = loop {
        match nodes.next().await {
            Some(Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node))) => break node,
            Some(_) => {}
            None => return,
        }
    };
    let mut agent = Agent::new(client.clone());
    agent.set_node(first);
    let placed = watcher::Config::default().fields("spec.nodeName!=").streaming_lists();
    let pods = pin!(watcher(Api::<Pod>::all(client), placed).default_backoff());
    agent.serve(nodes, pods).await;
}

struct Agent {
    client: Client,
    hosts: HashMap<String, Arc<Host>>,
    pods: Pods,
    leases: mpsc::UnboundedSender<Change>,
    writes: FuturesUnordered<tokio::task::JoinHandle<Done>>,
}

// === impl Agent ===

impl Agent {
    fn new(client: Client) -> Agent {
        let (leases, changes) = mpsc::unbounded_channel();
        tokio::spawn(leases::keep(client.clone(), changes));
        Agent {
            leases,
            client,
            hosts: HashMap::new(),
            pods: Pods::default(),
            writes: FuturesUnordered::new(),
        }
    }

    async fn serve(
        mut self,
        mut nodes: impl Stream<Item = watcher::Result<watcher::Event<Node>>> + Unpin,
        mut pods: impl Stream<Item = watcher::Result<watcher::Event<Pod>>> + Unpin,
    ) {
        loop {
            self.start_writes();
            let due = self.pods.next_due();
            tokio::select! {
                Some(event) = nodes.next() => self.node_event(event),
                Some(event) = pods.next() => self.pod_event(event),
                Some(done) = self.writes.next(), if !self.writes.is_empty() => {
                    // A write that panicked is lost; the next change of its pod plans anew.
                    if let Ok(done) = done {
                        self.pods.done(done);
                    }
                }
                () = sleep_until(due) => self.pods.wake_due(),
            }
        }
    }

    fn node_event(&mut self, event: watcher::Result<watcher::Event<Node>>) {
        match event {
            Ok(watcher::Event::Apply(node) | watcher::Event::InitApply(node)) => {
                self.set_node(node)
            }
            Ok(watcher::Event::Delete(node)) => {
                let name = node.metadata.name.unwrap_or_default();
                self.hosts.remove(&name);
                let _ = self.leases.send(Change::Left(name));
            }
            Ok(watcher::Event::Init | watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!(%error, "watch of simulated nodes broke, will resume"),
        }
    }

    fn set_node(&mut self, node: Node) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if !ready(&node) {
            self.report_ready(&name);
        }
        if self.hosts.contains_key(&name) {
            return;
        }
        let status = node.status.as_ref();
        let mut addresses =
            status.and_then(|status| status.addresses.as_ref()).into_iter().flatten();
        let address = addresses.find(|address| address.type_ == "InternalIP");
        let address = address.map(|address| address.address.clone()).unwrap_or_default();
        self.hosts.insert(name.clone(), Arc::new(Host { address }));
        // Whoever renews leases lives as long as this sender.
        let _ = self.leases.send(Change::Came(Box::new(node)));
        self.pods.node_came(&name, &self.hosts);
    }

    fn pod_event(&mut self, event: watcher::Result<watcher::Event<Pod>>) {
        match event {
            Ok(watcher::Event::Apply(pod) | watcher::Event::InitApply(pod)) => {
                self.pods.set(pod, &self.hosts);
            }
            Ok(watcher::Event::Delete(pod)) => self.pods.remove(&pod),
            Ok(watcher::Event::Init) => self.pods.listed_anew(),
            Ok(watcher::Event::InitDone) => {}
            Err(error) => tracing::debug!(%error, "watch of simulated pods broke, will resume"),
        }
    }

    fn start_writes(&mut self) {
        while self.writes.len() < WRITES_AT_A_TIME {
            let Some(write) = self.pods.next_write(&self.hosts) else { return };
            self.writes.push(tokio::spawn(write.run(self.client.clone())));
        }
    }

    /// While the server was down the node seemed to be, too.
    fn report_ready(&self, name: &str) {
        let (api, name) = (Api::<Node>::all(self.client.clone()), name.to_owned());
        tokio::spawn(async move {
            let patch = Patch::Strategic(json!({"status": {"conditions": [ready_condition()]}}));
            if let Err(error) = api.patch_status(&name, &PatchParams::default(), &patch).await {
                tracing::debug!(node = name, %error, "status was not written");
            }
        });
    }
}

async fn sleep_until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// What a simulated node says of itself from its first moment on.
pub fn ready_condition() -> serde_json::Value {
    let now = seconds(Timestamp::now());
    json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady",
        "message": "simulated node is ready", "lastHeartbeatTime": now, "lastTransitionTime": now,
    })
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
