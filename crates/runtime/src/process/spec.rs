//! A container as the shim reads it: every default taken, every name but the image's own users
//! resolved.
//!
//! Counterpart: the OCI runtime `config.json`, cut to what the embedded runtime uses.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{capabilities::CapabilitySet, seccomp};
use crate::{
    cgroup,
    cri::{ContainerUser, MountPropagation},
};

/// Written by the daemon to the container's directory at create; read by the shim at start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerSpec {
    pub id: String,
    pub process: ProcessSpec,
    pub rootfs: RootfsSpec,
    pub mounts: Vec<MountSpec>,
    pub devices: Vec<DeviceSpec>,
    pub masked_paths: Vec<PathBuf>,
    pub readonly_paths: Vec<PathBuf>,
    pub pid_namespace: PidNamespace,
    pub cgroup: cgroup::Handle,
    pub privileged: bool,
    pub stdio: StdioSpec,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessSpec {
    pub args: Vec<String>,
    /// Each `NAME=value`.
    pub env: Vec<String>,
    pub working_dir: PathBuf,
    pub user: UserSpec,
    pub capabilities: CapabilitySet,
    pub no_new_privs: bool,
    pub seccomp: seccomp::Policy,
    pub oom_score_adj: i64,
    pub tty: bool,
}

/// Names can only be resolved inside the container, from its `/etc/passwd`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum UserSpec {
    Named {
        /// `user[:group]`, each a name or a number; empty is root.
        name: String,
        group: Option<u32>,
        supplemental_groups: Vec<u32>,
        /// Whether groups the image's `/etc/group` lists for the user count.
        merge_image_groups: bool,
    },
    /// For exec: what the container's process turned out to be.
    Resolved(ContainerUser),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RootfsSpec {
    #[serde(flatten)]
    pub files: LayersSpec,
    pub readonly: bool,
}

/// Layers on top of each other, as one tree.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayersSpec {
    pub layers_dir: PathBuf,
    /// Below `layers_dir`, topmost first.
    pub layers: Vec<String>,
    /// Holds `upper`, `work` and the mount point `rootfs`.
    pub dir: PathBuf,
}

/// An image's files as the source of a mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ImageSource {
    pub files: LayersSpec,
    pub sub_path: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct MountSpec {
    pub source: PathBuf,
    /// What is mounted instead of `source`.
    #[serde(default)]
    pub image: Option<ImageSource>,
    pub target: PathBuf,
    pub readonly: bool,
    pub recursive_read_only: bool,
    pub propagation: MountPropagation,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviceSpec {
    pub path: PathBuf,
    /// The same on the node.
    #[serde(default)]
    pub source: PathBuf,
    pub block: bool,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PidNamespace {
    /// A new one, with the container as its init.
    Own,
    /// Whatever the shim's children get: the pod's, or the node's.
    Inherited,
    /// That of this process.
    Of(i32),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StdioSpec {
    pub stdin: bool,
    /// Empty: output is dropped.
    pub log_path: PathBuf,
}
