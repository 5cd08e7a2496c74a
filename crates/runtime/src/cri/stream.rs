//! Exec and attach as byte streams.
//!
//! Counterpart: CRI `ExecSync`, `Exec` and `Attach`, minus the streaming server: the caller owns
//! the wire.

use std::{fmt, io};

use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::Result;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSyncOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub exit_code: i32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub stdin: bool,
    pub stdout: bool,
    /// Must be false with `tty`, which has one output.
    pub stderr: bool,
    pub tty: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachRequest {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Must say what the container's config says.
    pub tty: bool,
}

pub type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
pub type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// The live streams of a process. Those not asked for are `None`. Dropping `stdin` closes it.
pub struct StreamSession {
    pub stdin: Option<BoxWrite>,
    pub stdout: Option<BoxRead>,
    pub stderr: Option<BoxRead>,
    /// Present with a terminal.
    pub terminal: Option<Terminal>,
    /// Resolves to the exit code when the process ends. Output may still be buffered in the readers
    /// then.
    pub exit: BoxFuture<'static, Result<i32>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// The control of a terminal; outlives the streams taken out of the session.
pub struct Terminal {
    resize: Box<dyn Fn(TerminalSize) -> io::Result<()> + Send + Sync>,
}

// === impl Terminal ===

impl Terminal {
    pub fn new(resize: impl Fn(TerminalSize) -> io::Result<()> + Send + Sync + 'static) -> Self {
        Terminal { resize: Box::new(resize) }
    }

    pub fn resize(&self, size: TerminalSize) -> io::Result<()> {
        (self.resize)(size)
    }
}

impl fmt::Debug for StreamSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamSession")
            .field("stdin", &self.stdin.is_some())
            .field("stdout", &self.stdout.is_some())
            .field("stderr", &self.stderr.is_some())
            .field("terminal", &self.terminal.is_some())
            .finish_non_exhaustive()
    }
}
