//! The outputs of a container: read here, logged here, copied to whoever is attached.
//!
//! Counterpart: conmon's and containerd-shim's copy loops. Invariant: an attached reader that does
//! not read never holds up the container or its log: beyond a bounded queue it is let go.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::log::{LineCutter, LogFile};

const CHUNK: usize = 32 << 10;
const MAX_BEHIND: usize = 1 << 20;

/// One output stream: a pipe, or the terminal that carries both.
pub(super) struct Output {
    /// `None` once it ended.
    source: Option<File>,
    lines: LineCutter,
    taps: Vec<Tap>,
}

/// Somebody attached.
struct Tap {
    sink: File,
    behind: Vec<u8>,
}

// === impl Output ===

impl Output {
    pub fn new(source: OwnedFd, stream: &'static str) -> io::Result<Self> {
        set_nonblocking(&source)?;
        Ok(Output { source: Some(source.into()), lines: LineCutter::new(stream), taps: Vec::new() })
    }

    pub fn tap(&mut self, sink: OwnedFd) -> io::Result<()> {
        // After the end there is nothing to copy; dropping the sink says so.
        if self.source.is_some() {
            set_nonblocking(&sink)?;
            self.taps.push(Tap { sink: sink.into(), behind: Vec::new() });
        }
        Ok(())
    }

    pub fn source(&self) -> Option<BorrowedFd<'_>> {
        self.source.as_ref().map(File::as_fd)
    }

    /// The attached, and whether each waits for room.
    pub fn taps(&self) -> impl Iterator<Item = (BorrowedFd<'_>, bool)> {
        self.taps.iter().map(|tap| (tap.sink.as_fd(), !tap.behind.is_empty()))
    }

    pub fn is_finished(&self) -> bool {
        self.source.is_none() && self.taps.is_empty()
    }

    /// Copies what is there now, at most one chunk. False when there was nothing.
    pub fn pump(&mut self, log: &mut LogFile) -> bool {
        let Some(source) = &mut self.source else {
            return false;
        };
        let mut chunk = [0; CHUNK];
        match source.read(&mut chunk) {
            Ok(read) if read > 0 => {
                self.lines.write(&chunk[..read], log);
                self.taps.retain_mut(|tap| tap.write(&chunk[..read]));
                true
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) =>
            {
                false
            }
            // The end: of a pipe by zero bytes, of a terminal by EIO.
            _ => {
                self.end(log);
                false
            }
        }
    }

    /// The container is gone: takes what is left and ends, even if a stray process still holds the
    /// other end.
    pub fn drain(&mut self, log: &mut LogFile) {
        while self.pump(log) {}
        self.end(log);
    }

    /// Gives the attached what they have not had yet, and forgets those who are done or gone.
    pub fn flush_taps(&mut self) {
        let ended = self.source.is_none();
        self.taps.retain_mut(|tap| tap.write(&[]) && !(ended && tap.behind.is_empty()));
    }

    fn end(&mut self, log: &mut LogFile) {
        if self.source.take().is_some() {
            self.lines.finish(log);
            self.flush_taps();
        }
    }
}

// === impl Tap ===

impl Tap {
    /// False when the reader is gone or too far behind.
    fn write(&mut self, chunk: &[u8]) -> bool {
        self.behind.extend_from_slice(chunk);
        while !self.behind.is_empty() {
            match self.sink.write(&self.behind) {
                Ok(written) => drop(self.behind.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        self.behind.len() <= MAX_BEHIND
    }
}

fn set_nonblocking(stream: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_truncate(fcntl(stream, FcntlArg::F_GETFL)?);
    fcntl(stream, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}
