//! One overlay mount, for building layers and for running containers.
//!
//! Counterpart: containerd's overlayfs snapshotter. Layer names are relative to the layers'
//! directory, which becomes the caller's working directory: so 127 of them fit the page that mount
//! data may fill.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::Path,
};

use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    unistd::chdir,
};

/// Mounts `lowers` (topmost first, at least one) below `dir/<upper>` at `target`.
pub(crate) fn mount_overlay(
    layers_dir: &Path,
    lowers: &[String],
    dir: &Path,
    upper: &str,
    target: &Path,
) -> io::Result<()> {
    chdir(layers_dir)?;
    let dir = dir.display();
    let options = format!(
        "lowerdir={},upperdir={dir}/{upper},workdir={dir}/work,index=off",
        lowers.join(":")
    );
    mount(Some("overlay"), target, Some("overlay"), MsFlags::empty(), Some(options.as_str())).map_err(|error| {
        match error {
            Errno::ENODEV => io::Error::other("this kernel has no overlayfs (try: modprobe overlay)"),
            Errno::EINVAL => io::Error::other(format!(
                "overlayfs refuses {dir}: the data directory must be on a file system such as ext4 or xfs, not on an overlay"
            )),
            error => error.into(),
        }
    })
}

/// The root of a merged tree looks like its upper directory, so that one has to look like the layer
/// below.
pub(crate) fn inherit_root(below: &Path, upper: &Path) -> io::Result<()> {
    let found = fs::metadata(below)?;
    chown(upper, Some(found.uid()), Some(found.gid()))?;
    fs::set_permissions(upper, fs::Permissions::from_mode(found.mode() & 0o7777))
}
