//! A user namespace: made with the namespaces it shall own, entered, become root of.
//!
//! Consumes id mappings, emits a namespace in which root is somebody harmless on the node. Counterpart: runc's
//! `nsexec` with `CLONE_NEWUSER`.
//! Invariant: whoever is born here waits until the node's root has said who its users are.

use std::{
    fs::{self, File},
    io::{self, Read},
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use nix::{
    fcntl::OFlag,
    libc,
    sched::{CloneFlags, setns},
    sys::{
        signal::{Signal, kill},
        wait::waitpid,
    },
    unistd::{Gid, Pid, Uid, pipe2, setgroups, setresgid, setresuid},
};

use super::{
    clone::{Child, fork},
    mounts::Detached,
};
use crate::cri::{IdMapping, UserNamespace};

/// The users of a pod: their namespace, and who its root is on the node.
pub(crate) struct PodUsers {
    pub namespace: OwnedFd,
    pub root: (u32, u32),
}

/// The first process of new namespaces. It does nothing until it is let go, and dies if it is dropped.
pub(crate) struct Firstborn {
    pid: Pid,
    /// Closed when it may go on.
    hold: Option<OwnedFd>,
}

// === impl PodUsers ===

impl PodUsers {
    /// For one whose namespaces are still the node's: loses every privilege over the node, but not yet the node's root's
    /// files.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(self.namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?)
    }
}

/// Becomes the root of the user namespace one is in.
pub(crate) fn become_root() -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    Ok(setresuid(uid, uid, uid)?)
}

// === impl Firstborn ===

impl Firstborn {
    /// `then` is what the process does when it is let go. `kinds` are the namespaces that the new one shall own.
    pub fn bear(
        users: &UserNamespace,
        kinds: CloneFlags,
        then: impl FnOnce() -> i32,
    ) -> io::Result<Self> {
        let (held, hold) = pipe2(OFlag::O_CLOEXEC)?;
        let child = match fork((CloneFlags::CLONE_NEWUSER | kinds).bits())? {
            Child::Parent(pid) => Firstborn { pid, hold: Some(hold) },
            Child::Inside => {
                drop(hold);
                // The end comes when the holder lets go, or is no more.
                let _ = File::from(held).read(&mut [0]);
                let code = then();
                // SAFETY: ends this child without running its parent's exit handlers.
                unsafe { libc::_exit(code) }
            }
        };
        child.write_map("uid_map", &users.uids)?;
        child.write_map("gid_map", &users.gids)?;
        Ok(child)
    }

    fn write_map(&self, file: &str, mappings: &[IdMapping]) -> io::Result<()> {
        let line = |one: &IdMapping| {
            let IdMapping { container_id, host_id, length } = one;
            format!("{container_id} {host_id} {length}\n")
        };
        fs::write(
            format!("/proc/{}/{file}", self.pid),
            mappings.iter().map(line).collect::<String>(),
        )
    }

    pub fn namespace(&self, kind: &str) -> io::Result<OwnedFd> {
        Ok(File::open(format!("/proc/{}/ns/{kind}", self.pid))?.into())
    }

    /// Lets it go on, as somebody else's to wait for.
    pub fn release(mut self) -> Pid {
        self.hold = None;
        let pid = self.pid;
        std::mem::forget(self);
        pid
    }
}

impl Drop for Firstborn {
    fn drop(&mut self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}

/// Whether pods whose files are below `dir` can have users of their own; if not, why.
pub(crate) fn are_supported(dir: &Path) -> io::Result<()> {
    let mapping = IdMapping { container_id: 0, host_id: 1 << 16, length: 1 << 16 };
    let users = UserNamespace { uids: vec![mapping], gids: vec![mapping] };
    let firstborn = Firstborn::bear(&users, CloneFlags::empty(), || 0)?;
    let namespace = firstborn.namespace("user")?;
    Detached::take(dir)?.map_owners(namespace.as_fd()).map(drop)
}
