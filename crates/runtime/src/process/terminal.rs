//! Pseudo-terminals: opened inside the container's devpts, controlled from outside.
//!
//! Counterpart: runc's console socket.

use std::{
    fs::{File, OpenOptions},
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
        unix::fs::OpenOptionsExt,
    },
    path::Path,
};

use nix::{
    cmsg_space, libc,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

use super::mounts::{bind, make_target};

/// Opens a terminal, makes it the session's own and answers its inner end; the outer one goes over
/// `socket`.
pub(super) fn take_terminal(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let outer =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open("/dev/ptmx")?;
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check(unsafe { libc::ioctl(outer.as_raw_fd(), libc::TIOCSPTLCK, &unlocked) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and answers a new descriptor.
    let inner = check(unsafe { libc::ioctl(outer.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the kernel just returned this descriptor to us alone.
    let inner = unsafe { OwnedFd::from_raw_fd(inner) };
    // SAFETY: TIOCSCTTY takes an int by value.
    check(unsafe { libc::ioctl(inner.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    send_descriptor(socket, &outer)?;
    Ok(inner)
}

/// Makes the terminal the container's `/dev/console`.
pub(super) fn bind_console(inner: &OwnedFd) -> io::Result<()> {
    let name = std::fs::read_link(format!("/proc/self/fd/{}", inner.as_raw_fd()))?;
    let console = Path::new("/dev/console");
    make_target(console, false)?;
    bind(&name, console)
}

fn send_descriptor(socket: &OwnedFd, file: &File) -> io::Result<()> {
    let descriptors = [file.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(b"t")], &rights, MsgFlags::empty(), None)?;
    Ok(())
}

/// The outer end a child sent; `None` if the child ended before it could.
pub(crate) fn receive_terminal(socket: &OwnedFd) -> io::Result<Option<OwnedFd>> {
    let mut byte = [0u8];
    let mut parts = [IoSliceMut::new(&mut byte)];
    let mut space = cmsg_space!(RawFd);
    let message = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let received = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmRights(descriptors) => descriptors.first().copied(),
        _ => None,
    });
    // SAFETY: SCM_RIGHTS installed this descriptor for us alone.
    Ok(received.map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }))
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
