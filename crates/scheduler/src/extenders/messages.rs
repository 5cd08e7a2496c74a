//! The objects that extenders are told of, read for them as the API server has them.
//!
//! The scheduler keeps no wire objects, so whoever configures extenders pays for reading a pod, and all nodes unless every
//! extender keeps its own picture of them (`nodeCacheCapable`).

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::core::Request;
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::wire::{Empty, MetaPod, Named, NodeList, PreemptionArgs, Victims};
use super::{ExtenderError, Result};
use crate::pod_info::PodInfo;
use crate::preemption::Candidate;

pub struct Objects {
    pub pod: Box<RawValue>,
    nodes: HashMap<String, Box<RawValue>>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Box<RawValue>>,
}

// === impl Objects ===

impl Objects {
    pub async fn read(api: &Client, pod: &PodInfo, with_nodes: bool) -> Result<Objects> {
        let mut nodes = HashMap::new();
        if with_nodes {
            let list: List = read(api, Node::url_path(&(), None), None).await?;
            for node in list.items {
                // Whatever has no name cannot be asked about.
                if let Ok(Named { metadata }) = serde_json::from_str(node.get()) {
                    nodes.insert(metadata.name, node);
                }
            }
        }
        Ok(Objects { pod: pod_of(api, pod).await?, nodes })
    }

    /// Those of the nodes that are still there.
    pub fn nodes(&self, names: &[String]) -> NodeList<'_> {
        let items = names.iter().filter_map(|name| self.nodes.get(name)).map(AsRef::as_ref);
        NodeList { metadata: Empty {}, items: items.collect() }
    }
}

async fn pod_of(api: &Client, pod: &PodInfo) -> Result<Box<RawValue>> {
    read(api, Pod::url_path(&(), Some(&pod.namespace)), Some(&pod.name)).await
}

async fn read<T: serde::de::DeserializeOwned>(
    api: &Client,
    path: String,
    name: Option<&str>,
) -> Result<T> {
    let request = Request::new(path);
    let request = match name {
        Some(name) => request.get(name, &Default::default()),
        None => request.list(&Default::default()),
    };
    let read = async {
        let text = api.request_text(request.map_err(kube::Error::BuildRequest)?).await?;
        serde_json::from_str(&text).map_err(kube::Error::SerdeError)
    };
    read.await.map_err(|error| ExtenderError::Objects(Box::new(error)))
}

/// All victims as the API server has them, by uid.
pub async fn victims(
    api: &Client,
    candidates: &[Candidate],
) -> Result<HashMap<String, Box<RawValue>>> {
    let mut pods = HashMap::new();
    for victim in candidates.iter().flat_map(|candidate| &candidate.victims) {
        pods.insert(victim.uid.clone(), pod_of(api, victim).await?);
    }
    Ok(pods)
}

pub fn whole_victims<'a>(
    pod: &'a RawValue,
    candidates: &'a [Candidate],
    pods: &'a HashMap<String, Box<RawValue>>,
) -> PreemptionArgs<'a> {
    let whole = |victim: &PodInfo| pods[&victim.uid].as_ref();
    PreemptionArgs {
        pod,
        node_name_to_victims: Some(by_node(candidates, whole)),
        node_name_to_meta_victims: None,
    }
}

pub fn victims_by_uid<'a>(pod: &'a RawValue, candidates: &'a [Candidate]) -> PreemptionArgs<'a> {
    let meta = |victim: &PodInfo| MetaPod { uid: victim.uid.clone() };
    PreemptionArgs {
        pod,
        node_name_to_victims: None,
        node_name_to_meta_victims: Some(by_node(candidates, meta)),
    }
}

fn by_node<T>(
    candidates: &[Candidate],
    shown: impl Fn(&PodInfo) -> T,
) -> BTreeMap<&str, Victims<T>> {
    let victims = |candidate: &Candidate| Victims {
        pods: candidate.victims.iter().map(|victim| shown(victim)).collect(),
        violations: candidate.violations,
    };
    candidates.iter().map(|candidate| (candidate.node.as_str(), victims(candidate))).collect()
}
