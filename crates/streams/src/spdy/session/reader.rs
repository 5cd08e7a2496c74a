//! The reading half: frames in -> bytes for whoever reads a stream, new streams, credit, answers.
//!
//! Invariant: what a peer does wrong ends the session with the frame that says so.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadHalf};
use tokio::sync::mpsc;

use super::{Entry, INITIAL_WINDOW, NewStream, SESSION, Shared, Side};
use crate::mux::{Closing, Command, StreamId};
use crate::spdy::frame::{Frame, FrameReader, SETTING_INITIAL_WINDOW_SIZE, status};
use crate::spdy::headers::Headers;

pub struct Reader<IO> {
    pub frames: FrameReader<ReadHalf<IO>>,
    pub shared: Arc<Shared>,
    pub arrived: mpsc::Sender<NewStream>,
    pub side: Side,
}

// === impl Reader ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Reader<IO> {
    pub async fn run(mut self) -> io::Result<()> {
        loop {
            match self.frames.next().await {
                Ok(Some(frame)) => self.handle(frame).await,
                Ok(None) => return Ok(()),
                Err(error) => {
                    if error.kind() == io::ErrorKind::InvalidData {
                        let close = Command::Close(Closing::ProtocolError);
                        let _ = self.shared.commands.try_send(close);
                    }
                    return Err(error);
                }
            }
        }
    }

    async fn handle(&mut self, frame: Frame) {
        match frame {
            Frame::SynStream { stream, headers, fin, unidirectional } => {
                self.opened(stream, headers, fin, unidirectional).await
            }
            Frame::SynReply { stream, fin, .. } => self.shared.update(stream, |entry| {
                // The opener may have given up waiting.
                let _ = entry.reply.take().map(|reply| reply.send(()));
                if fin {
                    entry.peer_finished();
                }
            }),
            Frame::Data { stream, data, fin } => self.data(stream, data, fin).await,
            Frame::Headers { stream, fin: true, .. } => {
                self.shared.update(stream, Entry::peer_finished)
            }
            Frame::RstStream { stream, .. } => self.reset(stream),
            Frame::Ping(id) => self.ping(id).await,
            Frame::Settings(settings) => self.settings(&settings),
            Frame::WindowUpdate { stream, delta } => self.granted(stream, delta),
            Frame::GoAway { .. } | Frame::Headers { .. } => {}
        }
    }

    async fn opened(&mut self, id: StreamId, headers: Headers, fin: bool, unidirectional: bool) {
        let peer_opens_odd = self.side == Side::Server;
        let last = std::mem::replace(&mut self.shared.table().last_opened, id);
        if (id % 2 == 1) != peer_opens_odd || id <= last {
            self.shared.table().last_opened = last;
            return self.refuse(id, status::PROTOCOL_ERROR).await;
        }
        let inserted = self.shared.insert(id, |entry| {
            if fin {
                entry.peer_finished();
            }
            entry.we_done = unidirectional;
        });
        let Some(ends) = inserted else {
            return self.refuse(id, status::REFUSED_STREAM).await;
        };
        let stream =
            NewStream { id, headers, ends: Some(ends), commands: self.shared.commands.clone() };
        // Nobody accepts any more: dropping the stream refuses it.
        let _ = self.arrived.send(stream).await;
    }

    async fn refuse(&mut self, stream: StreamId, status: u32) {
        let command = Command::Reset { stream, status };
        let _ = self.shared.commands.send(command).await;
    }

    /// Hands bytes to the stream's reader, waiting while its buffer is full.
    async fn data(&mut self, id: StreamId, data: Bytes, fin: bool) {
        let feed = match self.shared.table().streams.get_mut(&id) {
            Some(entry) => entry.feed.take().map(|feed| (feed, entry.flow.clone())),
            None => None,
        };
        let mut kept = None;
        if let Some((mut feed, flow)) = feed {
            match feed.write_all(&data).await {
                Ok(()) => kept = Some(feed),
                // Its reader is gone; the peer's window must not be lost with it.
                Err(_) => flow.consumed.add(data.len()),
            }
        }
        // The session's window counts what left the connection, read or not.
        self.shared.received.add(data.len());
        self.shared.update(id, |entry| {
            entry.feed = kept;
            if fin {
                entry.peer_finished();
            }
        });
    }

    fn reset(&self, id: StreamId) {
        if let Some(entry) = self.shared.table().streams.remove(&id) {
            entry.flow.stream.fail(io::ErrorKind::ConnectionReset);
        }
    }

    /// Answers the peer's pings; ours would have our parity.
    async fn ping(&mut self, id: u32) {
        if (id % 2 == 1) == (self.side == Side::Server) {
            let pong = Command::Pong(Bytes::copy_from_slice(&id.to_be_bytes()));
            let _ = self.shared.commands.send(pong).await;
        }
    }

    fn settings(&self, settings: &[(u32, u32)]) {
        let Some((_, window)) = settings.iter().find(|(id, _)| *id == SETTING_INITIAL_WINDOW_SIZE)
        else {
            return;
        };
        let mut table = self.shared.table();
        let before = table.peer_window.replace(*window);
        let change = i64::from(*window) - before.map_or(INITIAL_WINDOW, i64::from);
        for entry in table.streams.values() {
            entry.flow.stream.grant(change);
        }
    }

    fn granted(&self, stream: StreamId, delta: u32) {
        if stream == SESSION {
            self.shared.session.grant(i64::from(delta));
        } else if let Some(entry) = self.shared.table().streams.get(&stream) {
            entry.flow.stream.grant(i64::from(delta));
        }
    }
}
