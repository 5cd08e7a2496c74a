//! What daemon and shim say to each other: JSON frames with a length in front, descriptors beside
//! them.
//!
//! Counterpart: containerd's ttrpc task API. Both ends use this file, so a request the shim cannot
//! read is a version difference: it answers with an error and goes on.
//! Invariant: a frame's descriptors travel with its first byte, so they arrive no later than the
//! frame does.

use std::{
    collections::VecDeque,
    io::{self, IoSlice, IoSliceMut},
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::process::ProcessSpec;

/// No frame of ours is larger: container specs travel as files.
const MAX_FRAME: usize = 8 << 20;
/// At most the three standard streams.
const MAX_DESCRIPTORS: usize = 4;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<T> {
    /// Pairs an answer with its question; zero on events.
    pub id: u64,
    /// How many descriptors belong to this frame.
    pub descriptors: usize,
    pub body: T,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    /// Starts the container whose spec lies in `containers/<id>`.
    Start {
        container: String,
    },
    /// Descriptors: the child's ends of the streams marked true, in order; none with a terminal.
    Exec {
        container: String,
        process: Box<ProcessSpec>,
        streams: [bool; 3],
    },
    /// To the first process, or to everything in the container's cgroup.
    Signal {
        container: String,
        signal: i32,
        all: bool,
    },
    SignalExec {
        exec: i32,
        signal: i32,
    },
    /// Descriptors: where to copy stdout and stderr, in order, as marked.
    Attach {
        container: String,
        stdout: bool,
        stderr: bool,
    },
    CloseStdin {
        container: String,
    },
    ReopenLog {
        container: String,
    },
    /// Kills everything and ends.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    Done,
    /// Answers `Exec`, with the outer end of a terminal if there is one.
    Executing {
        exec: i32,
    },
    /// Answers `Attach`, with the container's stdin (a pipe, or the terminal) if it has one open.
    Attached,
    Failed(Failure),
    /// Events, which answer nothing.
    ContainerExited {
        container: String,
    },
    ExecExited {
        exec: i32,
        exit_code: i32,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Failure {
    NotFound,
    NotRunning,
    /// The child's own words.
    Process(String),
    Internal(String),
}

// === sending ===

pub(crate) fn encode<T: Serialize>(id: u64, body: T, descriptors: usize) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, &Envelope { id, descriptors, body })?;
    let length = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Ok(frame)
}

/// Sends as much as the socket takes; descriptors go with the first byte and must not be repeated
/// after that.
pub(crate) fn send(socket: RawFd, bytes: &[u8], descriptors: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(descriptors)];
    let rights: &[_] = if descriptors.is_empty() { &[] } else { &rights };
    Ok(sendmsg::<()>(socket, &[IoSlice::new(bytes)], rights, MsgFlags::MSG_NOSIGNAL, None)?)
}

// === receiving ===

/// Reassembles frames from a stream socket.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    bytes: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

/// A whole frame.
pub(crate) struct Received<T> {
    pub id: u64,
    pub body: T,
    pub descriptors: Vec<OwnedFd>,
}

impl Inbox {
    /// Reads once. `Ok(false)`: the other end closed.
    pub fn fill(&mut self, socket: RawFd) -> io::Result<bool> {
        let mut buffer = [0; 16 << 10];
        let mut space = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let message =
            recvmsg::<()>(socket, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(received) = control {
                // SAFETY: SCM_RIGHTS installed these descriptors for us alone.
                self.descriptors
                    .extend(received.iter().map(|fd| unsafe { OwnedFd::from_raw_fd(*fd) }));
            }
        }
        let read = message.bytes;
        self.bytes.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }

    /// The next whole frame. An unreadable one is an error and is skipped.
    pub fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<Received<T>>> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame is too long"));
        }
        if self.bytes.len() < 4 + length {
            return Ok(None);
        }
        let frame: Vec<u8> = self.bytes.drain(..4 + length).skip(4).collect();
        let envelope: Envelope<T> = serde_json::from_slice(&frame)?;
        let count = envelope.descriptors.min(self.descriptors.len());
        let descriptors = self.descriptors.drain(..count).collect();
        Ok(Some(Received { id: envelope.id, body: envelope.body, descriptors }))
    }
}

/// The raw numbers, for a call that only borrows them.
pub(crate) fn raw(descriptors: &[OwnedFd]) -> Vec<RawFd> {
    descriptors.iter().map(AsRawFd::as_raw_fd).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn frames_and_descriptors_arrive_together_however_they_are_cut() {
        let (near, far) = UnixStream::pair().unwrap();
        let first = encode(7, Request::ReopenLog { container: "a".repeat(20_000) }, 1).unwrap();
        let second = encode(8, Request::Shutdown, 0).unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        send(near.as_raw_fd(), &first[..3], &[file.as_raw_fd()]).unwrap();
        send(near.as_raw_fd(), &first[3..], &[]).unwrap();
        send(near.as_raw_fd(), &second, &[]).unwrap();
        drop(near);

        let mut inbox = Inbox::default();
        let mut frames: Vec<Received<Request>> = Vec::new();
        while inbox.fill(far.as_raw_fd()).unwrap() {
            while let Some(frame) = inbox.next().unwrap() {
                frames.push(frame);
            }
        }
        let shape: Vec<_> =
            frames.iter().map(|frame| (frame.id, frame.descriptors.len())).collect();
        assert_eq!(shape, [(7, 1), (8, 0)]);
    }
}
