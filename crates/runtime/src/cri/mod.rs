//! The contract between the kubelet and a container runtime: the verbs of CRI v1 as two object-safe
//! traits.
//!
//! Counterpart: `k8s.io/cri-api/pkg/apis/runtime/v1`. Differs from upstream: exec and attach hand
//! back byte streams instead of a URL, port-forward is a dialled connection, and events are a
//! subscription that starts now rather than a relist, because both ends usually live in one
//! process.
//!
//! Invariant: every verb is idempotent where CRI says so (stop, remove), and an unknown id is
//! [`Error::NotFound`](crate::Error::NotFound), never an empty answer.

mod container;
mod image;
mod sandbox;
mod stream;

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use tokio::{net::TcpStream, sync::broadcast};

pub use container::*;
pub use image::*;
pub use sandbox::*;
pub use stream::*;

use crate::error::Result;

/// What runs pods. Shared as `Arc<dyn Runtime>`; every method may be called concurrently.
#[async_trait]
pub trait Runtime: ImageService + Send + Sync + 'static {
    /// Name and version, as `nodeInfo.containerRuntimeVersion` shows them (`name://version`).
    async fn version(&self) -> Result<Version>;
    /// What it can do that not every runtime on every kernel can.
    async fn features(&self) -> Result<RuntimeFeatures> {
        Ok(RuntimeFeatures::default())
    }

    /// What keeps it from running pods at the moment; `None` when nothing does.
    async fn unready(&self) -> Result<Option<String>> {
        Ok(None)
    }

    /// Creates and starts a pod sandbox with its network, and answers its id. Nothing is left
    /// behind on error.
    async fn run_pod_sandbox(&self, config: PodSandboxConfig) -> Result<String>;
    /// Kills what still runs in the sandbox and gives its network back. Idempotent; an unknown id
    /// is fine.
    async fn stop_pod_sandbox(&self, id: &str) -> Result<()>;
    /// Stops the sandbox, then removes its containers and every trace of it. Idempotent; an unknown
    /// id is fine.
    async fn remove_pod_sandbox(&self, id: &str) -> Result<()>;
    async fn pod_sandbox_status(&self, id: &str) -> Result<PodSandboxStatus>;
    async fn list_pod_sandboxes(&self) -> Result<Vec<PodSandboxStatus>>;
    /// Gives the pod as a whole other limits. A zero leaves a value alone; -1 takes a limit away.
    async fn update_pod_sandbox_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()>;

    /// Gives a group above the pods' own, such as `/kubepods/burstable`, its limits; makes it if it is not there. A
    /// zero leaves a value alone. Differs from upstream, where the kubelet writes to these itself.
    async fn set_cgroup_resources(
        &self,
        path: &str,
        resources: LinuxContainerResources,
    ) -> Result<()>;

    /// Prepares a container in a running sandbox and answers its id. The image must be present.
    async fn create_container(&self, sandbox_id: &str, config: ContainerConfig) -> Result<String>;
    /// Starts a created container. A command that cannot be executed fails here, as
    /// [`Error::StartFailed`](crate::Error::StartFailed), and leaves the container exited.
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Sends the stop signal, waits up to `grace`, then kills. Returns once the container has
    /// exited. Idempotent.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// Kills if need be and removes the container, its writable layer and its cgroup; the log
    /// stays. Idempotent.
    async fn remove_container(&self, id: &str) -> Result<()>;
    async fn container_status(&self, id: &str) -> Result<ContainerStatus>;
    async fn list_containers(&self) -> Result<Vec<ContainerStatus>>;
    /// Gives a running container other limits. A zero leaves a value alone; -1 takes a limit away.
    async fn update_container_resources(
        &self,
        id: &str,
        resources: LinuxContainerResources,
    ) -> Result<()>;
    /// Reopens the log file by its path; called after the kubelet renamed the old one.
    async fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Runs `command` to its end. [`Error::ExecTimeout`](crate::Error::ExecTimeout) after
    /// `timeout`, with the process killed.
    async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecSyncOutput>;
    /// Starts `command` and hands over its streams.
    async fn exec(&self, id: &str, request: ExecRequest) -> Result<StreamSession>;
    /// Joins the streams of the container's own process.
    async fn attach(&self, id: &str, request: AttachRequest) -> Result<StreamSession>;
    /// Connects to `localhost:port` as seen from inside the sandbox.
    async fn dial(&self, sandbox_id: &str, port: u16) -> Result<TcpStream>;

    async fn container_stats(&self, id: &str) -> Result<ContainerStats>;
    async fn list_container_stats(&self) -> Result<Vec<ContainerStats>>;

    /// Subscribes to what happens from now on. A receiver that lags must list again.
    fn events(&self) -> broadcast::Receiver<ContainerEvent>;
}

/// The images on this machine.
#[async_trait]
pub trait ImageService: Send + Sync + 'static {
    async fn list_images(&self) -> Result<Vec<Image>>;
    /// `reference` may be short (`kuard:blue`), full, by digest, or an image id (prefix). `None`:
    /// not present.
    async fn image_status(&self, reference: &str) -> Result<Option<Image>>;
    /// Fetches from a registry and answers the image id. What a failed or abandoned pull had
    /// fetched shortens the next one.
    async fn pull_image(&self, request: PullImage) -> Result<String>;
    /// Removes the names, or for an id the whole image. Layers still used by containers stay until
    /// those go. Idempotent.
    async fn remove_image(&self, reference: &str) -> Result<()>;
    /// Imports an OCI layout or `docker save` archive; answers what it named. All or nothing.
    async fn load_image(&self, archive: &Path) -> Result<Vec<Image>>;
    async fn image_fs_info(&self) -> Result<FilesystemUsage>;
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    pub runtime_name: String,
    pub runtime_version: String,
}

/// Counterpart: `RuntimeFeatures` and the features of the default `RuntimeHandler`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RuntimeFeatures {
    pub user_namespaces: bool,
    pub recursive_read_only_mounts: bool,
    pub supplemental_groups_policy: bool,
}

/// Space taken on one file system, and what that file system has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesystemUsage {
    pub mountpoint: std::path::PathBuf,
    pub used_bytes: u64,
    pub inodes_used: u64,
    pub capacity_bytes: u64,
    pub available_bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// Something changed in a container; carries enough for a pod worker to know whom to wake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEvent {
    pub kind: ContainerEventKind,
    pub sandbox_id: String,
    /// Equal to `sandbox_id` when the event is about the sandbox itself.
    pub container_id: String,
    /// The sandbox's labels' owner, so that no lookup is needed.
    pub pod_uid: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerEventKind {
    Created,
    Started,
    /// The process ended and its exit code is known to `container_status`.
    Stopped {
        exit_code: i32,
        oom_killed: bool,
    },
    Deleted,
    /// The sandbox is no longer ready: stopped, or its shim died.
    SandboxStopped,
}
