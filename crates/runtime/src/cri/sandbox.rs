//! Pod sandboxes: what is asked for, and what is.
//!
//! Counterpart: CRI `PodSandboxConfig` and `PodSandboxStatus`. Times are `SystemTime`; paths are
//! the daemon's own.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf, time::SystemTime};

use serde::{Deserialize, Serialize};

use super::container::{LinuxContainerResources, SeccompProfile};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodSandboxMetadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PodSandboxConfig {
    pub metadata: PodSandboxMetadata,
    /// Which of the runtime's kinds of sandboxes this is to be; empty for its default.
    #[serde(default)]
    pub runtime_handler: String,
    /// Ignored with the host's network, whose UTS namespace the pod then shares.
    pub hostname: String,
    /// Where container logs go; a container's `log_path` is relative to it.
    pub log_directory: PathBuf,
    /// Content of `/etc/resolv.conf`. `None`: containers see the node's, unless they mount their
    /// own.
    pub resolv_conf: Option<String>,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub linux: LinuxPodSandboxConfig,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinuxPodSandboxConfig {
    /// Such as `/kubepods/burstable/pod<uid>`, below the runtime's cgroup root.
    pub cgroup_parent: String,
    pub namespaces: NamespaceOptions,
    /// Whether a container of the pod will be; some runtimes must know before they make the sandbox.
    #[serde(default)]
    pub privileged: bool,
    pub sysctls: BTreeMap<String, String>,
    /// For the pause process of a shared PID namespace.
    pub seccomp: SeccompProfile,
    /// The whole pod's limits, written to `cgroup_parent`.
    pub resources: LinuxContainerResources,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceOptions {
    pub network: NamespaceMode,
    /// `Container` by default: sharing processes is what a pod has to ask for.
    pub pid: NamespaceMode,
    pub ipc: NamespaceMode,
    /// The container whose PID namespace to enter, with [`NamespaceMode::Target`].
    pub target_id: Option<String>,
    /// The pod's own users; `None` with the node's.
    #[serde(default)]
    pub user: Option<UserNamespace>,
}

/// Which of the node's users and groups the pod's are. Counterpart: `UserNamespace` of the mode `POD`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserNamespace {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

/// `length` ids from `container_id` on, as a container sees them, are those from `host_id` on to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    pub container_id: u32,
    pub host_id: u32,
    pub length: u32,
}

/// Who shares a namespace.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    #[default]
    Pod,
    Container,
    Node,
    Target,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodSandboxState {
    Ready,
    NotReady,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PodSandboxStatus {
    pub id: String,
    pub metadata: PodSandboxMetadata,
    pub state: PodSandboxState,
    pub created_at: SystemTime,
    /// Empty with the host's network.
    pub ips: Vec<IpAddr>,
    pub namespaces: NamespaceOptions,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// `/proc/<pid>/ns/net`, while ready and not on the host's network.
    pub netns: Option<PathBuf>,
    /// Of the pod as a whole, as last updated.
    pub resources: LinuxContainerResources,
}

// === impl NamespaceOptions ===

impl Default for NamespaceOptions {
    fn default() -> Self {
        NamespaceOptions {
            network: NamespaceMode::Pod,
            pid: NamespaceMode::Container,
            ipc: NamespaceMode::Pod,
            target_id: None,
            user: None,
        }
    }
}

// === impl UserNamespace ===

impl UserNamespace {
    /// Who the pod's user and group are to the node; `None` for one it does not have.
    pub fn on_node(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let find = |mappings: &[IdMapping], id| mappings.iter().find_map(|one| one.on_node(id));
        Some((find(&self.uids, uid)?, find(&self.gids, gid)?))
    }
}

// === impl IdMapping ===

impl IdMapping {
    fn on_node(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.container_id).filter(|offset| *offset < self.length)?;
        self.host_id.checked_add(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_beyond_a_pods_own_are_nobody() {
        let mapping = IdMapping { container_id: 0, host_id: 65536, length: 65536 };
        let users = UserNamespace { uids: vec![mapping], gids: vec![mapping] };
        assert_eq!(users.on_node(0, 1000), Some((65536, 66536)));
        assert_eq!(users.on_node(65535, 0), Some((131071, 65536)));
        assert_eq!(users.on_node(65536, 0), None);
    }
}
