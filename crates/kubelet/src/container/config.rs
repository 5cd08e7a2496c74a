//! The container a pod asks for.
//!
//! Consumes a container's spec with everything it refers to already resolved, emits a [`ContainerConfig`].
//! Counterpart: `generateContainerConfig` of `pkg/kubelet/kuberuntime/kuberuntime_container.go`.
//! Invariant: pure; labels and annotations say enough to recognise the container after a restart of the agent.

use std::{collections::BTreeMap, path::PathBuf};

use skiff_runtime::{
    ContainerConfig, ContainerMetadata, Device, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, Mount,
};

use super::{expand::expand, sandbox::identity};
use crate::pod::desired::{DesiredContainer, DesiredPod};

pub const CONTAINER_NAME_LABEL: &str = "io.kubernetes.container.name";
const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
const POD_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What was resolved for one start of one container.
pub struct Resolved {
    pub attempt: u32,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub resources: LinuxContainerResources,
    pub security: LinuxContainerSecurityContext,
    pub devices: Vec<Device>,
    /// What plugins want to be written on the container.
    pub annotations: BTreeMap<String, String>,
}

pub fn container_config(
    pod: &DesiredPod,
    container: &DesiredContainer,
    resolved: Resolved,
) -> ContainerConfig {
    let spec = &container.spec;
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|text| expand(text, |name| lookup(&resolved.env, name))).collect()
    };
    let mut labels = identity(pod);
    labels.insert(CONTAINER_NAME_LABEL.into(), spec.name.clone());
    ContainerConfig {
        metadata: ContainerMetadata { name: spec.name.clone(), attempt: resolved.attempt },
        image: container.image().to_owned(),
        command: expanded(&spec.command),
        args: expanded(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        mounts: resolved.mounts,
        devices: resolved.devices,
        labels,
        annotations: annotations(pod, container, resolved.attempt, resolved.annotations),
        log_path: log_path(&spec.name, resolved.attempt),
        stdin: spec.stdin.unwrap_or(false),
        stdin_once: spec.stdin_once.unwrap_or(false),
        tty: spec.tty.unwrap_or(false),
        stop_signal: spec.lifecycle.as_ref().and_then(|l| l.stop_signal.clone()),
        linux: LinuxContainerConfig { resources: resolved.resources, security: resolved.security },
        envs: resolved.env,
    }
}

/// Relative to the pod's log directory.
pub fn log_path(container: &str, attempt: u32) -> PathBuf {
    PathBuf::from(container).join(format!("{attempt}.log"))
}

fn lookup(env: &[(String, String)], name: &str) -> Option<String> {
    env.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
}

fn annotations(
    pod: &DesiredPod,
    container: &DesiredContainer,
    attempt: u32,
    mut annotations: BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let spec = &container.spec;
    annotations.extend([
        (RESTART_COUNT.into(), attempt.to_string()),
        (TERMINATION_PATH.into(), spec.termination_message_path.clone().unwrap_or_default()),
        (TERMINATION_POLICY.into(), spec.termination_message_policy.clone().unwrap_or_default()),
        (POD_GRACE.into(), pod.grace().as_secs().to_string()),
    ]);
    annotations
}
