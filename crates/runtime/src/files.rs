//! Small durable files: JSON state that is either the old one or the new one, never half of each.
//!
//! Counterpart: `renameio`. Invariant: a reader never sees a partial write, and a missing file is
//! not an error.

use std::{
    fs,
    io::{ErrorKind, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use serde::{Serialize, de::DeserializeOwned};

use crate::error::{Error, IoContext, Result};

/// Creates a directory only root may enter, with its parents.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create directory", path)
}

/// Creates a directory with exactly this mode; its new parents are private.
pub(crate) fn create_dir(path: &Path, mode: u32) -> Result<()> {
    create_private_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("create directory", path)
}

pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let content = serde_json::to_vec(value)
        .map_err(|source| Error::State { path: path.to_owned(), source })?;
    write_atomic(path, &content)
}

/// Replaces `path` by rename. The data is not forced to disk: a crash of the machine ends the
/// containers too, and what must outlive it is synced by its owner ([`sync_filesystem`]).
pub(crate) fn write_atomic(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension("tmp");
    let options = || {
        fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)
    };
    options().and_then(|mut file| file.write_all(content)).at("write", &temporary)?;
    fs::rename(&temporary, path).at("replace", path)
}

/// `None` if there is no such file.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let content = match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        content => content.at("read", path)?,
    };
    serde_json::from_slice(&content)
        .map(Some)
        .map_err(|source| Error::State { path: path.to_owned(), source })
}

pub(crate) fn sync_filesystem(dir: &Path) -> Result<()> {
    let handle = fs::File::open(dir).at("open", dir)?;
    nix::unistd::syncfs(handle).at("sync", dir)
}

/// Removes a tree; one that is not there is as good as removed.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Bytes and inodes below a directory, without following links. What vanishes meanwhile counts
/// nothing.
pub fn disk_usage(dir: &Path) -> (u64, u64) {
    let mut total = (0, 0);
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(found) = entry.metadata() else { continue };
        let below = if found.is_dir() { disk_usage(&entry.path()) } else { (0, 0) };
        total = (total.0 + found.blocks() * 512 + below.0, total.1 + 1 + below.1);
    }
    total
}
