//! One CSI driver on this node, as it is called.
//!
//! Typed requests -> gRPC over the driver's socket -> typed answers. Counterpart: `pkg/volume/csi/csi_client.go`.
//! Invariant: a call ends after [`TIMEOUT`], and what is asked for is idempotent, so it may be asked for again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use skiff_grpc::{Channel, Status};

use super::messages::{
    Capabilities, ExpandVolume, NodeCapabilities, NodeInfo, PublishVolume, StageVolume, VolumeAt,
    VolumeStats,
};

const TIMEOUT: Duration = Duration::from_secs(120);

/// A driver's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub PathBuf);

// === impl Endpoint ===

impl Endpoint {
    pub async fn node_info(&self) -> Result<NodeInfo, Status> {
        self.call("/csi.v1.Node/NodeGetInfo", &()).await
    }

    pub async fn capabilities(&self) -> Result<Capabilities, Status> {
        let answer = self.call("/csi.v1.Node/NodeGetCapabilities", &());
        answer.await.map(|answer: NodeCapabilities| answer.known())
    }

    pub async fn stage(&self, request: &StageVolume) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeStageVolume", request).await
    }

    pub async fn unstage(&self, volume_id: &str, staging: &Path) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeUnstageVolume", &volume_at(volume_id, staging)).await
    }

    pub async fn publish(&self, request: &PublishVolume) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodePublishVolume", request).await
    }

    pub async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeUnpublishVolume", &volume_at(volume_id, target)).await
    }

    pub async fn expand(&self, request: &ExpandVolume) -> Result<(), Status> {
        self.call("/csi.v1.Node/NodeExpandVolume", request).await
    }

    pub async fn stats(&self, volume_id: &str, path: &Path) -> Result<VolumeStats, Status> {
        self.call("/csi.v1.Node/NodeGetVolumeStats", &volume_at(volume_id, path)).await
    }

    /// Over a connection of its own: calls are rare, and drivers come and go.
    async fn call<A: Message + Default>(
        &self,
        method: &str,
        request: &impl Message,
    ) -> Result<A, Status> {
        Channel::unix(&self.0).unary(method, request, Some(TIMEOUT)).await
    }
}

fn volume_at(volume_id: &str, path: &Path) -> VolumeAt {
    VolumeAt { volume_id: volume_id.to_owned(), path: path.to_string_lossy().into_owned() }
}
