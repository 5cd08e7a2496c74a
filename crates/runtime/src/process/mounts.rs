//! Mounts as file descriptors: taken on one side of a namespace, attached on the other.
//!
//! Counterpart: runc's bind mounts through `/proc/self/fd`. Differs from upstream: sources are
//! cloned with `open_tree` before the root changes and attached after it, so every target path is
//! resolved by the kernel inside the container's own root, and a link in a volume cannot lead out.
//! Needs Linux 5.12.

use std::{
    ffi::{CStr, CString},
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2},
    libc,
    mount::{MsFlags, mount},
    sys::stat::Mode,
};

use crate::cri::MountPropagation;

const OPEN_TREE_CLONE: libc::c_uint = 1;
const MOVE_MOUNT_F_EMPTY_PATH: libc::c_uint = 4;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
pub(super) const MOUNT_ATTR_RDONLY: u64 = 1;
pub(super) const MOUNT_ATTR_NOSUID: u64 = 2;
pub(super) const MOUNT_ATTR_NODEV: u64 = 4;
pub(super) const MOUNT_ATTR_NOEXEC: u64 = 8;
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

/// A mount that hangs nowhere yet.
pub(crate) struct Detached {
    tree: OwnedFd,
    is_dir: bool,
}

// === impl Detached ===

impl Detached {
    /// Copies what is mounted at `path`, with everything below it.
    pub fn take(path: &Path) -> io::Result<Self> {
        let name = c_path(path)?;
        let flags =
            OPEN_TREE_CLONE | libc::O_CLOEXEC as libc::c_uint | libc::AT_RECURSIVE as libc::c_uint;
        // SAFETY: `name` is a terminated string that outlives the call.
        let tree =
            unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, name.as_ptr(), flags) };
        let tree = owned(tree)?;
        let is_dir = fs::metadata(path)?.is_dir();
        Ok(Detached { tree, is_dir })
    }

    /// A file system of its own that needs no options. What it shows is what the calling process may see.
    pub fn fresh(kind: &CStr, attributes: u64) -> io::Result<Self> {
        const CLOEXEC: libc::c_uint = 1;
        // SAFETY: `kind` is a terminated string that outlives the call.
        let context = unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOEXEC) };
        let context = owned(context)?;
        let (none, at) = (std::ptr::null::<libc::c_char>(), context.as_raw_fd());
        // SAFETY: this command takes neither key nor value.
        let created =
            unsafe { libc::syscall(libc::SYS_fsconfig, at, FSCONFIG_CMD_CREATE, none, none, 0) };
        if created < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: takes no pointer.
        let tree = owned(unsafe { libc::syscall(libc::SYS_fsmount, at, CLOEXEC, attributes) })?;
        Ok(Detached { tree, is_dir: true })
    }

    /// Lets the owners of its files be the users of this namespace, id for id. A file system that cannot says so.
    pub fn map_owners(self, users: BorrowedFd<'_>) -> io::Result<Self> {
        let attr = MountAttr {
            attr_set: MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: users.as_raw_fd() as u64,
        };
        let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
        change(self.tree.as_raw_fd(), c"", flags, &attr)?;
        Ok(self)
    }

    /// Copies what `sub` names in the tree at `root`: links in it lead nowhere but into that tree.
    pub fn take_beneath(root: &Path, sub: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let dir = open(root, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let how = OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_IN_ROOT);
        let sub = if sub.as_os_str().is_empty() { Path::new(".") } else { sub };
        let found = openat2(&dir, sub, how)?;
        Self::take(Path::new(&format!("/proc/self/fd/{}", found.as_raw_fd())))
    }

    /// Attaches at `target`, which is made to fit: a directory for a directory, a file for anything
    /// else.
    pub fn attach(self, target: &Path) -> io::Result<()> {
        make_target(target, self.is_dir)?;
        let name = c_path(target)?;
        // SAFETY: both strings are terminated and outlive the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_move_mount,
                self.tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_FDCWD,
                name.as_ptr(),
                // Follow links in the target: inside the container's root they are harmless and
                // expected (/var/run).
                MOVE_MOUNT_F_EMPTY_PATH | 0x10,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

/// Links a mount point may lead through.
const MAX_LINKS: u32 = 40;

/// Creates a mount point, also behind links that lead nowhere yet. One that exists stays as it is.
pub(super) fn make_target(target: &Path, is_dir: bool) -> io::Result<()> {
    match is_dir {
        true => make_dirs(target, MAX_LINKS),
        false => make_file(target, MAX_LINKS),
    }
}

fn make_dirs(path: &Path, links: u32) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(beyond) = beyond_link(path, links)? {
        return make_dirs(&beyond, links - 1);
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent, links)?;
    }
    fs::create_dir(path)
}

