//! LimitPodHardAntiAffinityTopology, ExtendedResourceToleration and PodNodeSelector: where pods may ask to run.
//!
//! Counterparts: `plugin/pkg/admission/{antiaffinity,extendedresourcetoleration,podnodeselector}`. Off unless asked for. Differs from
//! upstream: PodNodeSelector reads the namespace's annotation only, as there is no configuration file for a cluster-wide default.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde_json::{Value, json};
use skiff_api::Status;
use skiff_api::meta::meta;

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct ExtendedResourceToleration;
pub struct LimitPodHardAntiAffinityTopology;
pub struct PodNodeSelector;

const HOSTNAME: &str = "kubernetes.io/hostname";
const NODE_SELECTOR: &str = "scheduler.alpha.kubernetes.io/node-selector";

fn writes_pod(request: &Request<'_>) -> bool {
    matches!(request.operation, Operation::Create | Operation::Update) && request.is("", "pods")
}

#[async_trait]
impl Plugin for LimitPodHardAntiAffinityTopology {
    fn name(&self) -> &'static str {
        "LimitPodHardAntiAffinityTopology"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        writes_pod(request)
    }

    async fn validate(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let terms = pod.pointer(
            "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
        );
        let terms = terms.and_then(Value::as_array).into_iter().flatten();
        let mut keys = terms.filter_map(|term| term["topologyKey"].as_str());
        let refused = keys.find(|key| *key != HOSTNAME).map(|key| {
            let why = format!(
                "affinity.PodAntiAffinity.RequiredDuringScheduling has TopologyKey {key} but only key {HOSTNAME} is allowed"
            );
            request.forbidden(pod, &why)
        });
        refused.map_or(Ok(()), Err)
    }
}

#[async_trait]
impl Plugin for ExtendedResourceToleration {
    fn name(&self) -> &'static str {
        "ExtendedResourceToleration"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        writes_pod(request)
    }

    async fn mutate(&self, _: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let missing: Vec<Value> = extended_resources(pod)
            .into_iter()
            .map(|key| json!({ "key": key, "operator": "Exists", "effect": "NoSchedule" }))
            .filter(|wanted| {
                let have = pod["spec"]["tolerations"].as_array();
                !have.is_some_and(|have| have.contains(wanted))
            })
            .collect();
        if !missing.is_empty() {
            let have = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
            pod["spec"]["tolerations"] = have.into_iter().chain(missing).collect();
        }
        Ok(())
    }
}

/// What containers ask of devices that are neither Kubernetes' own nor hidden behind a request prefix.
fn extended_resources(pod: &Value) -> BTreeSet<String> {
    let lists = ["containers", "initContainers"].into_iter();
    let containers = lists.flat_map(|list| pod["spec"][list].as_array().into_iter().flatten());
    let names = containers
        .filter_map(|container| container["resources"]["requests"].as_object())
        .flat_map(|requests| requests.keys());
    let extended = |name: &&String| {
        name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
    };
    names.filter(extended).cloned().collect()
}

#[async_trait]
impl Plugin for PodNodeSelector {
    fn name(&self) -> &'static str {
        "PodNodeSelector"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        request.creates("", "pods")
    }

    async fn mutate(&self, request: &Request<'_>, pod: &mut Value) -> Result<(), Status> {
        let namespace = objects::find(request.server, "namespaces", "", request.namespace);
        let Some(namespace) = namespace.await? else { return Ok(()) };
        let wanted = meta(&namespace).annotation(NODE_SELECTOR).unwrap_or("");
        for pair in wanted.split(',').filter(|pair| !pair.trim().is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (key.trim(), value.trim());
            if pod["spec"]["nodeSelector"].get(key).is_some_and(|own| own != value) {
                let why =
                    "pod node label selector conflicts with its namespace node label selector";
                return Err(request.forbidden(pod, why));
            }
            pod["spec"]["nodeSelector"][key] = value.into();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_devices_of_others_are_extended_resources() {
        let requests = json!({ "cpu": "1", "example.com/gpu": "1", "kubernetes.io/x": "1", "hugepages-2Mi": "1" });
        let pod = json!({ "spec": { "containers": [{ "resources": { "requests": requests } }] } });
        assert_eq!(extended_resources(&pod), BTreeSet::from(["example.com/gpu".to_owned()]));
    }
}
