//! The language of the end-to-end tests: a [`Host`] of their own, a [`Cluster`] on it, and kubectl.
//!
//! Every test gets a private "machine": a network namespace without a route out and a mount
//! namespace, so that whatever it does to its host is gone when it ends.

mod cluster;
pub mod containerd;
mod host;
pub mod http;
mod manifest;
pub mod plugin;
pub mod registry;
mod run;

pub use cluster::{Cluster, Running, artifact, images, kubectl};
pub use host::Host;
pub use manifest::{deployment, kuard_pod, service};
pub use run::{Outcome, eventually, eventually_within};
