//! Unpacks one layer on top of the layers below it, into a directory overlayfs can use as a lower.
//!
//! Consumes the layer's stored bytes, decides nothing, emits files. Counterpart: containerd's
//! `archive.Apply`. The work happens in a thread with a mount namespace of its own: there the lower
//! layers and the new directory are one overlay, and the thread is chrooted into it. So the kernel
//! resolves links inside the image, writes whiteouts and opaque marks itself, and a path in a
//! hostile archive cannot lead out.
//! Invariant: on success the hash of the plain tar matched; the mount never outlives the thread, not even on kill
//! -9.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs, io,
    io::{BufReader, Read},
    os::{
        fd::AsFd,
        unix::{
            ffi::OsStrExt,
            fs::{DirBuilderExt, PermissionsExt},
        },
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{AT_FDCWD, OFlag, open},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::{
        stat::{Mode, SFlag, UtimensatFlags, makedev, mknod, umask, utimensat},
        time::TimeSpec,
    },
    unistd::{chdir, chroot, fchdir},
};
use sha2::{Digest, Sha256};

use super::{
    archive::decompress,
    content::{digest_of, to_digest},
};
use crate::overlay::{inherit_root, mount_overlay};

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
const XATTR_PREFIX: &str = "SCHILY.xattr.";

#[derive(Debug, thiserror::Error)]
pub(super) enum LayerError {
    #[error("{0} does not match its digest")]
    Mismatch(String),
    /// The bytes are not a layer.
    #[error("layer entry {entry:?}: {source}")]
    Content { entry: String, source: io::Error },
    /// This machine could not hold it.
    #[error("cannot prepare the layer directory: {0}")]
    Machine(#[from] io::Error),
}

/// Where a layer is built: all directories below one that the caller renames or removes.
pub(super) struct Workspace<'a> {
    pub layers_dir: &'a Path,
    /// Names below `layers_dir`, topmost first.
    pub lowers: &'a [String],
    /// Below `layers_dir`; holds `fs`, `work` and `merged`.
    pub scratch: &'a str,
}

/// Unpacks `input`, whose uncompressed bytes hash to `diff_id`, into `<scratch>/fs`.
pub(super) fn unpack(
    workspace: &Workspace<'_>,
    input: impl Read + Send,
    diff_id: &str,
) -> Result<(), LayerError> {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| unpack_here(workspace, input, diff_id));
        worker
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the unpacking thread panicked").into()))
    })
}

/// Runs `look` with the layers as its root; what it changes there is thrown away with `<scratch>`.
pub(super) fn view<T: Send>(
    workspace: &Workspace<'_>,
    look: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    confined(|| Confined::enter(workspace), look)
}

/// Runs `look` with `dir` as its root, so that no link leads out of it.
pub(super) fn within<T: Send>(
    dir: &Path,
    look: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    confined(|| Confined::at(dir), look)
}

fn confined<T: Send>(
    enter: impl FnOnce() -> io::Result<Confined> + Send,
    look: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    let work = || {
        let root = enter()?;
        let seen = look();
        root.leave()?;
        seen
    };
    std::thread::scope(|scope| {
        let ended = scope.spawn(work).join();
        ended.unwrap_or_else(|_| Err(io::Error::other("the thread in the image panicked")))
    })
}

fn unpack_here(
    workspace: &Workspace<'_>,
    input: impl Read,
    diff_id: &str,
) -> Result<(), LayerError> {
    let root = Confined::enter(workspace)?;
    let found = {
        let mut plain = Hashing::new(decompress(BufReader::new(input))?);
        apply(&mut plain)?;
        plain.finish()?
    };
    root.leave()?;
    match found == diff_id {
        true => Ok(()),
        false => Err(LayerError::Mismatch(diff_id.to_owned())),
    }
}

// === Confined ===

/// The thread's view while it unpacks: the merged layers as `/`.
struct Confined {
    outside: std::os::fd::OwnedFd,
    merged: Option<PathBuf>,
}

