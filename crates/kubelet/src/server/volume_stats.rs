//! How full the volumes of pods are, for `/stats/summary` and `/metrics`.
//!
//! A pod and its containers -> [`VolumeUse`] of each volume: what its driver says, else what its file system and its files say.
//! Counterpart: `pkg/kubelet/server/stats/volume_stat_calculator.go`. Differs from upstream: counted when somebody asks rather
//! than every minute, and paths of the host that pods name themselves are not walked.
//! Invariant: a volume that cannot be counted is left out, and never keeps the others waiting.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use k8s_openapi::api::core::v1::{Pod, Volume};
use serde_json::{Value, json};
use skiff_runtime::{ContainerStatus, disk_usage};

use crate::{
    context::NodeContext,
    csi::{UsageUnit, VolumeStats},
    volume::{self, csi::stats::DriverStats},
};

const PATIENCE: Duration = Duration::from_secs(5);

/// Of one volume.
#[derive(Debug, Default, PartialEq)]
pub struct VolumeUse {
    pub name: String,
    /// In the pod's namespace.
    pub claim: Option<String>,
    pub bytes: Option<Amounts>,
    pub inodes: Option<Amounts>,
    pub abnormal: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Amounts {
    pub total: u64,
    pub free: u64,
    pub used: u64,
}

/// Something to walk, or only to ask its file system about.
struct Local {
    volume: String,
    claim: Option<String>,
    path: PathBuf,
}

/// Of all volumes of a pod, whose running containers are given.
pub async fn of_pod(
    ctx: &NodeContext,
    pod: &Pod,
    containers: &[&ContainerStatus],
) -> Vec<VolumeUse> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let pod_dir = ctx.config.pod_dir(uid);
    let volumes = || pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let (by_driver, mut local) = (volume::csi::stats::of_pod(ctx, uid), Vec::new());
    let by_driver = by_driver.await;
    for volume in volumes() {
        if by_driver.iter().any(|found| found.volume == volume.name) {
            continue;
        }
        let claim = claim_of(pod, volume);
        let path = match &claim {
            Some(_) => mounted_at(pod, volume, containers),
            None => has_files(volume).then(|| volume::dir_of(&pod_dir, volume)).flatten(),
        };
        local.extend(path.map(|path| Local { volume: volume.name.clone(), claim, path }));
    }
    let walk = tokio::task::spawn_blocking(move || local.iter().filter_map(count).collect());
    // A file system whose server does not answer does not answer either.
    let walked = tokio::time::timeout(PATIENCE, walk).await;
    let mut found: Vec<VolumeUse> = walked.ok().and_then(Result::ok).unwrap_or_default();
    found.extend(by_driver.into_iter().map(of_driver));
    found
}

fn claim_of(pod: &Pod, volume: &Volume) -> Option<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{name}-{}", volume.name)))
}

