//! The groups of pods and of classes of pods, for runtimes that leave these to the node agent.
//!
//! A path such as `/kubepods/burstable` and resources -> a group below the node's own. Counterpart: `pkg/kubelet/cm`.
//! Invariant: containers' groups are the runtime's; nothing here looks into them.

use super::Cgroups;
use crate::{cri::LinuxContainerResources, error::Result};

pub struct PodCgroups(Cgroups);

// === impl PodCgroups ===

impl PodCgroups {
    /// `root` is the path below each hierarchy that belongs to this node (`/` for all of it).
    pub fn open(root: &str) -> Result<Self> {
        Cgroups::detect(root).map(PodCgroups)
    }

    /// The group's path as a runtime is told it: from the root of the hierarchy.
    pub fn full_path(&self, path: &str) -> String {
        let full = std::path::Path::new("/").join(&self.0.root).join(super::relative(path));
        full.to_string_lossy().into_owned()
    }

    /// Gives the group its limits; makes it if it is not there. A zero leaves a value alone.
    pub fn set(&self, path: &str, resources: &LinuxContainerResources) -> Result<()> {
        self.0.create(path)?.apply(resources)
    }

    /// Removes the group and those below. One that still has processes stays.
    pub fn remove(&self, path: &str) {
        self.0.handle(path).remove();
    }
}
