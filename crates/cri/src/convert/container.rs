//! Containers.
//!
//! Lost in CRI: a limit of processes (the pod's group has it), how the config named the image, and the process' id, which
//! runtimes tell among the `info` of a verbose status.

use skiff_runtime::{
    Capabilities, ContainerConfig, ContainerMetadata, ContainerState, ContainerStatus,
    ContainerUser, Device, HugepageLimit, ImageMount, LinuxContainerConfig,
    LinuxContainerResources, LinuxContainerSecurityContext, Mount, MountPropagation,
    SupplementalGroupsPolicy,
};

use super::{
    Enumeration, Unknown, int64, nanos,
    signal::{signal_name, signal_number},
    text, time, time_if_any,
};
use crate::api;

// === metadata ===

impl From<ContainerMetadata> for api::ContainerMetadata {
    fn from(ContainerMetadata { name, attempt }: ContainerMetadata) -> Self {
        api::ContainerMetadata { name, attempt }
    }
}

impl From<api::ContainerMetadata> for ContainerMetadata {
    fn from(api::ContainerMetadata { name, attempt }: api::ContainerMetadata) -> Self {
        ContainerMetadata { name, attempt }
    }
}

// === config ===

impl From<ContainerConfig> for api::ContainerConfig {
    fn from(from: ContainerConfig) -> Self {
        let env = |(key, value): (String, String)| api::KeyValue { key, value: value.into_bytes() };
        // Whoever has users of its own sees its volumes' owners as they are to them.
        let users = from.linux.security.namespaces.user.clone().map(api::UserNamespace::from);
        let users = users.unwrap_or_default();
        let mount = |one: Mount| api::Mount {
            uid_mappings: users.uids.clone(),
            gid_mappings: users.gids.clone(),
            ..one.into()
        };
        api::ContainerConfig {
            metadata: Some(from.metadata.into()),
            image: Some(api::ImageSpec::named(&from.image)),
            command: from.command,
            args: from.args,
            working_dir: from.working_dir,
            envs: from.envs.into_iter().map(env).collect(),
            mounts: from.mounts.into_iter().map(mount).collect(),
            devices: from.devices.into_iter().map(Into::into).collect(),
            labels: from.labels,
            annotations: from.annotations,
            log_path: text(&from.log_path),
            stdin: from.stdin,
            stdin_once: from.stdin_once,
            tty: from.tty,
            linux: Some(api::LinuxContainerConfig {
                resources: Some(from.linux.resources.into()),
                security_context: Some(from.linux.security.into()),
            }),
            cdi_devices: Vec::new(),
            stop_signal: from.stop_signal.as_deref().map_or(0, signal_number),
        }
    }
}

impl TryFrom<api::ContainerConfig> for ContainerConfig {
    type Error = Unknown;

    fn try_from(from: api::ContainerConfig) -> Result<Self, Unknown> {
        let linux = from.linux.unwrap_or_default();
        let env = |one: api::KeyValue| (one.key, String::from_utf8_lossy(&one.value).into_owned());
        let mounts: Result<Vec<Mount>, Unknown> =
            from.mounts.into_iter().map(TryInto::try_into).collect();
        Ok(ContainerConfig {
            metadata: from.metadata.unwrap_or_default().into(),
            image: from.image.unwrap_or_default().image,
            command: from.command,
            args: from.args,
            working_dir: from.working_dir,
            envs: from.envs.into_iter().map(env).collect(),
            mounts: mounts?,
            devices: from.devices.into_iter().map(Into::into).collect(),
            labels: from.labels,
            annotations: from.annotations,
            log_path: from.log_path.into(),
            stdin: from.stdin,
            stdin_once: from.stdin_once,
            tty: from.tty,
            stop_signal: signal_name(from.stop_signal)?.map(str::to_owned),
            linux: LinuxContainerConfig {
                resources: linux.resources.unwrap_or_default().into(),
                security: linux.security_context.unwrap_or_default().try_into()?,
            },
        })
    }
}

impl From<LinuxContainerSecurityContext> for api::LinuxContainerSecurityContext {
    fn from(from: LinuxContainerSecurityContext) -> Self {
        let capabilities = from.capabilities;
        api::LinuxContainerSecurityContext {
            capabilities: Some(api::Capability {
                add_capabilities: capabilities.add,
                drop_capabilities: capabilities.drop,
                add_ambient_capabilities: capabilities.add_ambient,
            }),
            privileged: from.privileged,
            namespace_options: Some(from.namespaces.into()),
            run_as_user: from.run_as_user.map(int64),
            run_as_username: from.run_as_username.unwrap_or_default(),
            readonly_rootfs: from.readonly_rootfs,
            supplemental_groups: from.supplemental_groups,
            no_new_privs: from.no_new_privs,
            run_as_group: from.run_as_group.map(int64),
            masked_paths: from.masked_paths,
            readonly_paths: from.readonly_paths,
            seccomp: Some(from.seccomp.into()),
            apparmor: None,
            supplemental_groups_policy: from.supplemental_groups_policy.number(),
        }
    }
}

