//! The nodes' statistics, read through the API server and kept for a while.
//!
//! Node -> `/stats/summary` -> what the node and each container use. Counterpart: metrics-server's scraper and storage.
//! Invariant: a node is asked at most once in `FRESH`, so that its rates are taken over a time worth the name.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Deserialize;

const FRESH: SignedDuration = SignedDuration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// What a node said, and over which time its rates are.
#[derive(Clone, Debug)]
pub struct Scrape {
    pub at: Timestamp,
    before: Option<Timestamp>,
    pub node: Usage,
    node_start: Timestamp,
    pods: Vec<PodStats>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub nano_cores: u64,
    pub working_set: u64,
}

/// One pod's containers at a moment.
#[derive(Clone, Debug, PartialEq)]
pub struct PodUsage {
    pub at: Timestamp,
    pub window: SignedDuration,
    pub containers: Vec<(String, Usage)>,
}

#[derive(Clone, Debug, Deserialize)]
struct Summary {
    node: NodeStats,
    #[serde(default)]
    pods: Vec<PodStats>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NodeStats {
    start_time: Timestamp,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodStats {
    pod_ref: PodRef,
    start_time: Timestamp,
    #[serde(default)]
    containers: Vec<ContainerStats>,
}

#[derive(Clone, Debug, Deserialize)]
struct PodRef {
    uid: String,
}

#[derive(Clone, Debug, Deserialize)]
struct ContainerStats {
    name: String,
    cpu: Cpu,
    memory: Memory,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Cpu {
    usage_nano_cores: u64,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Memory {
    working_set_bytes: u64,
}

pub struct Scraper {
    client: Client,
    known: Mutex<HashMap<String, Arc<Scrape>>>,
    /// One reading at a time: two readers of one node would halve each other's windows.
    reading: tokio::sync::Mutex<()>,
}

// === impl Scraper ===

impl Scraper {
    pub fn new(client: Client) -> Scraper {
        Scraper { client, known: Mutex::default(), reading: tokio::sync::Mutex::default() }
    }

    pub async fn nodes(&self, selector: &str) -> kube::Result<Vec<Node>> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        Ok(nodes.list(&ListParams::default().labels(selector)).await?.items)
    }

    pub async fn pods(&self, namespace: Option<&str>, selector: &str) -> kube::Result<Vec<Pod>> {
        let pods: Api<Pod> = match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        Ok(pods.list(&ListParams::default().labels(selector)).await?.items)
    }

    /// What these nodes use; those that do not answer are missing.
    pub async fn usage(
        &self,
        nodes: impl IntoIterator<Item = String>,
    ) -> HashMap<String, Arc<Scrape>> {
        let _one_at_a_time = self.reading.lock().await;
        let asked = nodes.into_iter().map(|node| async move {
            let scrape = self.of_node(&node).await;
            if scrape.is_none() {
                tracing::debug!(node, "no statistics");
            }
            Some((node, scrape?))
        });
        futures::future::join_all(asked).await.into_iter().flatten().collect()
    }

    async fn of_node(&self, node: &str) -> Option<Arc<Scrape>> {
        let now = Timestamp::now();
        let before = self.known.lock().expect("no holder panics").get(node).cloned();
        if let Some(known) = before.as_ref().filter(|known| now.duration_since(known.at) < FRESH) {
            return Some(known.clone());
        }
        let path = format!("/api/v1/nodes/{node}/proxy/stats/summary");
        let request = http::Request::get(path).body(Vec::new()).ok()?;
        let summary = self.client.request::<Summary>(request);
        let summary = tokio::time::timeout(PATIENCE, summary).await.ok()?.ok()?;
        let scrape = Arc::new(Scrape::new(summary, now, before.map(|before| before.at)));
        self.known.lock().expect("no holder panics").insert(node.to_owned(), scrape.clone());
        Some(scrape)
    }
}

// === impl Scrape ===

impl Scrape {
    fn new(summary: Summary, at: Timestamp, before: Option<Timestamp>) -> Scrape {
        let Summary { node, pods } = summary;
        let usage = Usage {
            nano_cores: node.cpu.usage_nano_cores,
            working_set: node.memory.working_set_bytes,
        };
        Scrape { at, before, node: usage, node_start: node.start_time, pods }
    }

    /// The time that the node's rates are taken over.
    pub fn window(&self) -> SignedDuration {
        self.since(self.node_start)
    }

    pub fn pod(&self, uid: &str) -> Option<PodUsage> {
        let pod = self.pods.iter().find(|pod| pod.pod_ref.uid == uid)?;
        let containers = pod.containers.iter().map(|container| {
            let usage = Usage {
                nano_cores: container.cpu.usage_nano_cores,
                working_set: container.memory.working_set_bytes,
            };
            (container.name.clone(), usage)
        });
        let window = self.since(pod.start_time);
        Some(PodUsage { at: self.at, window, containers: containers.collect() })
    }

    /// Rates go back to the reading before, or to the start of what came later.
    fn since(&self, start: Timestamp) -> SignedDuration {
        let from = self.before.map_or(start, |before| before.max(start));
        self.at.duration_since(from).max(SignedDuration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rates_are_over_the_time_since_the_last_reading_or_the_start() {
        let start: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let cpu = json!({"usageNanoCores": 5});
        let memory = json!({"workingSetBytes": 7});
        let summary = json!({
            "node": {"startTime": start, "cpu": cpu, "memory": memory},
            "pods": [{"podRef": {"uid": "u"}, "startTime": start + SignedDuration::from_secs(50),
                "containers": [{"name": "c", "cpu": cpu, "memory": memory}]}]});
        let summary: Summary = serde_json::from_value(summary).unwrap();
        let at = start + SignedDuration::from_secs(60);
        let first = Scrape::new(summary.clone(), at, None);
        assert_eq!((first.window().as_secs(), first.pod("u").unwrap().window.as_secs()), (60, 10));
        let next = Scrape::new(summary, at, Some(start + SignedDuration::from_secs(40)));
        assert_eq!((next.window().as_secs(), next.pod("u").unwrap().window.as_secs()), (20, 10));
        let usage = Usage { nano_cores: 5, working_set: 7 };
        assert_eq!(next.pod("u").unwrap().containers, [("c".to_owned(), usage)]);
        assert_eq!(next.pod("other"), None);
    }
}
