//! Local clusters: a node is a network namespace, a mount namespace, a cgroup and a directory.
//!
//! [`start`] makes them and runs the same `skiff server` that a real machine runs, inside; [`stop`]
//! keeps the directory, [`delete`] leaves nothing. Counterpart: minikube and kind, without a VM or
//! a container engine. Knows nothing of what the server does in there, but the lines it reports
//! ([`report`]).
//!
//! Invariant: everything a cluster puts on the host is named after it and listed in its state, so
//! that it can be taken away again whatever happened in between.

mod cgroup;
mod error;
mod host_network;
pub mod kubeconfig;
mod layout;
pub mod node;
mod process;
pub mod report;
mod start;
mod state;
mod status;
mod stop;

pub use error::{Error, Result};
pub use layout::Layout;
pub use start::{StartOptions, Started, start};
pub use status::{Health, Status, status};
pub use stop::{delete, stop};
