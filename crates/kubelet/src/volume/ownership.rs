//! Gives a volume to the pod's `fsGroup`.
//!
//! Counterpart: `pkg/volume/volume_linux.go`. Consumes a directory and a group, changes owner group and mode.
//! Invariant: symbolic links are changed themselves, never followed.

use std::{
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, lchown},
    path::Path,
};

const READ_WRITE: u32 = 0o660;
const READ_ONLY: u32 = 0o440;
const DIRECTORY: u32 = 0o110;
const SET_GID: u32 = 0o2000;

/// With `only_on_mismatch`, a root that already is as it should be vouches for what is below.
pub fn give_to_group(
    root: &Path,
    group: u32,
    read_only: bool,
    only_on_mismatch: bool,
) -> io::Result<()> {
    if only_on_mismatch {
        let meta = root.symlink_metadata()?;
        let wanted = mode_for(true, read_only);
        if meta.gid() == group && meta.mode() & wanted == wanted {
            return Ok(());
        }
    }
    give(root, group, read_only)
}

fn give(path: &Path, group: u32, read_only: bool) -> io::Result<()> {
    let meta = path.symlink_metadata()?;
    lchown(path, None, Some(group))?;
    if meta.is_symlink() {
        return Ok(());
    }
    let mode = mode_for(meta.is_dir(), read_only);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(meta.mode() | mode))?;
    if meta.is_dir() {
        for entry in std::fs::read_dir(path)? {
            give(&entry?.path(), group, read_only)?;
        }
    }
    Ok(())
}

fn mode_for(directory: bool, read_only: bool) -> u32 {
    let base = if read_only { READ_ONLY } else { READ_WRITE };
    if directory { base | DIRECTORY | SET_GID } else { base }
}
