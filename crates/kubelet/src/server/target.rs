//! Which pod and container a path names.

use std::sync::Arc;

use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;

use super::{Refusal, Server};
use crate::pod::desired::DesiredPod;

pub struct PodTarget {
    pub uid: String,
    pub pod: Arc<Pod>,
}

pub struct ContainerTarget {
    pub pod: DesiredPod,
    pub container: String,
}

pub fn pod(
    server: &Server,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<PodTarget, Refusal> {
    let index = server.index.read().expect("no writer panics");
    let is_it = |p: &&Arc<Pod>| {
        let meta = &p.metadata;
        meta.namespace.as_deref() == Some(namespace)
            && meta.name.as_deref() == Some(name)
            && uid.is_none_or(|uid| meta.uid.as_deref() == Some(uid))
    };
    let found = index.values().find(is_it).cloned();
    let found = found.ok_or_else(|| {
        Refusal::new(StatusCode::NOT_FOUND, format!("pod {name:?} does not exist"))
    })?;
    Ok(PodTarget { uid: found.metadata.uid.clone().unwrap_or_default(), pod: found })
}

pub fn container(
    server: &Server,
    namespace: &str,
    pod_name: &str,
    uid: Option<&str>,
    name: &str,
) -> Result<ContainerTarget, Refusal> {
    let pod = DesiredPod::new(pod(server, namespace, pod_name, uid)?.pod);
    if pod.container(name).is_none() {
        let message = format!("container {name:?} not found in pod {pod_name:?}");
        return Err(Refusal::new(StatusCode::NOT_FOUND, message));
    }
    Ok(ContainerTarget { pod, container: name.to_owned() })
}