impl Confined {
    fn enter(workspace: &Workspace<'_>) -> io::Result<Self> {
        let outside = isolate()?;
        let scratch = workspace.layers_dir.join(workspace.scratch);
        fs::create_dir_all(scratch.join("fs"))?;
        let upper = scratch.join("fs");
        fs::set_permissions(&upper, fs::Permissions::from_mode(0o755))?;
        let merged = match workspace.lowers {
            [] => None,
            [top, ..] => {
                inherit_root(&workspace.layers_dir.join(top), &upper)?;
                let merged = scratch.join("merged");
                fs::create_dir_all(scratch.join("work"))?;
                fs::create_dir_all(&merged)?;
                mount_overlay(workspace.layers_dir, workspace.lowers, &scratch, "fs", &merged)?;
                Some(merged)
            }
        };
        chroot(merged.as_deref().unwrap_or(&upper))?;
        chdir("/")?;
        Ok(Confined { outside, merged })
    }

    fn at(dir: &Path) -> io::Result<Self> {
        let outside = isolate()?;
        chroot(dir)?;
        chdir("/")?;
        Ok(Confined { outside, merged: None })
    }

    fn leave(self) -> io::Result<()> {
        fchdir(self.outside.as_fd())?;
        chroot(".")?;
        match self.merged {
            Some(merged) => Ok(umount2(&merged, MntFlags::MNT_DETACH)?),
            None => Ok(()),
        }
    }
}

/// Gives the thread mounts of its own; answers the way back to its root.
fn isolate() -> io::Result<std::os::fd::OwnedFd> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    umask(Mode::empty());
    Ok(open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?)
}

// === apply ===

fn apply(input: &mut impl Read) -> Result<(), LayerError> {
    let broken = |source| LayerError::Content { entry: "(tar)".to_owned(), source };
    let mut tar = tar::Archive::new(input);
    let mut writer = Writer::default();
    for entry in tar.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        writer.add(&mut entry).map_err(|source| LayerError::Content { entry: name, source })?;
    }
    writer.set_directory_times()?;
    Ok(())
}

#[derive(Default)]
struct Writer {
    /// What this layer brought, so that an opaque mark removes only what lay below.
    written: BTreeSet<PathBuf>,
    directories: Vec<(PathBuf, TimeSpec)>,
}

impl Writer {
    fn add<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>) -> io::Result<()> {
        let path = inside(&entry.path()?)?;
        let name = path.file_name().map(OsStr::as_bytes).unwrap_or_default();
        if name == OPAQUE_MARK {
            return self.clear(path.parent().unwrap_or(Path::new("/")));
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT_PREFIX) {
            // `.wh..wh.*` are bookkeeping of a file system nobody uses any more.
            return match hidden.starts_with(WHITEOUT_PREFIX) {
                true => Ok(()),
                false => remove(&path.with_file_name(OsStr::from_bytes(hidden))),
            };
        }
        if let Some(parent) = path.parent() {
            // The mask is off, for modes to be as they are written.
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        self.create(entry, &path)?;
        self.written.insert(path);
        Ok(())
    }

    fn create<R: Read>(&mut self, entry: &mut tar::Entry<'_, R>, path: &Path) -> io::Result<()> {
        use tar::EntryType as T;
        let kind = entry.header().entry_type();
        let existing = fs::symlink_metadata(path).ok();
        if existing.is_some_and(|found| !(kind.is_dir() && found.is_dir())) {
            remove(path)?;
        }
        match kind {
            T::Directory => make_dir(path)?,
            T::Regular | T::Continuous | T::GNUSparse => {
                io::copy(entry, &mut new_file(path)?)?;
            }
            T::Symlink => std::os::unix::fs::symlink(target(entry)?, path)?,
            T::Link => return fs::hard_link(inside(&target(entry)?)?, path),
            T::Char => make_node(entry, path, SFlag::S_IFCHR)?,
            T::Block => make_node(entry, path, SFlag::S_IFBLK)?,
            T::Fifo => make_node(entry, path, SFlag::S_IFIFO)?,
            // Global headers and vendors' extensions describe no file.
            _ => return Ok(()),
        }
        self.set_metadata(entry, path)
    }

    /// The order is the kernel's: a change of owner clears set-id bits and file capabilities.
    fn set_metadata<R: Read>(
        &mut self,
        entry: &mut tar::Entry<'_, R>,
        path: &Path,
    ) -> io::Result<()> {
        let xattrs = xattrs_of(entry)?;
        let header = entry.header();
        let (uid, gid) = (header.uid()?, header.gid()?);
        std::os::unix::fs::lchown(path, Some(narrow(uid)?), Some(narrow(gid)?))?;
        if !header.entry_type().is_symlink() {
            fs::set_permissions(path, fs::Permissions::from_mode(header.mode()? & 0o7777))?;
        }
        for (name, value) in xattrs {
            set_xattr(path, &name, &value)?;
        }
        let modified = TimeSpec::new(header.mtime()? as i64, 0);
        match header.entry_type().is_dir() {
            true => self.directories.push((path.to_owned(), modified)),
            false => set_time(path, modified)?,
        }
        Ok(())
    }

    /// Removes what the layers below put into `dir`.
    fn clear(&self, dir: &Path) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            match self.written.contains(&path) {
                false => remove(&path)?,
                true if fs::symlink_metadata(&path)?.is_dir() => self.clear(&path)?,
                true => {}
            }
        }
        Ok(())
    }

    /// Last, because every file created in a directory touches it.
    fn set_directory_times(&self) -> io::Result<()> {
        let still_there =
            |path: &Path| fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
        self.directories
            .iter()
            .rev()
            .filter(|(path, _)| still_there(path))
            .try_for_each(|(path, time)| set_time(path, *time))
    }
}

