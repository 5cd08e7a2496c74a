//! Writes one layer: a gzipped tar, with the digests of both, and a digest of what it holds.
//!
//! Invariant: the content digest does not depend on times, so that a fresh checkout of the same files
//! is the same content.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use sha2::{Digest, Sha256};

use crate::image::{
    content::{ContentStore, to_digest},
    store::LayerBlob,
};

pub(crate) struct LayerWriter {
    tar: tar::Builder<Hashing<GzEncoder<Hashing<File>>>>,
    scratch: PathBuf,
    content: Sha256,
}

/// Who owns what is written, and how it may be used, where the Dockerfile says so.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Overrides {
    pub owner: Option<(u64, u64)>,
    pub mode: Option<u32>,
}

/// A finished layer, not yet known by its digest.
pub(crate) struct WrittenLayer {
    pub blob: LayerBlob,
    /// Digest of names, modes, owners and bytes.
    pub content: String,
    scratch: PathBuf,
}

// === impl LayerWriter ===

impl LayerWriter {
    pub(in crate::image) fn new(store: &ContentStore) -> crate::error::Result<Self> {
        let (file, scratch) = store.scratch()?;
        let packed = GzEncoder::new(Hashing::new(file), Compression::fast());
        let tar = tar::Builder::new(Hashing::new(packed));
        Ok(LayerWriter { tar, scratch, content: Sha256::new() })
    }

    /// Adds what lies at `path` as `name`; of a directory only itself.
    pub fn add(&mut self, name: &Path, path: &Path, overrides: Overrides) -> io::Result<()> {
        let found = fs::symlink_metadata(path)?;
        let kind = found.file_type();
        if kind.is_socket() {
            // It is nothing without its process.
            return Ok(());
        }
        let mut header = header_of(&found, overrides);
        self.extensions(path)?;
        if kind.is_symlink() {
            let target = fs::read_link(path)?;
            header.set_entry_type(tar::EntryType::Symlink);
            self.note(name, &header, target.as_os_str().as_encoded_bytes());
            return self.tar.append_link(&mut header, name, target);
        }
        if kind.is_file() {
            header.set_size(found.len());
            return self.add_stream(&mut header, name, File::open(path)?);
        }
        header.set_entry_type(match kind {
            kind if kind.is_dir() => tar::EntryType::Directory,
            kind if kind.is_fifo() => tar::EntryType::Fifo,
            kind if kind.is_char_device() => tar::EntryType::Char,
            kind if kind.is_block_device() => tar::EntryType::Block,
            _ => return Err(io::Error::other(format!("{} is of no known type", path.display()))),
        });
        if kind.is_char_device() || kind.is_block_device() {
            header.set_device_major(nix::sys::stat::major(found.rdev()) as u32)?;
            header.set_device_minor(nix::sys::stat::minor(found.rdev()) as u32)?;
        }
        self.note(name, &header, &[]);
        self.tar.append_data(&mut header, name, io::empty())
    }

    /// Adds a file with this content.
    pub fn add_file(
        &mut self,
        name: &Path,
        content: &[u8],
        overrides: Overrides,
    ) -> io::Result<()> {
        let mut header = new_header(overrides.mode.unwrap_or(0o644));
        let (uid, gid) = overrides.owner.unwrap_or_default();
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_size(content.len() as u64);
        self.add_stream(&mut header, name, content)
    }

    pub fn add_directory(&mut self, name: &Path, owner: Option<(u64, u64)>) -> io::Result<()> {
        let mut header = new_header(0o755);
        let (uid, gid) = owner.unwrap_or_default();
        header.set_uid(uid);
        header.set_gid(gid);
        header.set_entry_type(tar::EntryType::Directory);
        self.note(name, &header, &[]);
        self.tar.append_data(&mut header, name, io::empty())
    }

    /// Adds a second name of a file that was added.
    pub fn add_hard_link(&mut self, name: &Path, first: &Path) -> io::Result<()> {
        let mut header = new_header(0o644);
        header.set_entry_type(tar::EntryType::Link);
        self.note(name, &header, first.as_os_str().as_encoded_bytes());
        self.tar.append_link(&mut header, name, first)
    }

