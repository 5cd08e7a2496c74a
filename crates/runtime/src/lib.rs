//! Containers: images, layers, snapshots, sandboxes, and a shim per pod.
//!
//! Consumes CRI-shaped requests, decides processes, mounts and cgroups, emits running containers,
//! their logs and an event when one ends. Counterpart: containerd with its CRI plugin,
//! containerd-shim and runc.
//!
//! Three layers, each with one owner of state:
//! - [`cri`]: the vocabulary. A trait and plain types; what the kubelet sees, and all it sees.
//! - [`image`] and [`embedded`]: the daemon's half. Files under one root directory are the truth;
//!   memory is a cache of them.
//! - [`shim`]: the pod's half, a process of its own that outlives the daemon and holds the pod's
//!   namespaces.
//!
//! Invariant: nothing here knows a Kubernetes object, and no state lives only in the daemon's
//! memory.

mod cgroup;
mod cri;
mod embedded;
mod error;
mod files;
mod image;
mod network;
mod overlay;
mod process;
mod procfs;
mod shim;

pub use cgroup::PodCgroups;
pub use cri::*;
pub use embedded::{BuildNetwork, BuildOptions, Embedded, EmbeddedConfig, ShimCommand, dial};
pub use error::{Error, Result};
pub use files::disk_usage;
pub use image::{Reference, RegistryError, pack_context, unpack_context};
pub use network::{Attachment, LoopbackOnly, SandboxNetwork};
pub use shim::{SHIM_COMMAND, shim_main, shim_main_if_asked};
