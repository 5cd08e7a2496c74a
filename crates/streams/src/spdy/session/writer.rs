//! The writing half: commands and notices in -> frames out, flushed when the queue is empty.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, WriteHalf};
use tokio::sync::mpsc;

use super::{SESSION, Shared, Side};
use crate::mux::{Closing, Command, StreamId, WINDOW};
use crate::spdy::frame::{Frame, FrameWriter, SETTING_INITIAL_WINDOW_SIZE, status};

pub struct Writer<IO> {
    pub io: WriteHalf<IO>,
    pub frames: FrameWriter,
    pub shared: Arc<Shared>,
    pub side: Side,
    pub buffer: Vec<u8>,
}

// === impl Writer ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Writer<IO> {
    pub async fn run(
        mut self,
        mut queue: mpsc::Receiver<Command>,
        mut notices: mpsc::UnboundedReceiver<StreamId>,
    ) -> io::Result<()> {
        self.put(Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, WINDOW)]));
        loop {
            self.send().await?;
            if queue.is_empty() {
                self.io.flush().await?;
            }
            tokio::select! {
                Some(command) = queue.recv() => {
                    if let Command::Close(closing) = command {
                        return self.close(closing).await;
                    }
                    self.handle(command);
                }
                Some(stream) = notices.recv() => self.noticed(stream),
            }
        }
    }

    fn handle(&mut self, command: Command) {
        match command {
            Command::Open { stream, headers } => {
                self.put(Frame::SynStream { stream, headers, fin: false, unidirectional: false })
            }
            Command::Reply(stream) => {
                self.put(Frame::SynReply { stream, headers: Vec::new(), fin: false })
            }
            Command::Data { stream, data } => self.data(stream, data, false),
            Command::Finish(stream) => {
                self.data(stream, Bytes::new(), true);
                self.shared.update(stream, |entry| entry.we_done = true);
            }
            Command::Reset { stream, status } => {
                self.shared.table().streams.remove(&stream);
                self.put(Frame::RstStream { stream, status });
            }
            Command::Pong(id) => {
                let id = id[..].try_into().expect("a spdy ping has four bytes");
                self.put(Frame::Ping(u32::from_be_bytes(id)));
            }
            Command::Close(_) => unreachable!("the closing command ends the loop"),
        }
    }

    /// Bytes of a stream that is over (reset, or lost its entry) have nowhere to go.
    fn data(&mut self, stream: StreamId, data: Bytes, fin: bool) {
        let open = self.shared.table().streams.get(&stream).is_some_and(|entry| !entry.we_done);
        if open {
            self.put(Frame::Data { stream, data, fin });
        }
    }

    /// A stream's reader took a window's worth, or went away.
    fn noticed(&mut self, stream: StreamId) {
        let delta = if stream == SESSION {
            self.shared.received.take()
        } else {
            let mut delta = 0;
            self.shared.update(stream, |entry| {
                if !entry.peer_is_done() {
                    delta = entry.flow.consumed.take();
                }
            });
            delta
        };
        if delta > 0 {
            self.put(Frame::WindowUpdate { stream, delta });
        }
    }

    /// Ends what is still open, so that every reader of the peer ends too, then says goodbye.
    async fn close(&mut self, closing: Closing) -> io::Result<()> {
        let (open, last_good) = {
            let table = self.shared.table();
            let open = table.streams.iter().filter(|(_, entry)| !entry.we_done);
            (open.map(|(id, _)| *id).collect::<Vec<_>>(), table.last_opened)
        };
        for stream in open {
            self.handle(match closing {
                Closing::Normal => Command::Finish(stream),
                Closing::ProtocolError | Closing::Failed => {
                    Command::Reset { stream, status: status::INTERNAL_ERROR }
                }
            });
        }
        let goaway_status = match closing {
            Closing::Normal => 0,
            Closing::ProtocolError => 1,
            Closing::Failed => 2,
        };
        self.put(Frame::GoAway { last_good, status: goaway_status });
        self.send().await?;
        match self.side {
            Side::Client => self.io.shutdown().await,
            Side::Server => self.io.flush().await,
        }
    }

    fn put(&mut self, frame: Frame) {
        self.frames.write(&frame, &mut self.buffer);
    }

    async fn send(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            self.io.write_all(&self.buffer).await?;
            self.buffer.clear();
        }
        Ok(())
    }
}
