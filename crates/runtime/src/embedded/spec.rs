//! Decides a container: what was asked for, over what the image says, over what every container
//! gets.
//!
//! Consumes a container's config, its sandbox's and its image's, emits the [`ContainerSpec`] the
//! shim carries out.
//! Counterpart: containerd's `container_create_linux.go`. Pure but for device listing and profile
//! reading.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use crate::{
    cgroup::{self, DeviceKind, DeviceRule},
    cri::{
        ContainerConfig, LinuxContainerSecurityContext, Mount, MountPropagation, NamespaceMode,
        SeccompProfile, SupplementalGroupsPolicy,
    },
    error::{Error, Result},
    image::ImageConfig,
    process::{
        CapabilitySet, ContainerSpec, DEFAULT_CAPABILITIES, DeviceSpec, ImageSource, LayersSpec,
        MountSpec, PidNamespace, ProcessSpec, RootfsSpec, StdioSpec, UserSpec, seccomp::Policy,
    },
};

/// Everything a spec is decided from.
pub(super) struct Inputs<'a> {
    pub id: &'a str,
    pub config: &'a ContainerConfig,
    pub image: &'a ImageConfig,
    pub hostname: &'a str,
    /// Files every container of the pod sees unless it mounts its own: target and source.
    pub pod_files: Vec<(&'static str, PathBuf)>,
    pub rootfs: LayersSpec,
    /// What each mount shows that is an image, in the order of the mounts.
    pub image_mounts: Vec<Option<ImageSource>>,
    pub log_path: PathBuf,
    pub cgroup: cgroup::Handle,
    /// The process of the container named by `target_id`.
    pub target: Option<i32>,
}

pub(super) fn build(inputs: Inputs<'_>) -> Result<ContainerSpec> {
    let config = inputs.config;
    let security = &config.linux.security;
    let sources = config.mounts.iter().zip(inputs.image_mounts);
    let mut mounts: Vec<MountSpec> = sources.map(|(mount, image)| volume(mount, image)).collect();
    add_pod_files(&mut mounts, inputs.pod_files, security.readonly_rootfs);
    // What lies deeper is mounted later; of equals, the order given stands.
    mounts.sort_by_key(|mount| mount.target.components().count());
    let (masked, readonly) = match security.privileged {
        true => (Vec::new(), Vec::new()),
        false => (paths(&security.masked_paths), paths(&security.readonly_paths)),
    };
    Ok(ContainerSpec {
        id: inputs.id.to_owned(),
        process: process(config, inputs.image, inputs.hostname)?,
        rootfs: RootfsSpec { files: inputs.rootfs, readonly: security.readonly_rootfs },
        mounts,
        devices: devices(config)?,
        masked_paths: masked,
        readonly_paths: readonly,
        pid_namespace: pid_namespace(security, inputs.target)?,
        cgroup: inputs.cgroup,
        privileged: security.privileged,
        stdio: StdioSpec { stdin: config.stdin, log_path: inputs.log_path },
    })
}

// === the process ===

