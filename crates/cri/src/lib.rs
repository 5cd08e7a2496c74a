//! CRI v1 both ways: another runtime behind the kubelet's trait, and a runtime served at a socket.
//!
//! [`RemoteRuntime`] is a `Runtime` that asks a CRI server such as containerd; [`CriServer`] answers CRI for any `Runtime`, so that
//! crictl and its like see the embedded one. Both use the same messages ([`api`]) and conversions ([`convert`]).
//! Counterpart: `k8s.io/cri-client`, and the CRI plugin of containerd.
//! Invariant: knows no Kubernetes object; keeps no state of its own on disk.

pub mod api;
mod client;
mod convert;
mod error;
mod server;
mod streaming;

pub use client::{RemoteConfig, RemoteRuntime, socket_of};
pub use server::CriServer;
pub use streaming::{forward, join};
