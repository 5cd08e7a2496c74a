//! Builds the container's file system and enters it.
//!
//! Consumes the layers and mounts of a spec, emits a mount namespace whose root is the container's.
//! Two halves, because a pod with users of its own gives up the node's privileges between them: `gather` takes all that
//! is the node's, `assemble` needs nothing but the pod's namespaces.
//! Order is law: sources are taken before the root changes, standard mounts come before volumes (a
//! volume may cover one), masks after volumes, and the root turns read-only last.
//! Counterpart: runc's `rootfs_linux.go`.
//! Invariant: every mount made here lives in this namespace only and dies with its last process.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    sys::stat::{Mode, umask},
    unistd::{chdir, pivot_root},
};

use super::{
    devices,
    mounts::{
        Detached, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_RDONLY, bind,
        make_target, mask, protect, seal, set_propagation, set_readonly,
    },
    spec::{ContainerSpec, DeviceSpec, ImageSource, LayersSpec, MountSpec},
    users::{PodUsers, become_root},
};
use crate::{cgroup, overlay::mount_overlay};

/// Names the step that failed.
pub(super) trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, String>;
}

impl<T, E: std::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T, String> {
        self.map_err(|error| format!("{}: {error}", what()))
    }
}

/// What the shim knows of the world outside the container.
pub(crate) struct Outside<'a> {
    /// The daemon's mount namespace, where volumes are.
    pub mounts: &'a OwnedFd,
    /// The pod's shared memory, in the shim's own namespace; `None` with the node's IPC.
    pub shm: Option<&'a Path>,
    /// The pod's own users, if it has any.
    pub users: Option<&'a PodUsers>,
}

/// What a container is put together from. The working directory is where its `rootfs` is mounted.
pub(super) struct Parts {
    shm: Detached,
    volumes: Vec<Detached>,
    devices: devices::Source,
    /// With users of the pod's own: the root once more, to be had without the node's privileges.
    root: Option<Detached>,
}

const ROOT: &str = "rootfs";

pub(super) fn gather(spec: &ContainerSpec, outside: &Outside<'_>) -> Result<Parts, String> {
    let shm = Detached::take(outside.shm.unwrap_or(Path::new("/dev/shm")))
        .step(|| "open /dev/shm".into())?;
    setns(outside.mounts.as_fd(), CloneFlags::CLONE_NEWNS)
        .step(|| "enter the node's mounts".into())?;
    let volumes = spec.mounts.iter().map(|mount| take(mount, outside.users));
    let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
    let devices = match outside.users {
        None => devices::Source::Made,
        Some(_) => take_devices(&spec.devices)?,
    };

    unshare(CloneFlags::CLONE_NEWNS).step(|| "create a mount namespace".into())?;
    set_propagation(Path::new("/"), crate::cri::MountPropagation::HostToContainer)
        .step(|| "cut the mount namespace off".into())?;
    umask(Mode::empty());
    let files = &spec.rootfs.files;
    if let Some(users) = outside.users {
        map_layers(&files.layers_dir, users)?;
    }
    let volumes = volumes.into_iter().map(Source::detach).collect::<Result<Vec<_>, _>>()?;
    let set_up = || "set up the root file system".to_owned();
    let root = mount_layers(files).step(set_up)?;
    let root = outside.users.map(|_| Detached::take(&root)).transpose().step(set_up)?;
    chdir(&files.dir).step(set_up)?;
    Ok(Parts { shm, volumes, devices, root })
}