fn process(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Result<ProcessSpec> {
    let security = &config.linux.security;
    let image_dir = image.working_dir.as_deref().unwrap_or_default();
    let dir = [config.working_dir.as_str(), image_dir, "/"].into_iter().find(|dir| !dir.is_empty());
    Ok(ProcessSpec {
        args: args(config, image)?,
        env: environment(config, image, hostname),
        working_dir: Path::new("/").join(dir.unwrap_or("/")),
        user: user(security, image)?,
        capabilities: capabilities(security)?,
        no_new_privs: security.no_new_privs,
        seccomp: seccomp(security)?,
        oom_score_adj: config.linux.resources.oom_score_adj,
        tty: config.tty,
    })
}

/// The table of Kubernetes' documentation: a command replaces entrypoint and arguments, arguments
/// replace arguments.
fn args(config: &ContainerConfig, image: &ImageConfig) -> Result<Vec<String>> {
    let entrypoint = image.entrypoint.clone().unwrap_or_default();
    let cmd = image.cmd.clone().unwrap_or_default();
    let args = match (config.command.is_empty(), config.args.is_empty()) {
        (false, _) => [config.command.clone(), config.args.clone()],
        (true, false) => [entrypoint, config.args.clone()],
        (true, true) => [entrypoint, cmd],
    }
    .concat();
    match args.is_empty() {
        true => Err(invalid("container command", "no command specified")),
        false => Ok(args),
    }
}

fn environment(config: &ContainerConfig, image: &ImageConfig, hostname: &str) -> Vec<String> {
    let mut environment: Vec<(String, String)> = vec![("HOSTNAME".to_owned(), hostname.to_owned())];
    if config.tty {
        environment.push(("TERM".to_owned(), "xterm".to_owned()));
    }
    let from_image = image.env.iter().flatten().filter_map(|entry| entry.split_once('='));
    let from_image = from_image.map(|(name, value)| (name.to_owned(), value.to_owned()));
    for (name, value) in from_image.chain(config.envs.iter().cloned()) {
        match environment.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => environment.push((name, value)),
        }
    }
    environment.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn user(security: &LinuxContainerSecurityContext, image: &ImageConfig) -> Result<UserSpec> {
    let name = match (security.run_as_user, &security.run_as_username) {
        (Some(uid), _) => id(uid)?.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => image.user.clone().unwrap_or_default(),
    };
    let groups = security.supplemental_groups.iter().map(|gid| id(*gid)).collect::<Result<_>>()?;
    Ok(UserSpec::Named {
        name,
        group: security.run_as_group.map(id).transpose()?,
        supplemental_groups: groups,
        merge_image_groups: security.supplemental_groups_policy == SupplementalGroupsPolicy::Merge,
    })
}

fn id(number: i64) -> Result<u32> {
    u32::try_from(number)
        .map_err(|_| invalid("user or group id", &format!("{number} is out of range")))
}

fn capabilities(security: &LinuxContainerSecurityContext) -> Result<CapabilitySet> {
    if security.privileged {
        return Ok(CapabilitySet { granted: CapabilitySet::all(), ambient: 0 });
    }
    let mask = |names: &[String]| -> Result<u64> {
        names.iter().try_fold(0, |mask, name| {
            let one = CapabilitySet::mask(name)
                .ok_or_else(|| invalid("capability", &format!("{name:?} is not one")))?;
            Ok(mask | one)
        })
    };
    let usual =
        DEFAULT_CAPABILITIES.iter().filter_map(|name| CapabilitySet::mask(name)).sum::<u64>();
    let (add, drop) = (mask(&security.capabilities.add)?, mask(&security.capabilities.drop)?);
    let ambient = mask(&security.capabilities.add_ambient)?;
    // ALL on one side is the base the other side changes.
    let granted = match (add == CapabilitySet::all(), drop == CapabilitySet::all()) {
        (true, _) => add & !drop,
        (false, true) => add,
        (false, false) => (usual | add) & !drop,
    };
    Ok(CapabilitySet { granted: granted | ambient, ambient })
}

fn seccomp(security: &LinuxContainerSecurityContext) -> Result<Policy> {
    match &security.seccomp {
        _ if security.privileged => Ok(Policy::Unconfined),
        SeccompProfile::Unconfined => Ok(Policy::Unconfined),
        SeccompProfile::RuntimeDefault => Ok(Policy::RuntimeDefault),
        SeccompProfile::Localhost(path) => {
            Policy::read(path).map_err(|reason| invalid("seccomp profile", &reason))
        }
    }
}

fn pid_namespace(
    security: &LinuxContainerSecurityContext,
    target: Option<i32>,
) -> Result<PidNamespace> {
    match security.namespaces.pid {
        NamespaceMode::Container => Ok(PidNamespace::Own),
        // The shim's children are born in the pod's namespace, or in the node's if the sandbox was
        // given that.
        NamespaceMode::Pod | NamespaceMode::Node => Ok(PidNamespace::Inherited),
        NamespaceMode::Target => target
            .map(PidNamespace::Of)
            .ok_or_else(|| invalid("target container", "it is not running in this sandbox")),
    }
}

// === mounts and devices ===

fn volume(mount: &Mount, image: Option<ImageSource>) -> MountSpec {
    MountSpec {
        source: mount.host_path.clone(),
        target: Path::new("/").join(&mount.container_path),
        readonly: mount.readonly,
        recursive_read_only: mount.recursive_read_only,
        propagation: mount.propagation,
        image,
    }
}

fn add_pod_files(mounts: &mut Vec<MountSpec>, files: Vec<(&'static str, PathBuf)>, readonly: bool) {
    for (target, source) in files {
        let target = PathBuf::from(target);
        if !mounts.iter().any(|mount| mount.target == target) {
            let propagation = MountPropagation::Private;
            mounts.push(MountSpec {
                source,
                target,
                readonly,
                recursive_read_only: false,
                propagation,
                image: None,
            });
        }
    }
}

fn paths(texts: &[String]) -> Vec<PathBuf> {
    texts.iter().map(PathBuf::from).collect()
}

fn devices(config: &ContainerConfig) -> Result<Vec<DeviceSpec>> {
    let mut found = match config.linux.security.privileged {
        true => node_devices(Path::new("/dev")),
        false => Vec::new(),
    };
    for device in &config.devices {
        let mut spec = device_at(&device.host_path).ok_or_else(|| {
            invalid("device", &format!("{} is not one", device.host_path.display()))
        })?;
        spec.path.clone_from(&device.container_path);
        found.push(spec);
    }
    Ok(found)
}

fn device_at(path: &Path) -> Option<DeviceSpec> {
    let found = fs::symlink_metadata(path).ok()?;
    let (kind, device) = (found.file_type(), found.rdev());
    (kind.is_block_device() || kind.is_char_device()).then(|| DeviceSpec {
        path: path.to_owned(),
        source: path.to_owned(),
        block: kind.is_block_device(),
        major: nix::sys::stat::major(device) as u32,
        minor: nix::sys::stat::minor(device) as u32,
        mode: found.mode() & 0o7777,
        uid: found.uid(),
        gid: found.gid(),
    })
}

/// All the node's devices, for a privileged container; its terminals and shared memory are its own.
fn node_devices(dir: &Path) -> Vec<DeviceSpec> {
    const OWN: [&str; 6] = ["pts", "shm", "mqueue", "fd", "ptmx", "console"];
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => found.extend(node_devices(&path)),
            _ => found.extend(device_at(&path)),
        }
    }
    found
}

