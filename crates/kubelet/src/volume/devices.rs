//! Block volumes of one container: the devices behind its `volumeDevices`.
//!
//! Consumes the container's volume devices with the pod's volumes set up, emits the runtime's devices. Counterpart:
//! `makeBlockVolumes` of `pkg/kubelet/kubelet_pods.go`.
//! Invariant: what is handed over is a block device of the node, found behind links before the container can touch them.

use k8s_openapi::api::core::v1::{Volume, VolumeDevice};
use skiff_runtime::Device;

use super::host_path_of;
use crate::{
    context::NodeContext,
    pod::desired::{DesiredContainer, DesiredPod},
};

const ALL: &str = "rwm";
const READ_ONLY: &str = "r";

pub async fn devices(
    ctx: &NodeContext,
    pod: &DesiredPod,
    container: &DesiredContainer,
) -> Result<Vec<Device>, String> {
    let mut devices = Vec::new();
    for wanted in container.spec.volume_devices.iter().flatten() {
        devices.push(device(ctx, pod, wanted).await?);
    }
    Ok(devices)
}

async fn device(
    ctx: &NodeContext,
    pod: &DesiredPod,
    wanted: &VolumeDevice,
) -> Result<Device, String> {
    let volume = pod.spec().volumes.iter().flatten().find(|volume| volume.name == wanted.name);
    let volume = volume.ok_or_else(|| format!("volume {:?} is not defined", wanted.name))?;
    let failed = |error: String| format!("volume {:?}: {error}", wanted.name);
    let path = host_path_of(ctx, pod, volume).await.map_err(|error| failed(error.to_string()))?;
    let host_path =
        tokio::fs::canonicalize(&path).await.map_err(|error| failed(error.to_string()))?;
    Ok(Device {
        container_path: wanted.device_path.clone().into(),
        host_path,
        permissions: if is_read_only(volume) { READ_ONLY } else { ALL }.to_owned(),
    })
}

fn is_read_only(volume: &Volume) -> bool {
    volume.persistent_volume_claim.as_ref().and_then(|claim| claim.read_only).unwrap_or(false)
}
