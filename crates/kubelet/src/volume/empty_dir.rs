//! `emptyDir` volumes, on disk or in memory. Counterpart: `pkg/volume/emptydir`.
//!
//! Differs from upstream: the medium `HugePages` is refused. A limit of size on disk is kept by eviction.

use std::os::unix::fs::PermissionsExt;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest, ownership, tmpfs};
use skiff_api::scheduling::resources::value;

const MODE: u32 = 0o777;

pub struct EmptyDirVolume;

#[async_trait]
impl VolumePlugin for EmptyDirVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~empty-dir"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.empty_dir.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let spec = request.volume.empty_dir.as_ref().expect("claimed");
        let dir = &request.dir;
        let is_new = !dir.exists();
        match spec.medium.as_deref().unwrap_or_default() {
            "" => std::fs::create_dir_all(dir).at("create", dir)?,
            "Memory" => {
                let limit = spec.size_limit.as_ref().and_then(value).unwrap_or(0);
                tmpfs::ensure(dir, limit.max(0).unsigned_abs()).at("mount", dir)?;
            }
            medium => {
                return Err(VolumeError::Unsupported(format!("emptyDir with medium {medium}")));
            }
        }
        if is_new {
            std::fs::set_permissions(dir, std::fs::Permissions::from_mode(MODE))
                .at("chmod", dir)?;
            if let Some(group) = request.fs_group() {
                ownership::give_to_group(dir, group, false, false).at("chown", dir)?;
            }
        }
        Ok(Ready::at(dir))
    }
}
