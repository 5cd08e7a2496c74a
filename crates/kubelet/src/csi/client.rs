//! One CSI driver on this node, as it is called.
//!
//! Typed requests -> gRPC over the driver's socket -> typed answers. Counterpart: `pkg/volume/csi/csi_client.go`.
//! Invariant: a call ends after [`TIMEOUT`], and what is asked for is idempotent, so it may be asked for again.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use skiff_api::codec::ProtoError;
use tokio::net::UnixStream;

use super::messages::{
    Capabilities, NodeInfo, PluginInfo, PublishVolume, StageVolume, capabilities,
    registration_status, volume_at,
};
use crate::grpc::{Call, GrpcError};

const TIMEOUT: Duration = Duration::from_secs(120);
const MAX_ANSWER: usize = 4 << 20;

/// A plugin's socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint(pub PathBuf);

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot connect to {path:?}: {source}")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Rpc(#[from] GrpcError),
    #[error("rpc error: code = DeadlineExceeded desc = context deadline exceeded")]
    Timeout,
    #[error("rpc error: code = Internal desc = {0}")]
    Malformed(#[from] ProtoError),
}

// === impl Endpoint ===

impl Endpoint {
    pub async fn info(&self) -> Result<PluginInfo, CallError> {
        let answer = self.call("/pluginregistration.Registration/GetInfo", &[]).await?;
        Ok(PluginInfo::decode(&answer)?)
    }

    /// Tells the plugin whether it is registered, or why it is not.
    pub async fn notify(&self, error: Option<&str>) -> Result<(), CallError> {
        let method = "/pluginregistration.Registration/NotifyRegistrationStatus";
        self.call(method, &registration_status(error)).await.map(drop)
    }

    pub async fn node_info(&self) -> Result<NodeInfo, CallError> {
        let answer = self.call("/csi.v1.Node/NodeGetInfo", &[]).await?;
        Ok(NodeInfo::decode(&answer)?)
    }

    pub async fn capabilities(&self) -> Result<Capabilities, CallError> {
        let answer = self.call("/csi.v1.Node/NodeGetCapabilities", &[]).await?;
        Ok(capabilities(&answer)?)
    }

    pub async fn stage(&self, request: &StageVolume) -> Result<(), CallError> {
        self.call("/csi.v1.Node/NodeStageVolume", &request.encode()).await.map(drop)
    }

    pub async fn unstage(&self, volume_id: &str, staging: &Path) -> Result<(), CallError> {
        let message = volume_at(volume_id, &staging.to_string_lossy());
        self.call("/csi.v1.Node/NodeUnstageVolume", &message).await.map(drop)
    }

    pub async fn publish(&self, request: &PublishVolume) -> Result<(), CallError> {
        self.call("/csi.v1.Node/NodePublishVolume", &request.encode()).await.map(drop)
    }

    pub async fn unpublish(&self, volume_id: &str, target: &Path) -> Result<(), CallError> {
        let message = volume_at(volume_id, &target.to_string_lossy());
        self.call("/csi.v1.Node/NodeUnpublishVolume", &message).await.map(drop)
    }

    async fn call(&self, method: &str, message: &[u8]) -> Result<Bytes, CallError> {
        let exchange = async {
            let stream = UnixStream::connect(&self.0)
                .await
                .map_err(|source| CallError::Connect { path: self.0.clone(), source })?;
            let call = Call {
                authority: "localhost",
                method,
                user_agent: "kubelet",
                message,
                max_answer: MAX_ANSWER,
            };
            Ok(call.run(stream).await?)
        };
        tokio::time::timeout(TIMEOUT, exchange).await.map_err(|_| CallError::Timeout)?
    }
}
