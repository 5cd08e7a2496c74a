//! Memory-backed directories, and finding what is mounted where.
//!
//! Invariant: whatever is mounted below a directory is unmounted before that directory is removed, so that taking
//! a pod down never deletes through a mount.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounts a tmpfs at `dir` unless something is mounted there already. `size` of zero: the kernel's default.
pub fn ensure(dir: &Path, size: u64) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    if is_mount_point(dir)? {
        return Ok(());
    }
    let options = if size > 0 { format!("size={size}") } else { String::new() };
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), dir, Some("tmpfs"), flags, Some(options.as_str())).map_err(io::Error::from)
}

/// The same for content that should not reach a disk; where mounting is refused the directory itself has to do.
pub fn ensure_or_directory(dir: &Path) -> io::Result<()> {
    match ensure(dir, 0) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            tracing::warn!(dir = %dir.display(), "tmpfs refused, content is kept on disk");
            Ok(())
        }
        other => other,
    }
}

/// What is mounted there is not touched: its server may not answer.
pub fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else { return Ok(true) };
    let dir = parent.canonicalize()?.join(name);
    Ok(mount_points()?.contains(&dir))
}

/// Unmounts everything at or below `dir`, deepest first.
pub fn unmount_below(dir: &Path) -> io::Result<()> {
    let Ok(dir) = dir.canonicalize() else { return Ok(()) };
    let mut found: Vec<PathBuf> =
        mount_points()?.into_iter().filter(|p| p.starts_with(&dir)).collect();
    found.reverse();
    for point in found {
        umount2(&point, MntFlags::MNT_DETACH).map_err(io::Error::from)?;
    }
    Ok(())
}

/// In the order they were mounted.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    Ok(text
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|p| PathBuf::from(unescape(p)))
        .collect())
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(path: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(path.to_owned(), |path, (code, plain)| path.replace(code, plain))
}