/// Volumes that this agent fills or the pod does, below the pod's own directory.
fn has_files(volume: &Volume) -> bool {
    volume.empty_dir.is_some()
        || volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Where on the host a volume is that some container has as a whole.
fn mounted_at(pod: &Pod, volume: &Volume, containers: &[&ContainerStatus]) -> Option<PathBuf> {
    let spec = pod.spec.as_ref()?;
    spec.containers.iter().find_map(|container| {
        let mounts = container.volume_mounts.iter().flatten();
        let mount = mounts.into_iter().find(|mount| {
            mount.name == volume.name && mount.sub_path.is_none() && mount.sub_path_expr.is_none()
        })?;
        let status = containers.iter().find(|status| status.metadata.name == container.name)?;
        let found =
            status.mounts.iter().find(|m| m.container_path == Path::new(&mount.mount_path))?;
        Some(found.host_path.clone())
    })
}

/// A claim's volume is its file system; what is in a directory among others is counted.
fn count(local: &Local) -> Option<VolumeUse> {
    let fs = nix::sys::statvfs::statvfs(&local.path).ok()?;
    let size = fs.fragment_size();
    let (total, free) = (fs.blocks() * size, fs.blocks_available() * size);
    let mut bytes = Amounts { total, free, used: (fs.blocks() - fs.blocks_free()) * size };
    let (total, free) = (fs.files(), fs.files_free());
    let mut inodes = Amounts { total, free, used: total.saturating_sub(free) };
    if local.claim.is_none() {
        (bytes.used, inodes.used) = disk_usage(&local.path);
    }
    Some(VolumeUse {
        name: local.volume.clone(),
        claim: local.claim.clone(),
        bytes: Some(bytes),
        inodes: Some(inodes),
        abnormal: None,
    })
}

fn of_driver(found: DriverStats) -> VolumeUse {
    let DriverStats { volume, claim, stats } = found;
    let amounts = |unit| amounts(&stats, unit);
    VolumeUse {
        bytes: amounts(UsageUnit::Bytes),
        inodes: amounts(UsageUnit::Inodes),
        abnormal: stats.condition.as_ref().map(|condition| condition.abnormal),
        name: volume,
        claim,
    }
}

fn amounts(stats: &VolumeStats, unit: UsageUnit) -> Option<Amounts> {
    let usage = stats.usage.iter().find(|usage| usage.unit == i32::from(unit))?;
    let number = |number: i64| u64::try_from(number).unwrap_or(0);
    Some(Amounts {
        total: number(usage.total),
        free: number(usage.available),
        used: number(usage.used),
    })
}

// === impl VolumeUse ===

impl VolumeUse {
    /// As `/stats/summary` has it.
    pub fn summary(&self, namespace: &str) -> Value {
        let mut summary =
            json!({ "name": self.name, "time": super::stats::rfc3339(SystemTime::now()) });
        if let Some(Amounts { total, free, used }) = self.bytes {
            summary["capacityBytes"] = json!(total);
            summary["availableBytes"] = json!(free);
            summary["usedBytes"] = json!(used);
        }
        if let Some(Amounts { total, free, used }) = self.inodes {
            summary["inodes"] = json!(total);
            summary["inodesFree"] = json!(free);
            summary["inodesUsed"] = json!(used);
        }
        if let Some(claim) = &self.claim {
            summary["pvcRef"] = json!({ "name": claim, "namespace": namespace });
        }
        if let Some(abnormal) = self.abnormal {
            summary["volumeHealthStats"] = json!({ "abnormal": abnormal });
        }
        summary
    }
}

/// A metric of claims: its name, its help, and what of a volume it tells.
pub type ClaimMetric = (&'static str, &'static str, fn(&VolumeUse) -> Option<u64>);

pub const CLAIM_METRICS: [ClaimMetric; 7] = [
    ("kubelet_volume_stats_available_bytes", "Number of available bytes in the volume", |it| {
        Some(it.bytes?.free)
    }),
    ("kubelet_volume_stats_capacity_bytes", "Capacity in bytes of the volume", |it| {
        Some(it.bytes?.total)
    }),
    (
        "kubelet_volume_stats_health_status_abnormal",
        "Abnormal volume health status. The count is either 1 or 0. 1 indicates the volume is unhealthy, 0 indicates volume is healthy",
        |it| it.abnormal.map(u64::from),
    ),
    ("kubelet_volume_stats_inodes", "Maximum number of inodes in the volume", |it| {
        Some(it.inodes?.total)
    }),
    ("kubelet_volume_stats_inodes_free", "Number of free inodes in the volume", |it| {
        Some(it.inodes?.free)
    }),
    ("kubelet_volume_stats_inodes_used", "Number of used inodes in the volume", |it| {
        Some(it.inodes?.used)
    }),
    ("kubelet_volume_stats_used_bytes", "Number of used bytes in the volume", |it| {
        Some(it.bytes?.used)
    }),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csi::messages::VolumeUsage;

    #[test]
    fn what_a_driver_says_becomes_the_summary() {
        let usage = |unit: UsageUnit, used| VolumeUsage {
            available: 60,
            total: 100,
            used,
            unit: unit.into(),
        };
        let stats = VolumeStats {
            usage: vec![usage(UsageUnit::Inodes, 7), usage(UsageUnit::Bytes, 40)],
            condition: None,
        };
        let found = DriverStats { volume: "v".into(), claim: Some("data".into()), stats };
        let summary = of_driver(found).summary("ns");
        assert_eq!((&summary["usedBytes"], &summary["inodesUsed"]), (&json!(40), &json!(7)));
        assert_eq!(summary["pvcRef"], json!({ "name": "data", "namespace": "ns" }));
        assert_eq!(summary["volumeHealthStats"], Value::Null);
    }

    #[test]
    fn a_directory_is_counted_and_a_claim_asked_of_its_file_system() {
        let dir = std::env::temp_dir().join(format!("skiff-volume-use-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        std::fs::write(dir.join("file"), [0; 9000]).expect("a file");
        let local = |claim: Option<&str>| Local {
            volume: "v".into(),
            claim: claim.map(str::to_owned),
            path: dir.clone(),
        };
        let scratch = count(&local(None)).expect("counted");
        let used = scratch.bytes.expect("bytes").used;
        assert!((9000..100_000).contains(&used), "{used}");
        let claim = count(&local(Some("data"))).expect("counted").bytes.expect("bytes");
        assert!(claim.used + claim.free <= claim.total && claim.used != used, "{claim:?}");
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
