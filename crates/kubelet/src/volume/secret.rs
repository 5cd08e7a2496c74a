//! `secret` volumes, kept in memory. Counterpart: `pkg/volume/secret`.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{
    IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest,
    payload::{self, DEFAULT_MODE, Source},
    tmpfs,
};

pub struct SecretVolume;

#[async_trait]
impl VolumePlugin for SecretVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~secret"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.secret.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let spec = request.volume.secret.as_ref().expect("claimed");
        let source = Source {
            kind: "secret",
            name: spec.secret_name.as_deref().unwrap_or_default(),
            items: spec.items.as_deref(),
            optional: spec.optional.unwrap_or(false),
            default_mode: spec.default_mode.unwrap_or(DEFAULT_MODE),
        };
        let files = source.secret(request).await?;
        tmpfs::ensure_or_directory(&request.dir).at("mount", &request.dir)?;
        payload::write(request, files).await?;
        Ok(Ready::at(&request.dir))
    }
}
