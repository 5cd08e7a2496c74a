//! The seam between sandboxes and the pod network: who gives a namespace its addresses.
//!
//! Consumes a sandbox's network namespace and port mappings, emits its addresses. Counterpart: CNI
//! ADD and DEL.
//! Invariant: the runtime brings `lo` up and knows nothing else about networks.

use std::{io, net::IpAddr, path::PathBuf};

use async_trait::async_trait;

use crate::cri::{PodSandboxMetadata, PortMapping};

/// What a network needs to know of the sandbox it connects.
#[derive(Debug, Clone, PartialEq)]
pub struct Attachment {
    pub sandbox_id: String,
    pub metadata: PodSandboxMetadata,
    /// `/proc/<pid>/ns/net`. On detach it may no longer exist: the namespace died with its
    /// processes.
    pub netns: PathBuf,
    pub port_mappings: Vec<PortMapping>,
}

/// Connects sandboxes. Both calls are idempotent: the same attachment twice is one.
#[async_trait]
pub trait SandboxNetwork: Send + Sync + 'static {
    /// Answers the sandbox's addresses, primary first.
    async fn attach(&self, attachment: &Attachment) -> io::Result<Vec<IpAddr>>;
    /// Gives everything back; succeeds for a sandbox it never saw.
    async fn detach(&self, attachment: &Attachment) -> io::Result<()>;
}

/// A network of one: the sandbox has its loopback and nothing else.
#[derive(Debug, Default, Clone, Copy)]
pub struct LoopbackOnly;

// === impl LoopbackOnly ===

#[async_trait]
impl SandboxNetwork for LoopbackOnly {
    async fn attach(&self, _: &Attachment) -> io::Result<Vec<IpAddr>> {
        Ok(Vec::new())
    }

    async fn detach(&self, _: &Attachment) -> io::Result<()> {
        Ok(())
    }
}
