//! The fork itself: a child, optionally in a new PID namespace or another process's.
//!
//! Counterpart: runc's `nsexec`. The shim is in the pod's network, IPC and UTS namespaces already,
//! so children have them.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    libc,
    sched::{CloneFlags, setns},
    unistd::Pid,
};

use super::spec::PidNamespace;

/// What the two sides of a fork see.
pub(crate) enum Child {
    Parent(Pid),
    Inside,
}

/// `home` is the PID namespace the shim's children belong in: restored after visiting another.
pub(crate) fn clone_child(namespace: PidNamespace, home: &OwnedFd) -> io::Result<Child> {
    match namespace {
        PidNamespace::Own => fork(libc::CLONE_NEWPID),
        PidNamespace::Inherited => fork(0),
        PidNamespace::Of(pid) => {
            let namespace = File::open(format!("/proc/{pid}/ns/pid"))?;
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWPID)?;
            let child = fork(0);
            if !matches!(child, Ok(Child::Inside)) {
                setns(home.as_fd(), CloneFlags::CLONE_NEWPID)?;
            }
            child
        }
    }
}

/// With [`libc::CLONE_PARENT`] a sibling is born instead of a child.
pub(crate) fn fork(flags: libc::c_int) -> io::Result<Child> {
    let flags = flags | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with no stack this is fork(2) plus namespaces; the shim has one
    // thread, so the child's copy of memory holds no lock taken by anybody else. (The daemon has many, and its one
    // child does nothing but wait for its end.)
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags as libc::c_ulong, 0, 0, 0, 0) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Child::Inside),
        pid => Ok(Child::Parent(Pid::from_raw(pid as i32))),
    }
}