    /// Adds every entry of an archive below `target`.
    pub fn add_archive(
        &mut self,
        target: &Path,
        archive: impl Read,
        overrides: Overrides,
    ) -> io::Result<()> {
        let mut archive = tar::Archive::new(archive);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let name = target.join(entry.path()?.strip_prefix("/").unwrap_or(&entry.path()?));
            let mut header = entry.header().clone();
            if let Some((uid, gid)) = overrides.owner {
                header.set_uid(uid);
                header.set_gid(gid);
            }
            let kind = header.entry_type();
            match entry.link_name()? {
                Some(link) if kind.is_hard_link() => {
                    let link = target.join(link.strip_prefix("/").unwrap_or(&link));
                    self.note(&name, &header, link.as_os_str().as_encoded_bytes());
                    self.tar.append_link(&mut header, name, link)?;
                }
                Some(link) if kind.is_symlink() => {
                    self.note(&name, &header, link.as_os_str().as_encoded_bytes());
                    self.tar.append_link(&mut header, name, link)?;
                }
                _ => self.add_stream(&mut header, &name, &mut entry)?,
            }
        }
        Ok(())
    }

    pub fn finish(self) -> io::Result<WrittenLayer> {
        let (packed, diff_id) = self.tar.into_inner()?.finish();
        let (mut file, digest) = packed.finish()?.finish();
        file.flush()?;
        let content = to_digest(self.content.finalize().as_slice());
        Ok(WrittenLayer { blob: LayerBlob { digest, diff_id }, content, scratch: self.scratch })
    }

    fn add_stream(
        &mut self,
        header: &mut tar::Header,
        name: &Path,
        content: impl Read,
    ) -> io::Result<()> {
        self.note(name, header, &[]);
        let reader = Noting { inner: content, hash: &mut self.content };
        self.tar.append_data(header, name, reader)
    }

    /// Attributes of the file system that belong to the file, such as capabilities.
    fn extensions(&mut self, path: &Path) -> io::Result<()> {
        let names = match xattr::list(path) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOTSUP) => return Ok(()),
            names => names?,
        };
        let mut found = Vec::new();
        for name in names.filter_map(|name| name.into_string().ok()) {
            // Overlayfs' own marks say how layers lie upon each other, not what a file is.
            if !name.starts_with("trusted.overlay.")
                && let Some(value) = xattr::get(path, &name)?
            {
                found.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        for (name, value) in &found {
            self.content.update(name);
            self.content.update(value);
        }
        if found.is_empty() {
            return Ok(());
        }
        let pairs = found.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(pairs)
    }

    fn note(&mut self, name: &Path, header: &tar::Header, link: &[u8]) {
        let mut timeless = header.clone();
        timeless.set_mtime(0);
        self.content.update(name.as_os_str().as_encoded_bytes());
        self.content.update([0]);
        self.content.update(timeless.as_bytes());
        self.content.update(link);
    }
}

// === impl WrittenLayer ===

impl WrittenLayer {
    pub(in crate::image) fn keep(self, store: &ContentStore) -> crate::error::Result<LayerBlob> {
        store.adopt(&self.scratch, &self.blob.digest)?;
        Ok(self.blob)
    }

    pub fn discard(self) {
        // What cannot be removed is swept.
        let _ = fs::remove_file(&self.scratch);
    }
}

fn new_header(mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(0);
    header.set_mtime(0);
    header
}

fn header_of(found: &fs::Metadata, overrides: Overrides) -> tar::Header {
    let mode = found.mode() & 0o7777;
    let mode = if found.file_type().is_symlink() { mode } else { overrides.mode.unwrap_or(mode) };
    let mut header = new_header(mode);
    let own = (u64::from(found.uid()), u64::from(found.gid()));
    let (uid, gid) = overrides.owner.unwrap_or(own);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or(0));
    header
}

/// Hashes what passes.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
}

impl<W> Hashing<W> {
    fn new(inner: W) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    fn finish(self) -> (W, String) {
        (self.inner, to_digest(self.hash.finalize().as_slice()))
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

struct Noting<'a, R> {
    inner: R,
    hash: &'a mut Sha256,
}

impl<R: Read> Read for Noting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}
