//! The container's `/dev`: a tmpfs with the nodes every program expects.
//!
//! Counterpart: the OCI runtime specification's default devices and symlinks. In a user namespace nobody may make a
//! node, so the node's own are shown there.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::{mounts::Detached, spec::DeviceSpec};

const NODES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

const LINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "/dev/fd"),
    ("/proc/self/fd/0", "/dev/stdin"),
    ("/proc/self/fd/1", "/dev/stdout"),
    ("/proc/self/fd/2", "/dev/stderr"),
    ("/proc/kcore", "/dev/core"),
    ("pts/ptmx", "/dev/ptmx"),
];

/// Where the nodes come from.
pub(super) enum Source {
    Made,
    /// Each at its place in the container.
    Taken(Vec<(PathBuf, Detached)>),
}

/// Takes all nodes from the mounts the caller sees. One that two lists name is taken once.
pub(super) fn take(extra: &[DeviceSpec]) -> Result<Source, (PathBuf, io::Error)> {
    let usual = NODES.iter().map(|(path, ..)| (Path::new(path), Path::new(path)));
    let extra = extra.iter().map(|device| (device.path.as_path(), device.source.as_path()));
    let mut taken: Vec<(PathBuf, Detached)> = Vec::new();
    for (path, source) in usual.chain(extra) {
        if !taken.iter().any(|(known, _)| known == path) {
            let node = Detached::take(source).map_err(|error| (source.to_owned(), error))?;
            taken.push((path.to_owned(), node));
        }
    }
    Ok(Source::Taken(taken))
}

/// Fills a fresh `/dev`. The caller's umask is zero.
pub(super) fn populate(source: Source, extra: &[DeviceSpec]) -> io::Result<()> {
    for (target, link) in LINKS {
        symlink(target, link)?;
    }
    match source {
        Source::Taken(taken) => taken.into_iter().try_for_each(|(path, node)| node.attach(&path)),
        Source::Made => {
            for (path, major, minor) in NODES {
                make(Path::new(path), SFlag::S_IFCHR, 0o666, (major, minor))?;
            }
            extra.iter().try_for_each(add)
        }
    }
}

fn add(device: &DeviceSpec) -> io::Result<()> {
    if let Some(parent) = device.path.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = if device.block { SFlag::S_IFBLK } else { SFlag::S_IFCHR };
    make(&device.path, kind, device.mode, (device.major, device.minor))?;
    std::os::unix::fs::chown(&device.path, Some(device.uid), Some(device.gid))
}

/// A node that is there already (a privileged container lists the standard ones too) is kept.
fn make(path: &Path, kind: SFlag, mode: u32, (major, minor): (u32, u32)) -> io::Result<()> {
    match mknod(path, kind, Mode::from_bits_truncate(mode), makedev(major.into(), minor.into())) {
        Err(nix::errno::Errno::EEXIST) => Ok(()),
        result => Ok(result?),
    }
}
