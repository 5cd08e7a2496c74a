//! Which pod has which devices, for agents beside the node: `pod-resources/kubelet.sock`.
//!
//! The node's pods and the [`DeviceManager`](super::DeviceManager) -> `List`, `Get`, `GetAllocatableResources`. Counterpart:
//! `pkg/kubelet/apis/podresources` (v1). Differs from upstream: no processors or memory are told of, since none are given exclusively,
//! and the older v1alpha1 is not served.
//! Invariant: reads only; pods that have ended have nothing.

use std::{io, path::Path, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod};
use prost::Message;
use skiff_grpc::{Code, Router, Status};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use super::{
    inventory::Inventory,
    messages::{NumaNode, TopologyInfo},
};
use crate::{context::NodeContext, pod::manager::PodIndex};

const SERVICE: &str = "/v1.PodResourcesLister";

#[derive(Clone, PartialEq, Message)]
struct GetRequest {
    #[prost(string, tag = "1")]
    pod_name: String,
    #[prost(string, tag = "2")]
    pod_namespace: String,
}

/// `ListPodResourcesResponse`, and `GetPodResourcesResponse`, which has one.
#[derive(Clone, PartialEq, Message)]
struct Pods {
    #[prost(message, repeated, tag = "1")]
    pods: Vec<PodResources>,
}

#[derive(Clone, PartialEq, Message)]
struct PodResources {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(message, repeated, tag = "3")]
    containers: Vec<ContainerResources>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerResources {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    devices: Vec<ContainerDevices>,
}

#[derive(Clone, PartialEq, Message)]
struct ContainerDevices {
    #[prost(string, tag = "1")]
    resource_name: String,
    #[prost(string, repeated, tag = "2")]
    device_ids: Vec<String>,
    #[prost(message, optional, tag = "3")]
    topology: Option<TopologyInfo>,
}

#[derive(Clone, PartialEq, Message)]
struct Allocatable {
    #[prost(message, repeated, tag = "1")]
    devices: Vec<ContainerDevices>,
}

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>, index: PodIndex) {
    let dir = ctx.config.root_dir.join("pod-resources");
    match listen(&dir) {
        Ok(listener) => router(ctx, index).serve(listener, CancellationToken::new()).await,
        Err(error) => tracing::warn!(dir = %dir.display(), %error, "pod resources are not served"),
    }
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(dir)?;
    let socket = dir.join("kubelet.sock");
    match std::fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

fn router(ctx: Arc<NodeContext>, index: PodIndex) -> Router {
    let (listing, getting) = ((ctx.clone(), index.clone()), (ctx.clone(), index));
    Router::default()
        .unary(format!("{SERVICE}/List"), move |()| {
            let (ctx, index) = &listing;
            std::future::ready(Ok(Pods { pods: of_node(ctx, &pods(index)) }))
        })
        .unary(format!("{SERVICE}/Get"), move |request: GetRequest| {
            let (ctx, index) = &getting;
            std::future::ready(get(ctx, &pods(index), &request))
        })
        .unary(format!("{SERVICE}/GetAllocatableResources"), move |()| {
            std::future::ready(Ok(Allocatable { devices: ctx.devices.look(allocatable) }))
        })
}

fn pods(index: &PodIndex) -> Vec<Arc<Pod>> {
    let mut pods: Vec<Arc<Pod>> =
        index.read().expect("no writer panics").values().cloned().collect();
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.clone());
    pods.retain(|pod| !matches!(phase(pod).as_deref(), Some("Succeeded" | "Failed")));
    pods
}

fn of_node(ctx: &NodeContext, pods: &[Arc<Pod>]) -> Vec<PodResources> {
    ctx.devices.look(|inventory| pods.iter().map(|pod| of_pod(inventory, pod)).collect())
}

fn get(ctx: &NodeContext, pods: &[Arc<Pod>], request: &GetRequest) -> Result<Pods, Status> {
    let GetRequest { pod_name, pod_namespace } = request;
    let found = pods.iter().find(|pod| {
        pod.metadata.name.as_ref() == Some(pod_name)
            && pod.metadata.namespace.as_ref() == Some(pod_namespace)
    });
    let missing = || {
        let why = format!("pod {pod_name} in namespace {pod_namespace} not found");
        Status::new(Code::Unknown, why)
    };
    let found = found.ok_or_else(missing)?;
    Ok(Pods { pods: of_node(ctx, std::slice::from_ref(found)) })
}

/// Sidecars and containers; what an init container had has been handed on.
fn of_pod(inventory: &Inventory, pod: &Pod) -> PodResources {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref().expect("a pod bound to a node has a spec");
    let init = spec.init_containers.iter().flatten();
    let sidecars = init.filter(|it| it.restart_policy.as_deref() == Some("Always"));
    PodResources {
        name: pod.metadata.name.clone().unwrap_or_default(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        containers: sidecars
            .chain(&spec.containers)
            .map(|container| of_container(inventory, uid, container))
            .collect(),
    }
}

fn of_container(inventory: &Inventory, uid: &str, container: &Container) -> ContainerResources {
    let has = inventory.pods.get(uid).and_then(|pod| pod.get(&container.name));
    let devices = has.into_iter().flatten().flat_map(|(resource, allocated)| {
        allocated.all().into_iter().map(move |id| {
            let at = allocated.ids.iter().filter(|(_, ids)| ids.contains(&id));
            let nodes: Vec<i64> = at.map(|(node, _)| *node).filter(|node| *node >= 0).collect();
            device(resource, id, nodes)
        })
    });
    ContainerResources { name: container.name.clone(), devices: devices.collect() }
}

fn allocatable(inventory: &Inventory) -> Vec<ContainerDevices> {
    let of = |(name, resource): (&String, &super::inventory::Resource)| {
        let healthy = resource.healthy().into_iter().map(|id| {
            let topology = resource.devices.get(&id).and_then(|device| device.topology.clone());
            let nodes = topology.map(|it| it.nodes.iter().map(|node| node.id).collect());
            device(name, id, nodes.unwrap_or_default())
        });
        healthy.collect::<Vec<_>>()
    };
    inventory.resources.iter().flat_map(of).collect()
}

fn device(resource: &str, id: String, nodes: Vec<i64>) -> ContainerDevices {
    let nodes: Vec<NumaNode> = nodes.into_iter().map(|id| NumaNode { id }).collect();
    ContainerDevices {
        resource_name: resource.to_owned(),
        device_ids: vec![id],
        topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::device_plugin::{inventory::Wish, messages::ContainerAllocateResponse};

    #[test]
    fn a_pod_has_the_devices_of_its_containers_but_not_those_handed_on() {
        let pod = json!({ "metadata": { "name": "web", "namespace": "ns", "uid": "u" }, "spec": {
            "initContainers": [{ "name": "first" }, { "name": "beside", "restartPolicy": "Always" }],
            "containers": [{ "name": "app" }] } });
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let mut inventory = Inventory::default();
        for container in ["first", "app"] {
            let wish = Wish { uid: "u", container, resource: "example.com/dongle", count: 1 };
            inventory.give(wish, ["a".to_owned()].into(), ContainerAllocateResponse::default());
        }
        let told = of_pod(&inventory, &pod);
        let names: Vec<&str> = told.containers.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["beside", "app"]);
        assert!(told.containers[0].devices.is_empty());
        let devices = &told.containers[1].devices;
        assert_eq!(devices[0], device("example.com/dongle", "a".into(), Vec::new()));
    }
}
