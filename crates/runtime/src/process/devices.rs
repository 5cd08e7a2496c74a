//! The container's `/dev`: a tmpfs with the nodes every program expects.
//!
//! Counterpart: the OCI runtime specification's default devices and symlinks.

use std::{fs, io, os::unix::fs::symlink, path::Path};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use super::spec::DeviceSpec;

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

/// Fills a fresh `/dev`. The caller's umask is zero.
pub(super) fn populate(extra: &[DeviceSpec]) -> io::Result<()> {
    for (path, major, minor) in NODES {
        make(Path::new(path), SFlag::S_IFCHR, 0o666, (major, minor))?;
    }
    for (target, link) in LINKS {
        symlink(target, link)?;
    }
    extra.iter().try_for_each(add)
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
