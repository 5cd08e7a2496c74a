//! Volumes: one file per type behind [`VolumePlugin`].
//!
//! Consumes a pod's volumes, makes each ready below the pod's directory (or finds it on the host), emits host
//! paths. Counterpart: `pkg/volume` and `pkg/kubelet/volumemanager`.
//! Invariant: setting up is idempotent and is how updates reach a volume; taking down works from what is on disk
//! alone, so that it also serves pods nobody remembers.

pub mod atomic_writer;
mod config_map;
pub mod csi;
pub mod devices;
mod downward_api;
mod empty_dir;
mod host_path;
pub mod image;
pub mod mounts;
mod nfs;
mod ownership;
mod payload;
mod persistent_volume_claim;
mod projected;
mod secret;
mod subpath;
mod tmpfs;
pub mod token;
mod unsupported;

use std::{
    io,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Volume;

use crate::{context::NodeContext, orphans::remove_dir, pod::desired::DesiredPod};

/// In alphabetical order; each volume is claimed by at most one.
const PLUGINS: [&dyn VolumePlugin; 10] = [
    &config_map::ConfigMapVolume,
    &csi::CsiVolume,
    &downward_api::DownwardApiVolume,
    &empty_dir::EmptyDirVolume,
    &host_path::HostPathVolume,
    &image::ImageVolume,
    &nfs::NfsVolume,
    &persistent_volume_claim::PersistentVolumeClaimVolume,
    &projected::ProjectedVolume,
    &secret::SecretVolume,
];

/// One type of volume.
#[async_trait]
pub trait VolumePlugin: Send + Sync {
    /// The plugin's directory name, as upstream escapes it: `kubernetes.io~configmap`.
    fn name(&self) -> &'static str;
    /// Whether a volume is of this type.
    fn claims(&self, volume: &Volume) -> bool;
    /// Where in the volume's own place its content is.
    fn content(&self, dir: PathBuf) -> PathBuf {
        dir
    }
    /// Makes the volume ready, or brings its content up to date.
    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError>;
}

pub struct VolumeRequest<'a> {
    ctx: &'a NodeContext,
    pod: &'a DesiredPod,
    volume: &'a Volume,
    /// Where the volume lives if it needs a place of its own.
    dir: PathBuf,
}

/// Where a volume is, and when its content wants renewal.
pub struct Ready {
    path: PathBuf,
    refresh_at: Option<Timestamp>,
}

