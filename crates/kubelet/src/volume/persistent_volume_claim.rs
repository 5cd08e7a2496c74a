//! `persistentVolumeClaim` and `ephemeral` volumes whose persistent volume is a directory of this node (`hostPath`, `local`),
//! an export (`nfs`), or a CSI driver's.
//!
//! Consumes the claim and its volume through the API, emits the directory. Counterpart: `pkg/volume/local`.
//! Invariant: a claim that is not bound, or bound for another claim, is never mounted.

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec, PodSpec, Volume,
};
use kube::Api;

use super::{
    IoContext, Ready, VolumeError, VolumePlugin, VolumeRequest, csi, host_path, nfs, ownership,
    unsupported,
};
use crate::pod::desired::PodKey;

/// Members of a volume that say nothing of where it is.
const NOT_A_SOURCE: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

pub struct PersistentVolumeClaimVolume;

#[async_trait]
impl VolumePlugin for PersistentVolumeClaimVolume {
    fn name(&self) -> &'static str {
        "kubernetes.io~local-volume"
    }

    fn claims(&self, volume: &Volume) -> bool {
        volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
    }

    async fn set_up(&self, request: &VolumeRequest<'_>) -> Result<Ready, VolumeError> {
        let (claim, volume) = bound(request).await?;
        check_use(request.pod.spec(), request.volume, &volume)?;
        let source = request.volume.persistent_volume_claim.as_ref();
        let read_only = source.and_then(|source| source.read_only).unwrap_or(false);
        if let Some(source) = csi::Source::persistent(&claim, &volume, read_only) {
            return csi::set_up(request, &source).await;
        }
        let name = volume.metadata.name.unwrap_or_default();
        let spec = volume.spec.unwrap_or_default();
        if is_block(spec.volume_mode.as_deref()) {
            return block(&spec).map(Ready::at);
        }
        if let Some(source) = &spec.nfs {
            return nfs::set_up_persistent(request, &name, &spec, source, read_only).await;
        }
        let path = match (&spec.host_path, &spec.local) {
            (Some(source), _) => {
                host_path::ensure(&source.path, source.type_.as_deref().unwrap_or_default())?;
                source.path.clone()
            }
            (_, Some(source)) => {
                host_path::ensure(&source.path, "Directory")?;
                source.path.clone()
            }
            _ => return Err(unsupported::error(&unsupported::kind_of(&spec, &NOT_A_SOURCE))),
        };
        if let (Some(group), Some(_)) = (request.fs_group(), &spec.local) {
            ownership::give_to_group(path.as_ref(), group, false, true)
                .at("chown", path.as_ref())?;
        }
        Ok(Ready::at(path))
    }
}

fn is_block(mode: Option<&str>) -> bool {
    mode == Some("Block")
}

/// The device of a block volume that is of this node.
fn block(spec: &PersistentVolumeSpec) -> Result<String, VolumeError> {
    let path = match (&spec.host_path, &spec.local) {
        (Some(source), _) => &source.path,
        (_, Some(source)) => &source.path,
        _ => {
            let what = "PersistentVolume of volumeMode Block (neither hostPath nor local nor csi)";
            return Err(VolumeError::Unsupported(what.to_owned()));
        }
    };
    host_path::ensure(path, "BlockDevice")?;
    Ok(path.clone())
}

/// A device is not mounted, and a file system is no device.
fn check_use(pod: &PodSpec, volume: &Volume, bound: &PersistentVolume) -> Result<(), VolumeError> {
    let mode = bound.spec.as_ref().and_then(|spec| spec.volume_mode.as_deref());
    let containers = pod.init_containers.iter().flatten().chain(&pod.containers);
    let name = &volume.name;
    for container in containers {
        let mounts = container.volume_mounts.iter().flatten().any(|mount| mount.name == *name);
        let devices = container.volume_devices.iter().flatten().any(|device| device.name == *name);
        let wrong = match is_block(mode) {
            true if mounts => "volumeMounts",
            false if devices => "volumeDevices",
            _ => continue,
        };
        let mode = mode.unwrap_or("Filesystem");
        return Err(VolumeError::Claim(format!(
            "volume {name} has volumeMode {mode}, but is specified in {wrong}"
        )));
    }
    Ok(())
}

