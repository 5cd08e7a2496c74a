//! What a command changed: the upper directory of an overlay, as a layer.
//!
//! Consumes the directory, emits entries and whiteouts. Counterpart: containerd's
//! `archive.WriteDiff`.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use super::layer_writer::{LayerWriter, Overrides};

/// Where the runtime mounts something into every container: empty, and not the image's.
const MOUNT_POINTS: &[&str] =
    &["proc", "sys", "dev", "etc/resolv.conf", "etc/hostname", "etc/hosts"];

pub(crate) fn write_changes(upper: &Path, writer: &mut LayerWriter) -> io::Result<()> {
    Changes { upper, writer, links: HashMap::new() }.directory(Path::new(""))
}

struct Changes<'a> {
    upper: &'a Path,
    writer: &'a mut LayerWriter,
    /// The first name of files with several, by inode.
    links: HashMap<u64, PathBuf>,
}

impl Changes<'_> {
    fn directory(&mut self, dir: &Path) -> io::Result<()> {
        let mut names: Vec<_> = fs::read_dir(self.upper.join(dir))?
            .map(|entry| entry.map(|entry| entry.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            self.entry(&dir.join(name))?;
        }
        Ok(())
    }

    fn entry(&mut self, name: &Path) -> io::Result<()> {
        let path = self.upper.join(name);
        let found = fs::symlink_metadata(&path)?;
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            return self.whiteout(name);
        }
        if MOUNT_POINTS.iter().any(|point| Path::new(point) == name) && is_empty(&path, &found)? {
            return Ok(());
        }
        if kind.is_file() && found.nlink() > 1 {
            if let Some(first) = self.links.get(&found.ino()) {
                return self.writer.add_hard_link(name, first);
            }
            self.links.insert(found.ino(), name.to_owned());
        }
        self.writer.add(name, &path, Overrides::default())?;
        if !kind.is_dir() {
            return Ok(());
        }
        if xattr::get(&path, "trusted.overlay.opaque")?.as_deref() == Some(b"y") {
            self.writer.add_file(&name.join(".wh..wh..opq"), &[], Overrides::default())?;
        }
        self.directory(name)
    }

    fn whiteout(&mut self, name: &Path) -> io::Result<()> {
        let mut mark = std::ffi::OsString::from(".wh.");
        mark.push(name.file_name().unwrap_or_default());
        self.writer.add_file(&name.with_file_name(mark), &[], Overrides::default())
    }
}

fn is_empty(path: &Path, found: &fs::Metadata) -> io::Result<bool> {
    match found.is_dir() {
        true => Ok(fs::read_dir(path)?.next().is_none()),
        false => Ok(found.len() == 0),
    }
}
