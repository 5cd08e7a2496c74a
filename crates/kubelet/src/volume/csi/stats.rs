//! How full the volumes are that drivers have brought to a pod.
//!
//! What is on disk of a pod -> `NodeGetVolumeStats` of those whose drivers answer it -> [`DriverStats`]. Counterpart:
//! `pkg/volume/csi/csi_metrics.go`. Invariant: a driver that does not answer costs its own volume's numbers and [`PATIENCE`], no more.

use std::{path::Path, time::Duration};

use futures::future;

use super::{
    data::{self, Place, VolumeData},
    tear_down::directories,
};
use crate::{
    context::NodeContext,
    csi::{Capability, VolumeStats},
};

const PATIENCE: Duration = Duration::from_secs(5);

pub struct DriverStats {
    /// As the pod names it.
    pub volume: String,
    pub claim: Option<String>,
    pub stats: VolumeStats,
}

/// Of all volumes of a pod that are published.
pub async fn of_pod(ctx: &NodeContext, uid: &str) -> Vec<DriverStats> {
    let dirs = directories(&data::pod_volumes(&ctx.config.pod_dir(uid))).await;
    let all = future::join_all(dirs.iter().map(|dir| of_volume(ctx, dir))).await;
    all.into_iter().flatten().collect()
}

async fn of_volume(ctx: &NodeContext, dir: &Path) -> Option<DriverStats> {
    let known = VolumeData::read(dir).await?;
    let place = Place::at(dir.to_owned(), known.block);
    if !known.holds(&place) {
        return None;
    }
    let driver = ctx.csi.find(&known.driver_name)?;
    let ask = async {
        let capabilities = driver.capabilities().await?;
        match capabilities.contains(&Capability::GetVolumeStats) {
            true => driver.stats(&known.volume_handle, &place.target).await.map(Some),
            false => Ok(None),
        }
    };
    let stats = match tokio::time::timeout(PATIENCE, ask).await {
        Ok(Ok(stats)) => stats?,
        Ok(Err(error)) => {
            tracing::debug!(volume = known.spec_volume_id, %error, "no statistics");
            return None;
        }
        Err(_) => return None,
    };
    Some(DriverStats { volume: known.pod_volume, claim: known.claim, stats })
}