/// The claim of a volume that comes and goes with its pod is named after both.
fn claim_name(pod: &str, volume: &Volume) -> String {
    match &volume.persistent_volume_claim {
        Some(source) => source.claim_name.clone(),
        None => format!("{pod}-{}", volume.name),
    }
}

/// A claim that only happens to have that name is somebody else's.
fn check_owner(
    pod: &PodKey,
    volume: &Volume,
    claim: &PersistentVolumeClaim,
) -> Result<(), VolumeError> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let owned = owners.into_iter().any(|o| o.controller == Some(true) && o.uid == pod.uid);
    if volume.ephemeral.is_none() || owned {
        return Ok(());
    }
    let PodKey { namespace, name, .. } = pod;
    let claim = claim.metadata.name.as_deref().unwrap_or_default();
    Err(VolumeError::Claim(format!(
        "PVC {namespace}/{claim} was not created for pod {namespace}/{name} (pod is not owner)"
    )))
}

/// The volume's claim, and what it is bound to.
async fn bound(
    request: &VolumeRequest<'_>,
) -> Result<(PersistentVolumeClaim, PersistentVolume), VolumeError> {
    let name = &claim_name(&request.pod.key.name, request.volume);
    let claims: Api<PersistentVolumeClaim> =
        Api::namespaced(request.ctx.client.clone(), &request.pod.key.namespace);
    let claim = claims.get_opt(name).await.map_err(|e| VolumeError::Claim(e.to_string()))?;
    let claim = claim
        .ok_or_else(|| VolumeError::Claim(format!("persistentvolumeclaim {name:?} not found")))?;
    check_owner(&request.pod.key, request.volume, &claim)?;
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
    Ok((claim, volume))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_ephemeral_volumes_claim_has_to_be_its_pods() {
        let pod = PodKey { namespace: "ns".into(), name: "web".into(), uid: "u1".into() };
        let volume = json!({ "name": "scratch", "ephemeral": {} });
        let volume: Volume = serde_json::from_value(volume).expect("a volume");
        assert_eq!(claim_name("web", &volume), "web-scratch");
        let claim = |owner: &str| -> PersistentVolumeClaim {
            let owner = json!({ "apiVersion": "v1", "kind": "Pod", "name": "web", "uid": owner, "controller": true });
            let metadata = json!({ "name": "web-scratch", "ownerReferences": [owner] });
            serde_json::from_value(json!({ "metadata": metadata })).expect("a claim")
        };
        assert!(check_owner(&pod, &volume, &claim("u1")).is_ok());
        let error = check_owner(&pod, &volume, &claim("u0")).expect_err("somebody else's");
        let said = "PVC ns/web-scratch was not created for pod ns/web (pod is not owner)";
        assert_eq!(error.to_string(), said);
    }

    #[test]
    fn a_device_is_not_mounted_and_a_file_system_is_no_device() {
        let volume: Volume = serde_json::from_value(json!({ "name": "data" })).expect("a volume");
        let check = |mode: &str, used: &str| {
            let bound = json!({ "spec": { "volumeMode": mode } });
            let bound: PersistentVolume = serde_json::from_value(bound).expect("a volume");
            let container = json!({ "name": "c", used: [{ "name": "data", "mountPath": "/d", "devicePath": "/d" }] });
            let pod: PodSpec =
                serde_json::from_value(json!({ "containers": [container] })).expect("a spec");
            check_use(&pod, &volume, &bound).map_err(|error| error.to_string())
        };
        assert_eq!(check("Block", "volumeDevices"), Ok(()));
        assert_eq!(check("Filesystem", "volumeMounts"), Ok(()));
        let told = "volume data has volumeMode Block, but is specified in volumeMounts";
        assert_eq!(check("Block", "volumeMounts"), Err(told.to_owned()));
        let told = "volume data has volumeMode Filesystem, but is specified in volumeDevices";
        assert_eq!(check("Filesystem", "volumeDevices"), Err(told.to_owned()));
    }
}
