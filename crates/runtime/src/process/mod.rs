//! From a fork in the shim to the container's own program: everything between clone and exec.
//!
//! Consumes a [`ContainerSpec`] in which every choice is made, decides nothing, emits a process or
//! one sentence saying why there is none. Counterpart: runc's `libcontainer` (`init_linux.go`,
//! `rootfs_linux.go`). Runs in the shim and its children only: one thread, so allocating after the
//! fork is safe.
//! Invariant: a child that cannot reach exec reports and exits; it never returns into the shim's
//! loop.

mod capabilities;
mod child;
mod clone;
mod devices;
mod mounts;
mod rootfs;
pub(crate) mod seccomp;
mod spec;
mod terminal;
mod user;
pub(crate) mod users;

pub(crate) use capabilities::{CapabilitySet, DEFAULT_CAPABILITIES};
pub(crate) use child::{ChildStdio, ExecChild, InitChild, Report};
pub(crate) use clone::{Child, clone_child};
pub(crate) use rootfs::Outside;
pub(crate) use spec::*;
pub(crate) use terminal::receive_terminal;
