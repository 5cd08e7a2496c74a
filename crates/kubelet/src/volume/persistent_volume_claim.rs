//! `persistentVolumeClaim` volumes whose persistent volume is a directory of this node (`hostPath`, `local`).
//!
//! Consumes the claim and its volume through the API, emits the directory. Counterpart: `pkg/volume/local`.
//! Invariant: a claim that is not bound, or bound for another claim, is never mounted.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Volume};
use kube::Api;

use super::{IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest, host_path, ownership};

pub struct PersistentVolumeClaimVolume;

#[async_trait]
impl VolumePlugin for PersistentVolumeClaimVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~local-volume"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let name = &request.volume.persistent_volume_claim.as_ref().expect("claimed").claim_name;
        let volume = bound_volume(request, name).await?;
        let spec = volume.spec.unwrap_or_default();
        let path = match (&spec.host_path, &spec.local) {
            (Some(source), _) => {
                host_path::ensure(&source.path, source.type_.as_deref().unwrap_or_default())?;
                source.path.clone()
            }
            (_, Some(source)) => {
                host_path::ensure(&source.path, "Directory")?;
                source.path.clone()
            }
            _ => {
                let name = volume.metadata.name.unwrap_or_default();
                return Err(VolumeError::Unsupported(format!(
                    "of PersistentVolume {name:?} (neither hostPath nor local)"
                )));
            }
        };
        if let (Some(group), Some(_)) = (request.fs_group(), &spec.local) {
            ownership::give_to_group(path.as_ref(), group, false, true)
                .at("chown", path.as_ref())?;
        }
        Ok(Ready::at(path))
    }
}

async fn bound_volume(
    request: &VolumeRequest<'_>,
    name: &str,
) -> Result<PersistentVolume, VolumeError> {
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(request.ctx.client.clone(), &request.pod.key.namespace);
    let claim = claims.get_opt(name).await.map_err(|e| VolumeError::Claim(e.to_string()))?;
    let claim = claim
        .ok_or_else(|| VolumeError::Claim(format!("persistentvolumeclaim {name:?} not found")))?;
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume_name = claim.spec.as_ref().and_then(|s| s.volume_name.clone()).filter(|_| bound);
    let volume_name = volume_name.ok_or_else(|| {
        VolumeError::Claim(format!("persistentvolumeclaim {name:?} is not bound"))
    })?;
    let volumes: Api<PersistentVolume> = Api::all(request.ctx.client.clone());
    let volume = volumes.get(&volume_name).await.map_err(|e| VolumeError::Claim(e.to_string()))?;
    let owner = volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()?.uid.clone());
    if owner != claim.metadata.uid {
        return Err(VolumeError::Claim(format!(
            "PersistentVolume {volume_name:?} is bound to another claim"
        )));
    }
    Ok(volume)
}
