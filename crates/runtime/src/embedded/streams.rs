//! Exec, attach and port-forward of the embedded runtime: descriptors to byte streams.
//!
//! Consumes pipe and terminal descriptors, emits [`StreamSession`]s. The process holds the other
//! ends itself, so the shim copies nothing for an exec. Counterpart: containerd's
//! `pkg/cri/streaming` without its server.

use std::{
    fs::File,
    io::{self, Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, OFlag, fcntl},
    libc,
    sched::{CloneFlags, setns},
    unistd::pipe2,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, unix::AsyncFd},
    net::unix::pipe,
};

use super::shim_client::ShimClient;
use crate::{
    cri::{BoxRead, BoxWrite, Terminal, TerminalSize},
    shim::protocol::Request,
};

/// What one exec_sync may print on each stream; the rest is dropped, as upstream does.
const MAX_OUTPUT: u64 = 16 << 20;

/// Our ends of up to three pipes, and the child's in order.
pub(super) struct Pipes {
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    pub theirs: Vec<OwnedFd>,
}

// === impl Pipes ===

impl Pipes {
    pub fn new([stdin, stdout, stderr]: [bool; 3]) -> io::Result<Self> {
        let mut theirs = Vec::new();
        let mut input = || -> io::Result<pipe::Sender> {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            theirs.push(read);
            pipe::Sender::from_owned_fd(write)
        };
        let stdin = stdin.then(&mut input).transpose()?;
        let mut output = || -> io::Result<pipe::Receiver> {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            theirs.push(write);
            pipe::Receiver::from_owned_fd(read)
        };
        let stdout = stdout.then(&mut output).transpose()?;
        let stderr = stderr.then(&mut output).transpose()?;
        Ok(Pipes { stdin, stdout, stderr, theirs })
    }
}

/// Reads to the end, keeping what is allowed.
pub(super) async fn read_all(stream: Option<pipe::Receiver>, kept: &mut Vec<u8>) -> io::Result<()> {
    let Some(stream) = stream else { return Ok(()) };
    let mut stream = stream;
    (&mut stream).take(MAX_OUTPUT).read_to_end(kept).await?;
    tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
    Ok(())
}

// === terminals ===

/// The outer end of a terminal, for both directions.
#[derive(Clone)]
struct TerminalEnd(Arc<AsyncFd<File>>);

/// Reading end, writing end and control of a terminal.
pub(super) fn terminal_streams(descriptor: OwnedFd) -> io::Result<(BoxRead, BoxWrite, Terminal)> {
    set_nonblocking(&descriptor)?;
    // SAFETY: a File answers the same open descriptor until it is dropped, and nothing replaces it
    // in there.
    let end = unsafe { AsyncFd::register(File::from(descriptor)) }?;
    let end = TerminalEnd(Arc::new(end));
    let control = end.clone();
    let terminal = Terminal::new(move |size| set_size(control.0.get_ref(), size));
    Ok((Box::new(end.clone()), Box::new(end), terminal))
}

fn set_nonblocking(descriptor: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(descriptor, FcntlArg::F_GETFL)?);
    fcntl(descriptor, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

fn set_size(terminal: &File, size: TerminalSize) -> io::Result<()> {
    let size =
        libc::winsize { ws_row: size.height, ws_col: size.width, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    match unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

impl AsyncRead for TerminalEnd {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(cx))?;
            match guard.try_io(|end| end.get_ref().read(buf.initialize_unfilled())) {
                Err(_would_block) => {}
                Ok(Ok(read)) => {
                    buf.advance(read);
                    return Poll::Ready(Ok(()));
                }
                // How a terminal says that its last inner end is closed.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TerminalEnd {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|end| end.get_ref().write(bytes)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

// === attached stdin ===

/// A container's stdin that ends with the first client: on drop the shim closes its own end too.
pub(super) struct StdinOnce {
    pub inner: pipe::Sender,
    pub shim: Arc<ShimClient>,
    pub container: String,
}

impl Drop for StdinOnce {
    fn drop(&mut self) {
        let (shim, container) = (self.shim.clone(), std::mem::take(&mut self.container));
        // A runtime that is shutting down closes nothing: the next daemon finds stdin open.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { drop(shim.tell(Request::CloseStdin { container }).await) });
        }
    }
}

impl AsyncWrite for StdinOnce {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

// === dial ===

/// Connects to a local port as seen from inside a network namespace; without one, from here.
pub async fn dial(netns: Option<PathBuf>, port: u16) -> io::Result<tokio::net::TcpStream> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    // A thread of its own: one that changed its namespace must not go back to a pool.
    std::thread::Builder::new().name("dial".to_owned()).spawn(move || {
        let result = enter(netns.as_deref()).and_then(|()| connect(port));
        // The caller may have given up.
        let _ = sender.send(result);
    })?;
    let stream = receiver.await.map_err(|_| io::Error::other("the dialling thread died"))??;
    stream.set_nonblocking(true)?;
    stream.set_nodelay(true)?;
    tokio::net::TcpStream::from_std(stream)
}

fn enter(netns: Option<&Path>) -> io::Result<()> {
    match netns {
        Some(path) => Ok(setns(File::open(path)?.as_fd(), CloneFlags::CLONE_NEWNET)?),
        None => Ok(()),
    }
}

/// IPv4 first, as `localhost` is; the first refusal is the one reported.
fn connect(port: u16) -> io::Result<std::net::TcpStream> {
    let connect = |address| std::net::TcpStream::connect_timeout(&address, Duration::from_secs(10));
    connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
        .or_else(|error| connect(SocketAddr::from((Ipv6Addr::LOCALHOST, port))).map_err(|_| error))
}
