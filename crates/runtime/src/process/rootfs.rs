//! Builds the container's file system and enters it.
//!
//! Consumes the layers and mounts of a spec, emits a mount namespace whose root is the container's.
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
    mounts::{Detached, bind, make_target, mask, protect, seal, set_propagation, set_readonly},
    spec::{ContainerSpec, ImageSource, LayersSpec, MountSpec},
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
}

pub(super) fn enter(spec: &ContainerSpec, outside: &Outside<'_>) -> Result<(), String> {
    let shm = Detached::take(outside.shm.unwrap_or(Path::new("/dev/shm")))
        .step(|| "open /dev/shm".into())?;
    setns(outside.mounts.as_fd(), CloneFlags::CLONE_NEWNS)
        .step(|| "enter the node's mounts".into())?;
    let volumes = spec.mounts.iter().map(take).collect::<Result<Vec<_>, _>>()?;

    unshare(CloneFlags::CLONE_NEWNS).step(|| "create a mount namespace".into())?;
    set_propagation(Path::new("/"), crate::cri::MountPropagation::HostToContainer)
        .step(|| "cut the mount namespace off".into())?;
    umask(Mode::empty());
    let volumes = volumes.into_iter().map(Source::detach).collect::<Result<Vec<_>, _>>()?;
    change_root(&spec.rootfs.files).step(|| "set up the root file system".into())?;

    standard_mounts(spec, shm)?;
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

fn take(mount: &MountSpec) -> Result<Source<'_>, String> {
    if let Some(image) = &mount.image {
        return Ok(Source::Image(image));
    }
    let taken = Detached::take(&mount.source);
    taken.map(Source::Node).step(|| format!("mount source {:?}", mount.source))
}

/// Answers where the tree is mounted.
fn mount_layers(files: &LayersSpec) -> io::Result<PathBuf> {
    let root = files.dir.join("rootfs");
    match files.layers.as_slice() {
        // An image without layers is an empty directory.
        [] => bind(&files.dir.join("upper"), &root)?,
        layers => mount_overlay(&files.layers_dir, layers, &files.dir, "upper", &root)?,
    }
    Ok(root)
}

fn change_root(files: &LayersSpec) -> io::Result<()> {
    chdir(&mount_layers(files)?)?;
    // The old root ends up on top of the new one, which is where it can be taken off.
    pivot_root(".", ".")?;
    umount2(".", MntFlags::MNT_DETACH)?;
    Ok(chdir("/")?)
}

// === standard mounts ===

fn standard_mounts(spec: &ContainerSpec, shm: Detached) -> Result<(), String> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC | MsFlags::MS_NODEV;
    let unchanged = if spec.privileged { MsFlags::empty() } else { MsFlags::MS_RDONLY };
    fresh("proc", "/proc", quiet, "")?;
    fresh("tmpfs", "/dev", MsFlags::MS_NOSUID | MsFlags::MS_STRICTATIME, "mode=755,size=65536k")?;
    devices::populate(&spec.devices).step(|| "create devices".into())?;
    let terminals = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    fresh("devpts", "/dev/pts", terminals, "newinstance,ptmxmode=0666,mode=0620,gid=5")?;
    fresh("mqueue", "/dev/mqueue", quiet, "")?;
    shm.attach(Path::new("/dev/shm")).step(|| "mount /dev/shm".into())?;
    fresh("sysfs", "/sys", quiet | unchanged, "")?;
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
