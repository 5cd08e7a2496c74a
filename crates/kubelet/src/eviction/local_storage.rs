//! Limits of what a pod may write to the node's disk.
//!
//! Consumes a pod and what it uses, emits the [`Violation`] it is evicted for if it uses more than it may. Counterpart:
//! `localStorageEviction` of `pkg/kubelet/eviction/eviction_manager.go`; messages are upstream's.
//! Invariant: pure; a volume's limit is told before the pod's, the pod's before a container's.

use k8s_openapi::{
    api::core::v1::{Container, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use skiff_api::{quantity::Quantity as Amount, scheduling::resources::value};

use super::usage::PodUsage;

const RESOURCE: &str = "ephemeral-storage";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// As the metric of evictions names it.
    pub signal: &'static str,
    pub message: String,
}

/// Whether there is a limit to keep at all.
pub fn is_limited(spec: &PodSpec) -> bool {
    emptydir_limits(spec).next().is_some() || containers(spec).any(|c| limit(c).is_some())
}

/// What the pod is to be evicted for.
pub fn violation(spec: &PodSpec, usage: &PodUsage, dedicated_image_fs: bool) -> Option<Violation> {
    let of = |signal, message: Option<String>| message.map(|message| Violation { signal, message });
    of("emptydirfs.limit", volume_beyond(spec, usage))
        .or_else(|| of("ephemeralpodfs.limit", pod_beyond(spec, usage)))
        .or_else(|| {
            of("ephemeralcontainerfs.limit", container_beyond(spec, usage, dedicated_image_fs))
        })
}

fn volume_beyond(spec: &PodSpec, usage: &PodUsage) -> Option<String> {
    let used = |name: &str| usage.volumes.iter().find(|(n, _)| n == name).map(|(_, d)| d.bytes);
    let (name, limit) = emptydir_limits(spec)
        .find(|(name, limit)| used(name).is_some_and(|used| used > bytes(limit)))?;
    Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.0))
}

/// The pod's limit is the sum of what its containers may use; one without a limit leaves the sum to the others.
fn pod_beyond(spec: &PodSpec, usage: &PodUsage) -> Option<String> {
    let limit = pod_limit(spec)?;
    let used = usage.rootfs().bytes + usage.node_disk().bytes;
    (used > bytes_of(limit)).then(|| {
        format!("Pod ephemeral local storage usage exceeds the total limit of containers {limit}. ")
    })
}

fn container_beyond(spec: &PodSpec, usage: &PodUsage, dedicated_image_fs: bool) -> Option<String> {
    usage.containers.iter().find_map(|used| {
        let container = spec.containers.iter().find(|c| c.name == used.name)?;
        let limit = limit(container).filter(|limit| bytes(limit) > 0)?;
        let rootfs = if dedicated_image_fs { 0 } else { used.rootfs.bytes };
        (used.logs.bytes + rootfs > bytes(limit)).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                used.name, limit.0
            )
        })
    })
}

/// Volumes in memory have their limit from the kernel.
fn emptydir_limits(spec: &PodSpec) -> impl Iterator<Item = (&str, &Quantity)> {
    let volumes = spec.volumes.iter().flatten();
    volumes.filter_map(|volume| {
        let dir =
            volume.empty_dir.as_ref().filter(|dir| dir.medium.as_deref() != Some("Memory"))?;
        let limit = dir.size_limit.as_ref().filter(|limit| bytes(limit) > 0)?;
        Some((volume.name.as_str(), limit))
    })
}

/// Regular containers and sidecars run side by side, an init container beside the sidecars before it.
fn pod_limit(spec: &PodSpec) -> Option<Amount> {
    containers(spec).find_map(limit)?;
    let of =
        |c: &Container| limit(c).and_then(|l| l.0.parse().ok()).unwrap_or(Amount::from_bytes(0));
    let (mut sidecars, mut starting) = (Amount::from_bytes(0), Amount::from_bytes(0));
    for container in spec.init_containers.iter().flatten() {
        let alone = sidecars + of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars = alone;
        }
        starting = starting.max(alone);
    }
    let together = spec.containers.iter().map(of).fold(sidecars, |sum, one| sum + one);
    Some(together.max(starting))
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.containers.iter().chain(spec.init_containers.iter().flatten())
}

fn limit(container: &Container) -> Option<&Quantity> {
    let ResourceRequirements { limits, .. } = container.resources.as_ref()?;
    limits.as_ref()?.get(RESOURCE)
}

fn bytes(quantity: &Quantity) -> u64 {
    value(quantity).and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0)
}

fn bytes_of(amount: Amount) -> u64 {
    u64::try_from(amount.units()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::eviction::usage::{ContainerUsage, Disk};

    const TABLE: &str = include_str!("local_storage_table.yaml");
    const MIB: u64 = 1 << 20;

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Case {
        name: String,
        spec: PodSpec,
        /// Mebibytes by volume.
        #[serde(default)]
        volumes: std::collections::BTreeMap<String, u64>,
        /// Mebibytes by container: root file system and logs.
        #[serde(default)]
        containers: std::collections::BTreeMap<String, (u64, u64)>,
        #[serde(default)]
        dedicated_image_fs: bool,
        evicted: Option<String>,
        /// What counts it.
        signal: Option<String>,
    }

    fn disk(mebibytes: u64) -> Disk {
        Disk { bytes: mebibytes * MIB, inodes: 1 }
    }

    #[test]
    fn table() {
        let cases: Vec<Case> = serde_saphyr::from_str(TABLE).expect("the table parses");
        for case in cases {
            let containers = case.containers.into_iter().map(|(name, (rootfs, logs))| {
                let (rootfs, logs) = (disk(rootfs), disk(logs));
                ContainerUsage { name, rootfs, logs, ..Default::default() }
            });
            let usage = PodUsage {
                containers: containers.collect(),
                volumes: case.volumes.into_iter().map(|(name, used)| (name, disk(used))).collect(),
                ..Default::default()
            };
            let told = violation(&case.spec, &usage, case.dedicated_image_fs);
            let told = told.map(|found| (found.signal.to_owned(), found.message));
            let expected = case.evicted.map(|message| (case.signal.unwrap_or_default(), message));
            assert_eq!(told, expected, "{}", case.name);
            assert!(told.is_none() || is_limited(&case.spec), "it is looked at: {}", case.name);
        }
    }
}
