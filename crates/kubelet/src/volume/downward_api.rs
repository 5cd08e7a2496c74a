//! `downwardAPI` volumes. Counterpart: `pkg/volume/downwardapi`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{
    IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest,
    payload::{self, DEFAULT_MODE},
};

pub struct DownwardApiVolume;

#[async_trait]
impl VolumePlugin for DownwardApiVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~downward-api"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.downward_api.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let spec = request.volume.downward_api.as_ref().expect("claimed");
        let items = spec.items.as_deref().unwrap_or_default();
        let files =
            payload::downward_api(request, items, spec.default_mode.unwrap_or(DEFAULT_MODE))?;
        tokio::fs::create_dir_all(&request.dir).await.at("create", &request.dir)?;
        payload::write(request, files).await?;
        Ok(Ready::at(&request.dir))
    }
}
