//! `configMap` volumes. Counterpart: `pkg/volume/configmap`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{
    IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest,
    payload::{self, DEFAULT_MODE, Source},
};

pub struct ConfigMapVolume;

#[async_trait]
impl VolumePlugin for ConfigMapVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~configmap"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.config_map.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let spec = request.volume.config_map.as_ref().expect("claimed");
        let source = Source {
            kind: "configmap",
            name: &spec.name,
            items: spec.items.as_deref(),
            optional: spec.optional.unwrap_or(false),
            default_mode: spec.default_mode.unwrap_or(DEFAULT_MODE),
        };
        let files = source.config_map(request).await?;
        tokio::fs::create_dir_all(&request.dir).await.at("create", &request.dir)?;
        payload::write(request, files).await?;
        Ok(Ready::at(&request.dir))
    }
}
