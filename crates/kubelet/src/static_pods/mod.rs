//! Pods that this node runs by itself: manifests in a directory.
//!
//! Consumes files, emits the pods they describe, and keeps a mirror pod at the API server for each, so that others see
//! them. Counterpart: `pkg/kubelet/config/file.go` and `pkg/kubelet/pod/mirror_client.go`.
//! Invariant: running them needs no API server; what is done to a mirror pod has no effect on the pod it stands for.

pub mod directory;
mod manifest;
pub mod mirror;
pub mod workers;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::Pod;

/// Where a pod comes from; absent or `api` for those of the API server.
const SOURCE: &str = "kubernetes.io/config.source";
/// On a mirror pod: the hash of the pod it stands for.
const MIRROR: &str = "kubernetes.io/config.mirror";
/// On a static pod: what tells one content of its file from another; it is the uid too.
const HASH: &str = "kubernetes.io/config.hash";

/// Namespace and name: what a static pod and its mirror have in common.
pub type FullName = (String, String);
pub type Pods = BTreeMap<FullName, Arc<Pod>>;

pub fn full_name(pod: &Pod) -> FullName {
    let meta = &pod.metadata;
    (meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
}

pub fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api") && !is_mirror(pod)
}

/// A mirror pod is never run.
pub fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}
