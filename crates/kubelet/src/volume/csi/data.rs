//! What is known on disk of a volume that was brought to a pod, or staged for the node.
//!
//! [`VolumeData`] <-> `vol_data.json`, beside the mount. Counterpart: the file of that name in `pkg/volume/csi`, whose keys it has.
//! Invariant: written before the driver is asked, and once more when it has done its part; gone only after the driver has
//! undone it.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Volume;
use serde::{Deserialize, Serialize};
use skiff_api::csi::sha256_hex;

use super::{CsiError, LOOK_FOR_GROWTH_AFTER, REPUBLISH_AFTER, Source};
use crate::{context::NodeContext, csi::VolumeId, volume::tmpfs};

pub const PLUGIN_DIR: &str = "kubernetes.io~csi";
pub const TARGET: &str = "mount";
/// Where a raw device is.
const DEVICE_TARGET: &str = "device";
const GLOBAL_TARGET: &str = "globalmount";
const FILE: &str = "vol_data.json";

/// Where a volume is published, or staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Ours, with the file.
    pub dir: PathBuf,
    /// The driver's.
    pub target: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeData {
    #[serde(rename = "specVolID")]
    pub spec_volume_id: String,
    pub driver_name: String,
    pub volume_handle: String,
    pub node_name: String,
    #[serde(rename = "attachmentID")]
    pub attachment_id: String,
    pub volume_lifecycle_mode: String,
    /// Whether it is attached to the node at all.
    pub attachable: bool,
    /// As the pod names it.
    #[serde(default)]
    pub pod_volume: String,
    #[serde(default)]
    pub claim: Option<String>,
    /// Wanted as a raw device.
    #[serde(default)]
    pub block: bool,
    #[serde(default)]
    pub expansion: Expansion,
    /// Since the driver has done its part.
    #[serde(default)]
    done: Option<Done>,
}

/// How far this node has followed the volume's growth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Expansion {
    /// Whether the driver has a part in it.
    pub possible: bool,
    /// How large the volume is as far as the node knows.
    pub bytes: i64,
    pub trouble: Option<Trouble>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Trouble {
    /// Worth another try.
    Failed,
    /// Not while the volume is in use.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    at: Timestamp,
    /// Whether it mounted anything. A mount that has gone since (by a reboot, say) has to come back.
    mounted: bool,
    requires_republish: bool,
}

// === impl Place ===

impl Place {
    pub fn of(ctx: &NodeContext, pod_uid: &str, source: &Source) -> Self {
        Place::at(pod_volumes(&ctx.config.pod_dir(pod_uid)).join(&source.name), source.block)
    }

    /// What is known to be published in `dir`.
    pub fn at(dir: PathBuf, block: bool) -> Self {
        Place { target: dir.join(if block { DEVICE_TARGET } else { TARGET }), dir }
    }

    pub fn staged(ctx: &NodeContext, volume: &VolumeId) -> Self {
        let digest = sha256_hex(&[&volume.handle]);
        let dir = ctx.config.csi_dir().join(&volume.driver).join(digest);
        Place { target: dir.join(GLOBAL_TARGET), dir }
    }
}

/// Where a pod's volumes of this type are.
pub fn pod_volumes(pod_dir: &Path) -> PathBuf {
    pod_dir.join("volumes").join(PLUGIN_DIR)
}

// === impl VolumeData ===

impl VolumeData {
    pub fn new(ctx: &NodeContext, source: &Source, attachable: bool, volume: &Volume) -> Self {
        VolumeData {
            spec_volume_id: source.name.clone(),
            driver_name: source.id.driver.clone(),
            volume_handle: source.id.handle.clone(),
            node_name: ctx.config.node_name.clone(),
            attachment_id: source.id.attachment_name(&ctx.config.node_name),
            volume_lifecycle_mode: source.lifecycle().into(),
            attachable,
            pod_volume: volume.name.clone(),
            claim: source.persistent.as_ref().map(|persistent| persistent.claim.clone()),
            block: source.block,
            expansion: Expansion::default(),
            done: None,
        }
    }

    /// What is known of the volume in `dir`; nothing where nothing was begun.
    pub async fn read(dir: &Path) -> Option<Self> {
        let path = dir.join(FILE);
        let text = tokio::fs::read(&path).await.ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|error| tracing::warn!(path = %path.display(), %error, "not understood"))
            .ok()
    }

    /// Whole or not at all: a torn file would leave a volume behind.
    pub fn write(&self, dir: &Path) -> Result<(), CsiError> {
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(dir)?;
            let new = dir.join(format!(".{FILE}"));
            let mut file = std::fs::File::create(&new)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            std::fs::rename(new, dir.join(FILE))
        };
        write().map_err(|source| CsiError::Io { what: "write", path: dir.join(FILE), source })
    }

    pub fn id(&self) -> VolumeId {
        VolumeId { driver: self.driver_name.clone(), handle: self.volume_handle.clone() }
    }

    pub fn done(&mut self, target: &Path, requires_republish: bool) {
        let mounted = tmpfs::is_mount_point(target).unwrap_or(false);
        self.done = Some(Done { at: Timestamp::now(), mounted, requires_republish });
    }

    /// Whether what the driver did is still there.
    pub fn holds(&self, place: &Place) -> bool {
        self.done.as_ref().is_some_and(|done| match done.mounted {
            true => tmpfs::is_mount_point(&place.target).unwrap_or(false),
            false => place.target.exists(),
        })
    }

    pub fn republish_at(&self) -> Option<Timestamp> {
        let done = self.done.as_ref().filter(|done| done.requires_republish)?;
        Some(done.at + REPUBLISH_AFTER)
    }

    /// When the volume is to be looked at again: to be published anew, or because it may have grown, which nobody tells a node.
    pub fn look_again_at(&self) -> Option<Timestamp> {
        let growth = self.expansion.possible.then(|| Timestamp::now() + LOOK_FOR_GROWTH_AFTER);
        self.republish_at().into_iter().chain(growth).min()
    }
}

/// Removes the place that a driver has left; a directory that still holds something stays.
pub fn remove(place: &Place) -> Result<(), CsiError> {
    let gone = |result: io::Result<()>, path: &Path| match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(CsiError::Io { what: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    };
    let is_directory = place.target.symlink_metadata().is_ok_and(|meta| meta.is_dir());
    let remove = if is_directory { std::fs::remove_dir } else { std::fs::remove_file };
    gone(remove(&place.target), &place.target)?;
    let file = place.dir.join(FILE);
    gone(std::fs::remove_file(&file), &file)?;
    gone(std::fs::remove_dir_all(&place.dir), &place.dir)
}
