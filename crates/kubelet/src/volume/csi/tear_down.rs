//! Takes volumes from a pod, and from the node when it was the last.
//!
//! What is on disk of a pod -> `NodeUnpublishVolume`, `NodeUnstageVolume`, the files gone. Counterpart: `TearDownAt` and
//! `UnmountDevice` of `pkg/volume/csi`. Invariant: a volume's file goes only after its driver has let go of it, so that a failure
//! at any point is tried again from there.

use std::path::{Path, PathBuf};

use super::{
    CsiError, CsiFailure, Step,
    data::{self, Place, VolumeData},
};
use crate::{
    context::NodeContext,
    csi::{Endpoint, VolumeId},
};

/// All volumes of a pod that a driver brought.
pub async fn tear_down_all(ctx: &NodeContext, uid: &str) -> Result<(), Box<CsiFailure>> {
    for dir in directories(&data::pod_volumes(&ctx.config.pod_dir(uid))).await {
        // Without the file nothing was ever asked of the driver.
        let Some(known) = VolumeData::read(&dir).await else { continue };
        tear_down(ctx, uid, &dir, &known).await.map_err(|error| {
            let (volume, block) = (known.spec_volume_id.clone(), known.block);
            Box::new(CsiFailure { step: Step::Unpublish, volume, block, error })
        })?;
    }
    Ok(())
}

async fn tear_down(
    ctx: &NodeContext,
    uid: &str,
    dir: &Path,
    known: &VolumeData,
) -> Result<(), CsiError> {
    let id = known.id();
    let driver = ctx.csi.get(&id.driver, uid).ok_or_else(|| CsiError::NotRegistered {
        step: "Unmounter.TearDownAt failed to get CSI client",
        driver: id.driver.clone(),
    })?;
    let _alone = ctx.csi.lock(&id).await;
    let place = Place::at(dir.to_owned(), known.block);
    driver.unpublish(&id.handle, &place.target).await?;
    if !is_used_elsewhere(ctx, &id, dir).await {
        unstage(ctx, &driver, &id).await?;
    }
    data::remove(&place)?;
    ctx.csi.release_volume(&id, uid);
    Ok(())
}

async fn unstage(ctx: &NodeContext, driver: &Endpoint, id: &VolumeId) -> Result<(), CsiError> {
    let place = Place::staged(ctx, id);
    if VolumeData::read(&place.dir).await.is_none() {
        return Ok(());
    }
    driver.unstage(&id.handle, &place.target).await?;
    data::remove(&place)
}

/// Whether the volume is with another pod, or with this one under another name.
async fn is_used_elsewhere(ctx: &NodeContext, id: &VolumeId, than: &Path) -> bool {
    for (_, dir) in volumes_of_all_pods(ctx).await {
        if dir != than && VolumeData::read(&dir).await.is_some_and(|known| known.id() == *id) {
            return true;
        }
    }
    false
}

/// Counts what an earlier run of the agent has left mounted as in use.
pub async fn adopt(ctx: &NodeContext) {
    for (uid, dir) in volumes_of_all_pods(ctx).await {
        if let Some(known) = VolumeData::read(&dir).await
            && known.attachable
        {
            ctx.csi.use_volume(&known.id(), &uid);
        }
    }
}

/// Uids with the directories of their volumes.
async fn volumes_of_all_pods(ctx: &NodeContext) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    for pod in directories(&ctx.config.pods_dir()).await {
        let Some(uid) = pod.file_name().and_then(|name| name.to_str()) else { continue };
        let volumes = directories(&data::pod_volumes(&pod)).await;
        found.extend(volumes.into_iter().map(|dir| (uid.to_owned(), dir)));
    }
    found
}

pub(super) async fn directories(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(mut reader) = tokio::fs::read_dir(dir).await else { return found };
    while let Ok(Some(entry)) = reader.next_entry().await {
        found.push(entry.path());
    }
    found
}