#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("{kind} {name:?} not found")]
    NoObject { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    NoKey { kind: &'static str, key: String },
    #[error("cannot read {kind} {name:?}: {reason}")]
    Unreadable { kind: &'static str, name: String, reason: String },
    #[error("hostPath type check failed: {path} is not {expected}")]
    HostPathType { path: String, expected: &'static str },
    #[error("volume type {0} is not supported by this node")]
    Unsupported(String),
    #[error("{0}")]
    NoPlugin(String),
    #[error("{0}")]
    Mount(String),
    #[error("invalid path {0:?}: it must be relative and must not contain '..'")]
    BadPath(String),
    #[error("{0}")]
    Claim(String),
    #[error("{0}")]
    Csi(Box<csi::CsiFailure>),
    #[error("failed to fetch token: {0}")]
    Token(String),
    #[error("{0}")]
    Field(String),
    #[error("{what} {path:?}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

// === impl Ready ===

impl Ready {
    fn at(path: impl Into<PathBuf>) -> Self {
        Ready { path: path.into(), refresh_at: None }
    }
}

// === impl VolumeError ===

impl VolumeError {
    /// Reason and message of the event that tells of it; nothing while somebody else has to do their part first.
    pub fn event(&self, volume: &str) -> Option<(&'static str, String)> {
        let (reason, operation, volume) = match self {
            VolumeError::Csi(failure) if failure.is_wait() => return None,
            VolumeError::Csi(failure) => {
                (failure.reason(), failure.operation(), failure.volume.as_str())
            }
            _ => ("FailedMount", "MountVolume.SetUp failed", volume),
        };
        Some((reason, format!("{operation} for volume {volume:?} : {self}")))
    }

    pub fn is_wait(&self) -> bool {
        matches!(self, VolumeError::Csi(failure) if failure.is_wait())
    }
}

/// Attaches the operation and the path to an I/O error.
trait IoContext<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, VolumeError>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, what: &'static str, path: &Path) -> Result<T, VolumeError> {
        self.map_err(|source| VolumeError::Io { what, path: path.to_owned(), source })
    }
}

/// Makes all volumes of a pod ready; answers when the first of them wants renewal, or which one failed and why.
pub async fn set_up_pod(
    ctx: &NodeContext,
    pod: &DesiredPod,
) -> Result<Option<Timestamp>, (String, VolumeError)> {
    let mut refresh_at: Option<Timestamp> = None;
    for volume in pod.spec().volumes.iter().flatten() {
        let ready = set_up(ctx, pod, volume).await.map_err(|error| (volume.name.clone(), error))?;
        refresh_at = [refresh_at, ready.refresh_at].into_iter().flatten().min();
    }
    Ok(refresh_at)
}

async fn set_up(
    ctx: &NodeContext,
    pod: &DesiredPod,
    volume: &Volume,
) -> Result<Ready, VolumeError> {
    let plugin = plugin_for(volume)?;
    let dir = volume_dir(&ctx.config.pod_dir(&pod.key.uid), plugin, volume);
    plugin.set_up(&VolumeRequest { ctx, pod, volume, dir }).await
}

/// Where a volume that has been set up is on the host.
async fn host_path_of(
    ctx: &NodeContext,
    pod: &DesiredPod,
    volume: &Volume,
) -> Result<PathBuf, VolumeError> {
    let plugin = plugin_for(volume)?;
    let dir = volume_dir(&ctx.config.pod_dir(&pod.key.uid), plugin, volume);
    let content = plugin.content(dir.clone());
    if tokio::fs::try_exists(&content).await.unwrap_or(false) {
        return Ok(content);
    }
    Ok(plugin.set_up(&VolumeRequest { ctx, pod, volume, dir }).await?.path)
}

/// Where a volume with a place of its own is, whether it has been set up or not.
pub fn dir_of(pod_dir: &Path, volume: &Volume) -> Option<PathBuf> {
    Some(volume_dir(pod_dir, plugin_for(volume).ok()?, volume))
}

fn plugin_for(volume: &Volume) -> Result<&'static dyn VolumePlugin, VolumeError> {
    let found = PLUGINS.into_iter().find(|p| p.claims(volume));
    found.ok_or_else(|| unsupported::error(&unsupported::kind_of(volume, &["name"])))
}

fn volume_dir(pod_dir: &Path, plugin: &dyn VolumePlugin, volume: &Volume) -> PathBuf {
    pod_dir.join("volumes").join(plugin.name()).join(&volume.name)
}

/// Unmounts and removes a pod's sub-paths and volumes; what is not there is fine.
pub async fn tear_down_volumes(ctx: &NodeContext, uid: &str) -> Result<(), VolumeError> {
    let pod_dir = ctx.config.pod_dir(uid);
    // Sub-paths are mounts of what is below them.
    unmount_and_remove(pod_dir.join("volume-subpaths")).await?;
    csi::tear_down_all(ctx, uid).await.map_err(VolumeError::Csi)?;
    unmount_and_remove(pod_dir.join("volumes")).await
}

async fn unmount_and_remove(dir: PathBuf) -> Result<(), VolumeError> {
    let path = dir.clone();
    let removed = tokio::task::spawn_blocking(move || {
        tmpfs::unmount_below(&dir)?;
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    });
    removed.await.unwrap_or_else(|error| Err(io::Error::other(error))).at("remove", &path)
}

/// The same, with everything else of the pod's directory.
pub async fn tear_down_pod(ctx: &NodeContext, uid: &str) -> Result<(), VolumeError> {
    tear_down_volumes(ctx, uid).await?;
    ctx.users.release(uid);
    remove_dir(&ctx.config.pod_dir(uid)).await;
    Ok(())
}
