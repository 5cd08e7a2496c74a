//! `subPath`: a part of a volume, mounted so that no link inside it leads out.
//!
//! Consumes a volume's root and a relative path, emits a bind mount of what the path names. Counterpart:
//! `pkg/volume/util/subpath`.
//! Invariant: the path is resolved by the kernel beneath the root (openat2), and what was resolved is what gets
//! mounted: the container cannot swap it in between.

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Component, Path},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MsFlags, mount},
    sys::stat::{Mode, fstat},
};

/// Binds `root/sub` at `target`, making directories that are missing.
pub fn bind(root: &Path, sub: &Path, target: &Path) -> io::Result<()> {
    if sub.components().any(|c| !matches!(c, Component::Normal(_))) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "subPath must be relative and must not contain '..'",
        ));
    }
    let source = resolve(root, sub)?;
    let is_dir =
        fstat(&source)?.st_mode & libc_mode_mask() == nix::sys::stat::SFlag::S_IFDIR.bits();
    if super::tmpfs::is_mount_point(target).unwrap_or(false) {
        super::tmpfs::unmount_below(target)?;
    }
    if is_dir {
        std::fs::create_dir_all(target)?;
    } else {
        std::fs::create_dir_all(target.parent().unwrap_or(target))?;
        std::fs::File::create(target)?;
    }
    let held = format!("/proc/self/fd/{}", source.as_raw_fd());
    let none = None::<&str>;
    mount(Some(held.as_str()), target, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
        .map_err(io::Error::from)
}

fn libc_mode_mask() -> u32 {
    nix::sys::stat::SFlag::S_IFMT.bits()
}

fn resolve(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let dir = open(root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&dir, sub, how) {
        Err(nix::errno::Errno::ENOENT) => {
            create_beneath(&dir, sub)?;
            openat2(&dir, sub, how).map_err(io::Error::from)
        }
        other => other.map_err(io::Error::from),
    }
}

fn create_beneath(root: &OwnedFd, sub: &Path) -> io::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let mut dir = openat2(root, ".", how)?;
    for part in sub.components() {
        match nix::sys::stat::mkdirat(&dir, part.as_os_str(), Mode::from_bits_truncate(0o750)) {
            Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
            Err(error) => return Err(error.into()),
        }
        dir = openat2(&dir, Path::new(part.as_os_str()), how)?;
    }
    Ok(())
}