impl TryFrom<api::LinuxContainerSecurityContext> for LinuxContainerSecurityContext {
    type Error = Unknown;

    fn try_from(from: api::LinuxContainerSecurityContext) -> Result<Self, Unknown> {
        let capabilities = from.capabilities.unwrap_or_default();
        Ok(LinuxContainerSecurityContext {
            capabilities: Capabilities {
                add: capabilities.add_capabilities,
                drop: capabilities.drop_capabilities,
                add_ambient: capabilities.add_ambient_capabilities,
            },
            privileged: from.privileged,
            namespaces: from.namespace_options.unwrap_or_default().try_into()?,
            run_as_user: from.run_as_user.map(|user| user.value),
            run_as_username: Some(from.run_as_username).filter(|name| !name.is_empty()),
            run_as_group: from.run_as_group.map(|group| group.value),
            supplemental_groups: from.supplemental_groups,
            supplemental_groups_policy: SupplementalGroupsPolicy::named(
                from.supplemental_groups_policy,
            )?,
            readonly_rootfs: from.readonly_rootfs,
            no_new_privs: from.no_new_privs,
            seccomp: from.seccomp.unwrap_or_default().try_into()?,
            masked_paths: from.masked_paths,
            readonly_paths: from.readonly_paths,
        })
    }
}

impl From<LinuxContainerResources> for api::LinuxContainerResources {
    fn from(from: LinuxContainerResources) -> Self {
        let limit =
            |one: HugepageLimit| api::HugepageLimit { page_size: one.page_size, limit: one.limit };
        api::LinuxContainerResources {
            cpu_period: from.cpu_period.cast_signed(),
            cpu_quota: from.cpu_quota,
            cpu_shares: from.cpu_shares.cast_signed(),
            memory_limit_in_bytes: from.memory_limit_bytes,
            oom_score_adj: from.oom_score_adj,
            cpuset_cpus: from.cpuset_cpus,
            cpuset_mems: from.cpuset_mems,
            hugepage_limits: from.hugepage_limits.into_iter().map(limit).collect(),
            unified: from.unified,
            memory_swap_limit_in_bytes: 0,
        }
    }
}

impl From<api::LinuxContainerResources> for LinuxContainerResources {
    fn from(from: api::LinuxContainerResources) -> Self {
        let limit =
            |one: api::HugepageLimit| HugepageLimit { page_size: one.page_size, limit: one.limit };
        LinuxContainerResources {
            cpu_period: u64::try_from(from.cpu_period).unwrap_or_default(),
            cpu_quota: from.cpu_quota,
            cpu_shares: u64::try_from(from.cpu_shares).unwrap_or_default(),
            memory_limit_bytes: from.memory_limit_in_bytes,
            pids_limit: 0,
            oom_score_adj: from.oom_score_adj,
            cpuset_cpus: from.cpuset_cpus,
            cpuset_mems: from.cpuset_mems,
            hugepage_limits: from.hugepage_limits.into_iter().map(limit).collect(),
            unified: from.unified,
        }
    }
}

impl From<Mount> for api::Mount {
    fn from(from: Mount) -> Self {
        let (image, image_sub_path) = match from.image {
            Some(mount) => (Some(api::ImageSpec::named(&mount.id)), text(&mount.sub_path)),
            None => (None, String::new()),
        };
        api::Mount {
            container_path: text(&from.container_path),
            host_path: text(&from.host_path),
            readonly: from.readonly,
            propagation: from.propagation.number(),
            uid_mappings: Vec::new(),
            gid_mappings: Vec::new(),
            recursive_read_only: from.recursive_read_only,
            image,
            image_sub_path,
        }
    }
}

impl TryFrom<api::Mount> for Mount {
    type Error = Unknown;

    fn try_from(from: api::Mount) -> Result<Self, Unknown> {
        let sub_path = from.image_sub_path.into();
        let image = from.image.filter(|image| !image.image.is_empty());
        Ok(Mount {
            container_path: from.container_path.into(),
            host_path: from.host_path.into(),
            image: image.map(|image| ImageMount { id: image.image, sub_path }),
            readonly: from.readonly,
            recursive_read_only: from.recursive_read_only,
            propagation: MountPropagation::named(from.propagation)?,
        })
    }
}

impl From<Device> for api::Device {
    fn from(from: Device) -> Self {
        api::Device {
            container_path: text(&from.container_path),
            host_path: text(&from.host_path),
            permissions: from.permissions,
        }
    }
}

impl From<api::Device> for Device {
    fn from(from: api::Device) -> Self {
        Device {
            container_path: from.container_path.into(),
            host_path: from.host_path.into(),
            permissions: from.permissions,
        }
    }
}

// === status ===