fn make_file(path: &Path, links: u32) -> io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    if let Some(beyond) = beyond_link(path, links)? {
        return make_file(&beyond, links - 1);
    }
    if let Some(parent) = path.parent() {
        make_dirs(parent, links)?;
    }
    fs::File::create_new(path).map(drop)
}

/// Where a link leads; `None` for anything else.
fn beyond_link(path: &Path, links: u32) -> io::Result<Option<PathBuf>> {
    match fs::read_link(path) {
        Ok(_) if links == 0 => Err(io::Error::from_raw_os_error(libc::ELOOP)),
        Ok(target) => Ok(Some(path.parent().unwrap_or(Path::new("/")).join(target))),
        Err(_) => Ok(None),
    }
}

pub(super) fn set_propagation(target: &Path, propagation: MountPropagation) -> io::Result<()> {
    let kind = match propagation {
        MountPropagation::Private => MsFlags::MS_PRIVATE,
        MountPropagation::HostToContainer => MsFlags::MS_SLAVE,
        MountPropagation::Bidirectional => MsFlags::MS_SHARED,
    };
    Ok(mount(None::<&str>, target, None::<&str>, kind | MsFlags::MS_REC, None::<&str>)?)
}

#[repr(C)]
struct MountAttr {
    attr_set: u64,
    attr_clr: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Read-only, with what is mounted below if asked.
pub(super) fn set_readonly(target: &Path, recursive: bool) -> io::Result<()> {
    set_attributes(target, MOUNT_ATTR_RDONLY, recursive)
}

/// Read-only, and nothing in it can be executed.
pub(super) fn seal(target: &Path) -> io::Result<()> {
    set_attributes(target, MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOEXEC, true)
}

/// Keeps the mount's other flags, which `MS_REMOUNT` would reset.
fn set_attributes(target: &Path, attr_set: u64, recursive: bool) -> io::Result<()> {
    let name = c_path(target)?;
    let attr = MountAttr { attr_set, attr_clr: 0, propagation: 0, userns_fd: 0 };
    let flags = if recursive { libc::AT_RECURSIVE } else { 0 };
    change(libc::AT_FDCWD, &name, flags, &attr)
}

fn change(at: libc::c_int, name: &CStr, flags: libc::c_int, attr: &MountAttr) -> io::Result<()> {
    // SAFETY: `name` and `attr` outlive the call, and the size is the struct's.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            name.as_ptr(),
            flags,
            attr as *const MountAttr,
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// What a system call that makes a descriptor answered.
fn owned(answer: libc::c_long) -> io::Result<OwnedFd> {
    match answer {
        // SAFETY: the kernel just returned this descriptor to us alone.
        0.. => Ok(unsafe { OwnedFd::from_raw_fd(answer as i32) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Binds a path onto itself or another inside the same root.
pub(super) fn bind(source: &Path, target: &Path) -> io::Result<()> {
    Ok(mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?)
}

/// Hides what is there: a directory behind an empty one, a file behind `/dev/null`. Nothing there
/// is fine.
pub(super) fn mask(path: &Path) -> io::Result<()> {
    let Ok(found) = fs::metadata(path) else {
        return Ok(());
    };
    match found.is_dir() {
        true => Ok(mount(
            Some("tmpfs"),
            path,
            Some("tmpfs"),
            MsFlags::MS_RDONLY,
            Some("size=0k,nr_inodes=1"),
        )?),
        // Masked already (by the same list twice): the null device itself.
        false if found.rdev() == nix::sys::stat::makedev(1, 3) => Ok(()),
        false => bind(Path::new("/dev/null"), path),
    }
}

/// Makes what is there read-only. Nothing there is fine.
pub(super) fn protect(path: &Path) -> io::Result<()> {
    if fs::metadata(path).is_err() {
        return Ok(());
    }
    bind(path, path)?;
    set_readonly(path, true)
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}