pub(super) fn assemble(spec: &ContainerSpec, parts: Parts) -> Result<(), String> {
    let Parts { shm, volumes, devices, root } = parts;
    let has_users = root.is_some();
    if let Some(root) = root {
        // What is mounted already is locked in a copy for other users: only what is attached now can become the root.
        unshare(CloneFlags::CLONE_NEWNS).step(|| "create the users' mount namespace".into())?;
        root.attach(Path::new(ROOT)).step(|| "attach the root file system".into())?;
    }
    // Other users than the node's may only see these anew while they still see the node's.
    let system = System::fresh(spec.privileged)?;
    change_root().step(|| "change to the root file system".into())?;
    if has_users {
        become_root().step(|| "become root".into())?;
    }
    standard_mounts(spec, system, devices, shm)?;
    // A mount point made for a volume must look like `mkdir` made it.
    umask(Mode::from_bits_truncate(0o022));
    for (mount, source) in spec.mounts.iter().zip(volumes) {
        attach(mount, source).step(|| format!("mount {:?} at {:?}", mount.source, mount.target))?;
    }
    make_working_dir(&spec.process.working_dir)?;
    restrict(spec)
}

/// Where the files of a mount come from.
enum Source<'a> {
    /// A place of the node's, already taken.
    Node(Detached),
    /// Mounted when there is a namespace of the container's own to do it in.
    Image(&'a ImageSource),
}

impl Source<'_> {
    fn detach(self) -> Result<Detached, String> {
        match self {
            Source::Node(taken) => Ok(taken),
            Source::Image(image) => {
                let root =
                    mount_layers(&image.files).step(|| "mount the image of a volume".into())?;
                Detached::take_beneath(&root, &image.sub_path)
                    .step(|| format!("find {:?} in the image of a volume", image.sub_path))
            }
        }
    }
}

fn take<'a>(mount: &'a MountSpec, users: Option<&PodUsers>) -> Result<Source<'a>, String> {
    if let Some(image) = &mount.image {
        return Ok(Source::Image(image));
    }
    let taken =
        Detached::take(&mount.source).step(|| format!("mount source {:?}", mount.source))?;
    Ok(Source::Node(match users {
        Some(users) => map_owners(taken, &mount.source, users)?,
        None => taken,
    }))
}

fn map_owners(taken: Detached, source: &Path, users: &PodUsers) -> Result<Detached, String> {
    taken.map_owners(users.namespace.as_fd()).map_err(|error| {
        let reason = "maybe the file system does not support idmap mounts on this kernel";
        format!("failed to set MOUNT_ATTR_IDMAP on {}: {error} ({reason})", source.display())
    })
}

/// In this mount namespace the layers' directory shows the owners that the pod's users are.
fn map_layers(layers_dir: &Path, users: &PodUsers) -> Result<(), String> {
    let step = || format!("mount {layers_dir:?}");
    let layers = Detached::take(layers_dir).step(step)?;
    map_owners(layers, layers_dir, users)?.attach(layers_dir).step(step)
}

fn take_devices(extra: &[DeviceSpec]) -> Result<devices::Source, String> {
    devices::take(extra).map_err(|(device, error)| format!("take the device {device:?}: {error}"))
}

/// Answers where the tree is mounted.
fn mount_layers(files: &LayersSpec) -> io::Result<PathBuf> {
    let root = files.dir.join(ROOT);
    match files.layers.as_slice() {
        // An image without layers is an empty directory.
        [] => bind(&files.dir.join("upper"), &root)?,
        layers => mount_overlay(&files.layers_dir, layers, &files.dir, "upper", &root)?,
    }
    Ok(root)
}

