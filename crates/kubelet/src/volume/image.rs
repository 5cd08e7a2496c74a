//! `image`: the files of an image, read-only.
//!
//! Consumes the image volumes that a container mounts, has their images brought here, emits their ids; the runtime mounts
//! them, so a volume of this type has no place on the host. Counterpart: `getImageVolumes` of
//! `kuberuntime_manager.go`. Invariant: an image is asked for once for each start of a container, however many mounts show it.

use std::collections::HashMap;

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Volume;

use super::{Ready, VolumeError, VolumePlugin, VolumeRequest};
use crate::{
    context::NodeContext,
    image::pull::Ensure,
    pod::desired::{DesiredContainer, DesiredPod},
    step::StepError,
};

pub struct ImageVolume;

#[async_trait]
impl VolumePlugin for ImageVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~image"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.image.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        Ok(Ready::at(&request.dir))
    }
}

/// The ids of the images that the container mounts, by volume.
pub async fn images(
    ctx: &NodeContext,
    pod: &DesiredPod,
    container: &DesiredContainer,
) -> Result<HashMap<String, String>, StepError> {
    let mounts = container.spec.volume_mounts.as_deref().unwrap_or_default();
    let mut found = HashMap::new();
    for volume in pod.spec().volumes.iter().flatten() {
        if let Some(source) = &volume.image
            && mounts.iter().any(|mount| mount.name == volume.name)
        {
            let image = Ensure::of_volume(ctx, pod, source).run().await?;
            found.insert(volume.name.clone(), image.id);
        }
    }
    Ok(found)
}