impl From<ContainerStatus> for api::ContainerStatus {
    fn from(from: ContainerStatus) -> Self {
        let user = from.user.map(|user| api::LinuxContainerUser {
            uid: user.uid.into(),
            gid: user.gid.into(),
            supplemental_groups: user.supplemental_groups.into_iter().map(i64::from).collect(),
        });
        api::ContainerStatus {
            id: from.id,
            metadata: Some(from.metadata.into()),
            state: from.state.number(),
            created_at: nanos(from.created_at),
            started_at: from.started_at.map_or(0, nanos),
            finished_at: from.finished_at.map_or(0, nanos),
            exit_code: from.exit_code.unwrap_or_default(),
            image: Some(api::ImageSpec::named(&from.image)),
            image_ref: from.image_ref,
            reason: from.reason,
            message: from.message,
            labels: from.labels,
            annotations: from.annotations,
            mounts: from.mounts.into_iter().map(Into::into).collect(),
            log_path: text(&from.log_path),
            resources: Some(api::ContainerResources { linux: Some(from.resources.into()) }),
            image_id: from.image_id,
            user: user.map(|user| api::ContainerUser { linux: Some(user) }),
            stop_signal: signal_number(&from.stop_signal),
        }
    }
}

impl From<ContainerStatus> for api::Container {
    fn from(from: ContainerStatus) -> Self {
        api::Container {
            id: from.id,
            pod_sandbox_id: from.sandbox_id,
            metadata: Some(from.metadata.into()),
            image: Some(api::ImageSpec::named(&from.image)),
            image_ref: from.image_ref,
            state: from.state.number(),
            created_at: nanos(from.created_at),
            labels: from.labels,
            annotations: from.annotations,
            image_id: from.image_id,
        }
    }
}

impl api::ContainerStatus {
    /// A status says everything but the sandbox, which only the list knows.
    pub fn of_listed(self, listed: api::Container) -> ContainerStatus {
        let from = self;
        let state = ContainerState::named(from.state).unwrap_or(ContainerState::Unknown);
        let resources = from.resources.and_then(|resources| resources.linux);
        let image_id = [from.image_id, listed.image_id, listed.image_ref];
        let mounts = from.mounts.into_iter().filter_map(|mount| Mount::try_from(mount).ok());
        ContainerStatus {
            id: from.id,
            sandbox_id: listed.pod_sandbox_id,
            metadata: from.metadata.unwrap_or_default().into(),
            state,
            created_at: time(from.created_at),
            started_at: time_if_any(from.started_at),
            finished_at: time_if_any(from.finished_at),
            exit_code: (state == ContainerState::Exited).then_some(from.exit_code),
            reason: from.reason,
            message: from.message,
            image: from.image.unwrap_or_default().image,
            image_ref: from.image_ref,
            image_id: image_id.into_iter().find(|id| !id.is_empty()).unwrap_or_default(),
            labels: from.labels,
            annotations: from.annotations,
            mounts: mounts.collect(),
            log_path: from.log_path.into(),
            resources: resources.unwrap_or_default().into(),
            user: from.user.and_then(|user| user.linux).map(Into::into),
            pid: None,
            stop_signal: signal_name(from.stop_signal)
                .ok()
                .flatten()
                .unwrap_or_default()
                .to_owned(),
        }
    }
}

impl From<api::LinuxContainerUser> for ContainerUser {
    fn from(from: api::LinuxContainerUser) -> Self {
        let id = |id: i64| u32::try_from(id).unwrap_or(u32::MAX);
        ContainerUser {
            uid: id(from.uid),
            gid: id(from.gid),
            supplemental_groups: from.supplemental_groups.into_iter().map(id).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_comes_back_as_it_was() {
        let mut config = ContainerConfig {
            image: "kuard:blue".into(),
            command: vec!["sh".into()],
            envs: vec![("A".into(), "ä".into())],
            mounts: vec![Mount {
                container_path: "/image".into(),
                image: Some(ImageMount { id: "sha256:0".into(), sub_path: "etc".into() }),
                propagation: MountPropagation::Bidirectional,
                ..Mount::default()
            }],
            log_path: "web/0.log".into(),
            stop_signal: Some("SIGRTMIN+3".into()),
            ..ContainerConfig::default()
        };
        config.linux.security.run_as_user = Some(0);
        config.linux.security.capabilities.drop = vec!["ALL".into()];
        config.linux.resources.memory_limit_bytes = 1 << 20;
        let sent = api::ContainerConfig::from(config.clone());
        assert_eq!(ContainerConfig::try_from(sent), Ok(config));
    }

    #[test]
    fn a_container_of_an_older_runtime_is_told_by_its_image_reference() {
        let listed = api::Container {
            pod_sandbox_id: "pod".into(),
            image_ref: "sha256:1".into(),
            ..Default::default()
        };
        let status = api::ContainerStatus { state: 1, exit_code: 0, ..Default::default() };
        let status = status.of_listed(listed);
        assert_eq!((&*status.image_id, &*status.sandbox_id), ("sha256:1", "pod"));
        assert_eq!((status.exit_code, status.started_at), (None, None));
    }
}
