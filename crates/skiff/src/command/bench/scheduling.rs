//! From the first create of many pods until the last of them has a node.
//!
//! Pods go to simulated nodes only, so that what is measured is the control plane. They may ask to be spread over zones
//! and to keep away from each other, which is what makes scheduling dear.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::connection::{Error, Target};
use super::watch::Events;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Pods that are replicas of the same thing.
const PODS_PER_APP: usize = 50;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wishes {
    None,
    /// Over zones, and away from their siblings on the same node.
    SpreadAndAffinity,
}

pub struct Scheduled {
    pub pods: usize,
    /// Until the last was created, and until the last had a node.
    pub created: Duration,
    pub bound: Duration,
}

pub async fn run(
    target: &Target,
    namespace: &str,
    pods: usize,
    clients: usize,
    wishes: Wishes,
) -> Result<Scheduled> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut events = Events::open(target, &format!("{path}?watch=1&resourceVersion=0")).await?;
    let began = Instant::now();
    let path: Arc<str> = path.into();
    let creating = tokio::spawn(create(target.clone(), path.clone(), pods, clients, wishes));
    let mut bound = 0;
    let mut last = began;
    while bound < pods {
        last = events.until(has_just_got_a_node).await?;
        bound += 1;
    }
    let created = creating.await?? - began;
    let scheduled = Scheduled { pods, created, bound: last - began };
    target
        .connect()
        .await?
        .ask(Method::DELETE, &format!("{path}?gracePeriodSeconds=0"), "")
        .await?;
    Ok(scheduled)
}

/// A pod is seen with a node many times; while it is still pending with no address it was just bound.
fn has_just_got_a_node(event: &Value) -> bool {
    let of = |pointer: &str| event.pointer(pointer);
    let has_node = of("/object/spec/nodeName").is_some();
    has_node
        && of("/object/status/podIP").is_none()
        && of("/object/metadata/deletionTimestamp").is_none()
}

async fn create(
    target: Target,
    path: Arc<str>,
    pods: usize,
    clients: usize,
    wishes: Wishes,
) -> std::result::Result<Instant, Error> {
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let (mut connection, next, path) = (target.connect().await?, next.clone(), path.clone());
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= pods {
                    return Ok::<_, Error>(());
                }
                connection.ask(Method::POST, &path, pod(number, wishes).to_string()).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("no client panics")?;
    }
    Ok(Instant::now())
}

fn pod(number: usize, wishes: Wishes) -> Value {
    let app = format!("app-{}", number / PODS_PER_APP);
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": format!("scheduled-{number}"), "labels": { "app": app } },
        "spec": {
            "nodeSelector": { skiff_kubelet::simulated::LABEL: "true" },
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "c", "image": "none",
                "resources": { "requests": { "cpu": "10m", "memory": "16Mi" } },
            }],
        },
    });
    if wishes == Wishes::SpreadAndAffinity {
        let siblings = json!({ "matchLabels": { "app": app } });
        pod["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": siblings,
        }]);
        pod["spec"]["affinity"] = json!({ "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [{
                "topologyKey": "kubernetes.io/hostname", "labelSelector": siblings,
            }],
        }});
    }
    pod
}
