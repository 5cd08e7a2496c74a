//! What pods use of what may be short.
//!
//! Consumes the runtime's counters and the files of pods, emits [`PodUsage`]. Counterpart: what eviction takes of
//! `stats.Summary`.
//! Invariant: only looked at when somebody has to be chosen or a limit is to be kept: walking directories is dear.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use skiff_runtime::{ContainerStats, disk_usage};

use crate::{config::KubeletConfig, context::NodeContext, pod::desired::PodKey, volume};

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Disk {
    pub bytes: u64,
    pub inodes: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerUsage {
    pub name: String,
    pub memory: u64,
    pub rootfs: Disk,
    pub logs: Disk,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodUsage {
    pub memory: u64,
    pub processes: u64,
    pub containers: Vec<ContainerUsage>,
    /// Volumes that live on the node's disk, by name.
    pub volumes: Vec<(String, Disk)>,
}

// === impl Disk ===

impl Disk {
    fn below(dir: &Path) -> Self {
        let (bytes, inodes) = disk_usage(dir);
        Disk { bytes, inodes }
    }
}

impl std::iter::Sum for Disk {
    fn sum<I: Iterator<Item = Disk>>(all: I) -> Disk {
        all.fold(Disk::default(), |sum, one| Disk {
            bytes: sum.bytes + one.bytes,
            inodes: sum.inodes + one.inodes,
        })
    }
}

// === impl PodUsage ===

impl PodUsage {
    pub fn rootfs(&self) -> Disk {
        self.containers.iter().map(|c| c.rootfs).sum()
    }

    /// Logs and volumes, which are on the node's own disk even where images have another.
    pub fn node_disk(&self) -> Disk {
        let logs = self.containers.iter().map(|c| c.logs);
        logs.chain(self.volumes.iter().map(|(_, disk)| *disk)).sum()
    }
}

/// Of several pods at once; `stats` are those of all containers, and pods without any are given as they are.
pub async fn of_pods(
    ctx: &NodeContext,
    pods: &[Arc<Pod>],
    stats: Vec<(String, ContainerStats)>,
) -> Vec<PodUsage> {
    let config = ctx.config.clone();
    let pods = pods.to_vec();
    let walk = tokio::task::spawn_blocking(move || {
        let of = |pod: &Arc<Pod>| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            let own = stats.iter().filter(|(of, _)| of == uid).map(|(_, stats)| stats);
            of_pod(&config, pod, own)
        };
        pods.iter().map(of).collect()
    });
    walk.await.expect("walking directories does not panic")
}

fn of_pod<'a>(
    config: &KubeletConfig,
    pod: &Pod,
    stats: impl Iterator<Item = &'a ContainerStats>,
) -> PodUsage {
    let key = PodKey::of(pod);
    let logs = config.pod_log_dir(&key.namespace, &key.name, &key.uid);
    let volumes = config.pod_dir(&key.uid);
    let mut usage = PodUsage {
        volumes: local_volumes(pod, &volumes)
            .map(|(name, dir)| (name, Disk::below(&dir)))
            .collect(),
        ..PodUsage::default()
    };
    for stats in stats {
        let name = stats.metadata.name.clone();
        usage.memory += stats.memory_working_set_bytes;
        usage.processes += stats.pids;
        usage.containers.push(ContainerUsage {
            memory: stats.memory_working_set_bytes,
            rootfs: Disk { bytes: stats.rootfs_used_bytes, inodes: stats.rootfs_inodes_used },
            logs: Disk::below(&logs.join(&name)),
            name,
        });
    }
    usage
}

fn local_volumes<'a>(
    pod: &'a Pod,
    dir: &'a Path,
) -> impl Iterator<Item = (String, PathBuf)> + use<'a> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter(|volume| is_on_disk(volume))
        .filter_map(move |volume| Some((volume.name.clone(), volume::dir_of(dir, volume)?)))
}

/// Counterpart: `IsLocalEphemeralVolume`. What is in memory is counted as memory.
fn is_on_disk(volume: &Volume) -> bool {
    let on_disk = |medium: Option<&str>| medium.unwrap_or_default() != "Memory";
    volume.empty_dir.as_ref().is_some_and(|dir| on_disk(dir.medium.as_deref()))
        || volume.config_map.is_some()
        || volume.downward_api.is_some()
}