/// An absolute path inside the image. `..` is refused rather than guessed at.
fn inside(path: &Path) -> io::Result<PathBuf> {
    path.components().try_fold(PathBuf::from("/"), |mut clean, component| match component {
        Component::Normal(part) => {
            clean.push(part);
            Ok(clean)
        }
        Component::ParentDir => Err(io::Error::other("the path climbs out of its directory")),
        _ => Ok(clean),
    })
}

fn target<R: Read>(entry: &tar::Entry<'_, R>) -> io::Result<PathBuf> {
    let name = entry.link_name()?.ok_or_else(|| io::Error::other("the link has no target"))?;
    Ok(name.into_owned())
}

fn make_dir(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

fn new_file(path: &Path) -> io::Result<fs::File> {
    fs::OpenOptions::new().write(true).create_new(true).open(path)
}

fn make_node<R: Read>(entry: &tar::Entry<'_, R>, path: &Path, kind: SFlag) -> io::Result<()> {
    let header = entry.header();
    let (major, minor) = (header.device_major()?.unwrap_or(0), header.device_minor()?.unwrap_or(0));
    Ok(mknod(path, kind, Mode::from_bits_truncate(0o600), makedev(major.into(), minor.into()))?)
}

fn remove(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn xattrs_of<R: Read>(entry: &mut tar::Entry<'_, R>) -> io::Result<Vec<(String, Vec<u8>)>> {
    let Some(extensions) = entry.pax_extensions()? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for extension in extensions {
        let extension = extension?;
        let name = extension.key().ok().and_then(|key| key.strip_prefix(XATTR_PREFIX));
        // Overlayfs' own marks are for the kernel to write, not for an archive.
        if let Some(name) = name.filter(|name| !name.starts_with("trusted.overlay.")) {
            found.push((name.to_owned(), extension.value_bytes().to_vec()));
        }
    }
    Ok(found)
}

/// A file system without this class of attributes is not a reason to refuse an image.
fn set_xattr(path: &Path, name: &str, value: &[u8]) -> io::Result<()> {
    match xattr::set(path, name, value) {
        Err(error) if error.raw_os_error() == Some(nix::libc::ENOTSUP) => Ok(()),
        result => result,
    }
}

fn set_time(path: &Path, time: TimeSpec) -> io::Result<()> {
    Ok(utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::NoFollowSymlink)?)
}

fn narrow(id: u64) -> io::Result<u32> {
    u32::try_from(id).map_err(|_| io::Error::other("the owner does not fit 32 bits"))
}

// === Hashing ===

/// Passes bytes through and hashes them.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashing<R> {
    fn new(inner: R) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    /// Reads what the consumer left (padding after a tar's end) and answers the digest.
    fn finish(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(to_digest(self.hash.finalize().as_slice()))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

/// The chain id: names a layer together with all below it.
pub(super) fn chain_id(parent: Option<&str>, diff_id: &str) -> String {
    match parent {
        None => diff_id.to_owned(),
        Some(parent) => digest_of(format!("{parent} {diff_id}").as_bytes()),
    }
}
