//! The registration directory: which sockets there are, and the kernel's word that something has changed.
//!
//! Counterpart: `pkg/kubelet/pluginmanager/pluginwatcher`. Invariant: a socket that was made anew at its place is told from the old one.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use nix::sys::inotify::AddWatchFlags;

use crate::directory_watch::DirectoryWatch;

/// A socket is another one when it was made anew at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made(u64, i64);

/// Becomes readable when something in the directory or below changes.
pub fn changes(dir: &Path) -> Option<DirectoryWatch> {
    let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
    DirectoryWatch::of(directories_below(dir), changes)
        .inspect_err(|error| tracing::debug!(%error, "plugins are looked for by the clock"))
        .ok()
}

fn directories_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for (path, kind) in entries(dir) {
        if kind.is_dir() {
            found.extend(directories_below(&path));
        }
    }
    found
}

pub fn sockets_below(dir: &Path) -> BTreeMap<PathBuf, Made> {
    let mut found = BTreeMap::new();
    for dir in directories_below(dir) {
        for (path, kind) in entries(&dir) {
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
            if kind.is_socket()
                && !is_hidden
                && let Ok(meta) = path.symlink_metadata()
            {
                found.insert(
                    path,
                    Made(meta.ino(), meta.ctime_nsec() + meta.ctime() * 1_000_000_000),
                );
            }
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = (PathBuf, std::fs::FileType)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_type().ok()?)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn sockets_are_found_at_any_depth_but_not_hidden_ones_or_files() {
        let dir = std::env::temp_dir().join(format!("skiff-plugins-{}", std::process::id()));
        std::fs::create_dir_all(dir.join("vendor")).expect("a directory");
        let wanted = [dir.join("disk.sock"), dir.join("vendor/gpu.sock")];
        let bound: Vec<_> = wanted.iter().map(UnixListener::bind).collect();
        assert!(bound.iter().all(Result::is_ok), "{bound:?}");
        std::fs::write(dir.join("file"), "").expect("a file");
        let _hidden = UnixListener::bind(dir.join(".hidden.sock")).expect("a socket");
        let found = sockets_below(&dir);
        assert!(found.keys().eq(&wanted), "{found:?}");
        std::fs::remove_file(&wanted[0]).expect("it is there");
        let _anew = UnixListener::bind(&wanted[0]).expect("a socket");
        assert_ne!(sockets_below(&dir)[&wanted[0]], found[&wanted[0]], "it is another one");
        std::fs::remove_dir_all(&dir).expect("it is there");
    }
}
