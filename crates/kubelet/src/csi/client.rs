//! One plugin on this node, as it is called: its registration, and a CSI driver's node service.
//!
//! Typed requests -> gRPC over the plugin's socket -> typed answers. Counterpart: `pkg/volume/csi/csi_client.go`.
//! Invariant: a call ends after [`TIMEOUT`], and what is asked for is idempotent, so it may be asked for again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message;
use skiff_grpc::{Channel, Status};

use super::messages::{
    Capabilities, Empty, ExpandVolume, NodeCapabilities, NodeInfo, PluginInfo, PublishVolume,
    RegistrationStatus, StageVolume, VolumeAt, VolumeStats,
};

const TIMEOUT: Duration = Duration::from_secs(120);

/// A plugin's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub PathBuf);

// === impl Endpoint ===

impl Endpoint {
    pub async fn info(&self) -> Result<PluginInfo, Status> {
        self.call("/pluginregistration.Registration/GetInfo", &Empty {}).await
    }

    /// Tells the plugin whether it is registered, or why it is not.
    pub async fn notify(&self, error: Option<&str>) -> Result<(), Status> {
        let method = "/pluginregistration.Registration/NotifyRegistrationStatus";
        let error = error.unwrap_or_default().to_owned();
        self.tell(method, &RegistrationStatus { plugin_registered: error.is_empty(), error }).await
    }

    pub async fn node_info(&self) -> Result<NodeInfo, Status> {
        self.call("/csi.v1.Node/NodeGetInfo", &Empty {}).await
    }

    pub async fn capabilities(&self) -> Result<Capabilities, Status> {
        let answer = self.call("/csi.v1.Node/NodeGetCapabilities", &Empty {});
        answer.await.map(|answer: NodeCapabilities| answer.known())
    }

    pub async fn stage(&self, request: &StageVolume) -> Result<(), Status> {
        self.tell("/csi.v1.Node/NodeStageVolume", request).await
    }

    pub async fn unstage(&self, volume_id: &str, staging: &Path) -> Result<(), Status> {
        self.tell("/csi.v1.Node/NodeUnstageVolume", &volume_at(volume_id, staging)).await
    }

    pub async fn publish(&self, request: &PublishVolume) -> Result<(), Status> {
        self.tell("/csi.v1.Node/NodePublishVolume", request).await
    }

    pub async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), Status> {
        self.tell("/csi.v1.Node/NodeUnpublishVolume", &volume_at(volume_id, target)).await
    }

    pub async fn expand(&self, request: &ExpandVolume) -> Result<(), Status> {
        self.tell("/csi.v1.Node/NodeExpandVolume", request).await
    }

    pub async fn stats(&self, volume_id: &str, path: &Path) -> Result<VolumeStats, Status> {
        self.call("/csi.v1.Node/NodeGetVolumeStats", &volume_at(volume_id, path)).await
    }

    /// A call whose answer says nothing more than that it went well.
    async fn tell(&self, method: &str, request: &impl Message) -> Result<(), Status> {
        self.call(method, request).await.map(|Empty {}| ())
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
