//! `subPath`: a part of a volume, mounted so that no link inside it leads out.
//!
//! Consumes a volume's root and a relative path, emits a bind mount of what the path names. Counterpart:
//! `pkg/volume/util/subpath`.
//! Invariant: the path is resolved by the kernel beneath the root (openat2), and what was resolved is what gets
//! mounted: the container cannot swap it in between.

use std::{
    io,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::PermissionsExt,
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    mount::{MsFlags, mount},
    sys::stat::{Mode, SFlag, fstat, mkdirat},
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
    let kind = SFlag::from_bits_truncate(fstat(&source)?.st_mode) & SFlag::S_IFMT;
    let is_dir = kind == SFlag::S_IFDIR;
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

fn resolve(root: &Path, sub: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let dir = open(root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
    let how = OpenHow::new()
        .flags(flags)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&dir, sub, how) {
        Err(Errno::ENOENT) => {
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
    // As open as the volume itself, whatever the umask says.
    let mode = Mode::from_bits_truncate(fstat(root)?.st_mode & 0o777);
    let mut dir = openat2(root, ".", how)?;
    for part in sub.components() {
        let made = match mkdirat(&dir, part.as_os_str(), mode) {
            Ok(()) => true,
            Err(Errno::EEXIST) => false,
            Err(error) => return Err(error.into()),
        };
        dir = openat2(&dir, Path::new(part.as_os_str()), how)?;
        if made {
            let held = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()));
            let present = std::fs::metadata(&held)?.permissions().mode();
            let wanted = present & !0o777 | mode.bits();
            std::fs::set_permissions(&held, std::fs::Permissions::from_mode(wanted))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("skiff-subpath-{}-{name}", std::process::id()));
        std::fs::create_dir_all(dir.join("volume")).expect("a directory");
        dir
    }

    #[test]
    fn stays_inside_and_makes_what_is_missing() {
        let dir = volume("inside");
        let root = dir.join("volume");
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o777)).expect("chmod");
        resolve(&root, Path::new("a/b")).expect("made");
        let made = std::fs::metadata(root.join("a/b")).expect("a directory");
        assert_eq!(made.permissions().mode() & 0o777, 0o777);
        std::fs::remove_dir_all(&dir).expect("removed");
    }

    #[test]
    fn refuses_links_that_lead_out() {
        let dir = volume("outside");
        let root = dir.join("volume");
        for target in ["/etc", ".."] {
            let link = root.join("link");
            std::os::unix::fs::symlink(target, &link).expect("a link");
            assert!(resolve(&root, Path::new("link/x")).is_err(), "{target}");
            std::fs::remove_file(&link).expect("removed");
        }
        for path in ["../x", "/etc", "a/../../x"] {
            assert!(bind(&root, Path::new(path), &dir.join("target")).is_err(), "{path}");
        }
        assert!(!dir.join("x").exists());
        std::fs::remove_dir_all(&dir).expect("removed");
    }
}