fn change_root() -> io::Result<()> {
    chdir(ROOT)?;
    // The old root ends up on top of the new one, which is where it can be taken off.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

// === standard mounts ===

/// The kernel's own file systems.
struct System {
    processes: Detached,
    devices: Detached,
}

// === impl System ===

impl System {
    fn fresh(privileged: bool) -> Result<Self, String> {
        let quiet = MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOEXEC | MOUNT_ATTR_NODEV;
        let unchanged = if privileged { 0 } else { MOUNT_ATTR_RDONLY };
        let processes = Detached::fresh(c"proc", quiet).step(|| "mount /proc".into())?;
        let devices = Detached::fresh(c"sysfs", quiet | unchanged).step(|| "mount /sys".into())?;
        Ok(System { processes, devices })
    }
}

fn standard_mounts(
    spec: &ContainerSpec,
    system: System,
    devices: devices::Source,
    shm: Detached,
) -> Result<(), String> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let unchanged = if spec.privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    system.processes.attach(Path::new("/proc")).step(|| "mount /proc".into())?;
    fresh("tmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, "mode=755,size=65536k")?;
    devices::populate(devices, &spec.devices).step(|| "create devices".into())?;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    fresh("devpts", "/dev/pts", terminals, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    fresh("mqueue", "/dev/mqueue", quiet, "")?;
    shm.attach(Path::new("/dev/shm")).step(|| "mount /dev/shm".into())?;
    system.devices.attach(Path::new("/sys")).step(|| "mount /sys".into())?;
    cgroup_mounts(spec, quiet | unchanged)
}

fn fresh(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<(), String> {
    let step = || format!("mount {target}");
    if target != "/sys/fs/cgroup" {
        make_target(Path::new(target), true).step(step)?;
    }
    mount(Some(kind), target, Some(kind), flags, Some(options)).step(step)
}

/// The container's own groups only: the cgroup namespace makes them look like the root.
fn cgroup_mounts(spec: &ContainerSpec, flags: MsFlags) -> Result<(), String> {
    const BASE: &str = "/sys/fs/cgroup";
    if matches!(spec.cgroup, cgroup::Handle::V2(_)) {
        return fresh("cgroup2", BASE, flags, "nsdelegate")
            .or_else(|_| fresh("cgroup2", BASE, flags, ""));
    }
    fresh("tmpfs", BASE, flags - MsFlags::MS_RDONLY, "mode=755,size=1m")?;
    let hierarchies =
        fs::read_to_string("/proc/self/cgroup").step(|| "read /proc/self/cgroup".into())?;
    for names in hierarchies
        .lines()
        .filter_map(|line| line.split(':').nth(1))
        .filter(|names| !names.is_empty())
    {
        let dir = names.trim_start_matches("name=");
        let target = format!("{BASE}/{dir}");
        fs::create_dir(&target).step(|| format!("mount {target}"))?;
        mount(Some("cgroup"), target.as_str(), Some("cgroup"), flags, Some(names))
            .step(|| format!("mount {target}"))?;
        for alias in dir.split(',').filter(|alias| *alias != dir) {
            std::os::unix::fs::symlink(dir, format!("{BASE}/{alias}"))
                .step(|| format!("link {alias}"))?;
        }
    }
    match flags.contains(MsFlags::MS_RDONLY) {
        true => set_readonly(Path::new(BASE), false).step(|| format!("protect {BASE}")),
        false => Ok(()),
    }
}

// === volumes and restrictions ===

fn attach(mount: &MountSpec, source: Detached) -> io::Result<()> {
    source.attach(&mount.target)?;
    set_propagation(&mount.target, mount.propagation)?;
    if mount.image.is_some() {
        return seal(&mount.target);
    }
    match mount.readonly {
        true => set_readonly(&mount.target, mount.recursive_read_only),
        false => Ok(()),
    }
}

/// Before the root turns read-only, and before the user changes: the directory may not exist in the
/// image.
fn make_working_dir(dir: &Path) -> Result<(), String> {
    match dir.is_dir() {
        true => Ok(()),
        false => fs::create_dir_all(dir).step(|| format!("create the working directory {dir:?}")),
    }
}

fn restrict(spec: &ContainerSpec) -> Result<(), String> {
    let each = |paths: &[PathBuf], what: &str, act: fn(&Path) -> io::Result<()>| {
        paths.iter().try_for_each(|path| act(path).step(|| format!("{what} {path:?}")))
    };
    each(&spec.readonly_paths, "protect", protect)?;
    each(&spec.masked_paths, "mask", mask)?;
    match spec.rootfs.readonly {
        true => set_readonly(Path::new("/"), false)
            .step(|| "make the root file system read-only".into()),
        false => Ok(()),
    }
}