/// What the container's device cgroup lets it open.
pub(super) fn device_rules(config: &ContainerConfig) -> Vec<DeviceRule> {
    if config.linux.security.privileged {
        return vec![DeviceRule::everything()];
    }
    let mut rules = DeviceRule::defaults();
    rules.extend(config.devices.iter().filter_map(|device| {
        let spec = device_at(&device.host_path)?;
        Some(DeviceRule {
            kind: if spec.block { DeviceKind::Block } else { DeviceKind::Char },
            major: Some(spec.major),
            minor: Some(spec.minor),
            access: device.permissions.clone(),
        })
    }));
    rules
}

/// `SIGTERM`, `TERM`, `15` or `SIGRTMIN+3` as a number.
pub(super) fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(offset) = bare.strip_prefix("RTMIN") {
        let offset: i32 =
            if offset.is_empty() { 0 } else { offset.strip_prefix('+')?.parse().ok()? };
        return (0..=30).contains(&offset).then_some(34 + offset);
    }
    format!("SIG{bare}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn invalid(what: &'static str, reason: &str) -> Error {
    Error::InvalidConfig { what, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn command_and_args_follow_the_documented_table() {
        let image = ImageConfig {
            entrypoint: Some(strings(&["/ep"])),
            cmd: Some(strings(&["foo"])),
            ..ImageConfig::default()
        };
        for (command, arguments, expected) in [
            (&[][..], &[][..], &["/ep", "foo"][..]),
            (&["/c"], &[], &["/c"]),
            (&[], &["a"], &["/ep", "a"]),
            (&["/c"], &["a"], &["/c", "a"]),
        ] {
            let config = ContainerConfig {
                command: strings(command),
                args: strings(arguments),
                ..ContainerConfig::default()
            };
            assert_eq!(args(&config, &image).unwrap(), strings(expected));
        }
        assert!(args(&ContainerConfig::default(), &ImageConfig::default()).is_err());
    }

    #[test]
    fn later_environment_wins_in_place() {
        let image =
            ImageConfig { env: Some(strings(&["PATH=/bin", "A=1"])), ..ImageConfig::default() };
        let config = ContainerConfig {
            envs: vec![("A".to_owned(), "2".to_owned()), ("B".to_owned(), "x=y".to_owned())],
            ..ContainerConfig::default()
        };
        assert_eq!(environment(&config, &image, "h"), ["HOSTNAME=h", "PATH=/bin", "A=2", "B=x=y"]);
    }

    #[test]
    fn capabilities_add_and_drop() {
        let usual =
            DEFAULT_CAPABILITIES.iter().filter_map(|name| CapabilitySet::mask(name)).sum::<u64>();
        let (chown, admin) = (1, CapabilitySet::SYS_ADMIN);
        for (add, drop, expected) in [
            (&[][..], &[][..], usual),
            (&["SYS_ADMIN"], &["CHOWN"], (usual | admin) & !chown),
            (&["CAP_CHOWN"], &["ALL"], chown),
            (&["ALL"], &["CHOWN"], CapabilitySet::all() & !chown),
        ] {
            let mut security = LinuxContainerSecurityContext::default();
            security.capabilities.add = strings(add);
            security.capabilities.drop = strings(drop);
            assert_eq!(capabilities(&security).unwrap().granted, expected, "+{add:?} -{drop:?}");
        }
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("SIGRTMIN+3", Some(37)),
            ("SIGNOPE", None),
            ("99", None),
        ] {
            assert_eq!(signal_number(name), number, "{name}");
        }
    }
}
