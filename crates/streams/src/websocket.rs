//! WebSocket messages over an upgraded connection, and a byte stream tunnelled inside them.
//!
//! Input: an upgraded connection. Output: [`Messages`] (whole messages, pings and closes) and
//! [`MessageWriter`]; or, by [`tunnel`], a byte stream whose bytes travel in binary messages.
//! Counterparts: `wsstream.Conn`, `portforward.TunnelingConnection`.
//!
//! Invariant: a message is at most `MAX_MESSAGE` long, whether it comes in one frame or in many.

use std::io;

use bytes::{Bytes, BytesMut};
use fastwebsockets::{Frame, OpCode, Payload, Role, WebSocketError, WebSocketRead, WebSocketWrite};
use tokio::io::{
    AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf,
};
use tokio::sync::mpsc;

use crate::mux::{Closing, MAX_CHUNK};

/// What upstream's server accepts.
const MAX_MESSAGE: usize = 32 << 20;
/// How much a tunnel buffers in each direction.
const TUNNEL_BUFFER: usize = 128 * 1024;

pub(crate) enum Event {
    Message(Bytes),
    Ping(Bytes),
    Pong,
    /// The peer will send nothing more; an error if it closed for anything but being done.
    Close(io::Result<()>),
}

pub(crate) struct Messages<IO> {
    frames: WebSocketRead<ReadHalf<IO>>,
    /// The fragments of a message that is still coming in.
    partial: Option<BytesMut>,
}

pub(crate) struct MessageWriter<IO> {
    frames: WebSocketWrite<WriteHalf<IO>>,
}

pub(crate) fn split<IO>(io: IO, role: Role) -> (Messages<IO>, MessageWriter<IO>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (read, write) = tokio::io::split(io);
    let (mut read, write) = fastwebsockets::after_handshake_split(read, write, role);
    // Control frames are answered through the session's queue, which owns the writing half.
    read.set_auto_pong(false);
    read.set_auto_close(false);
    read.set_max_message_size(MAX_MESSAGE);
    let messages = Messages { frames: read, partial: None };
    (messages, MessageWriter { frames: write })
}

// === impl Messages ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Messages<IO> {
    /// The next event. Not cancel safe: a dropped future may lose part of a frame.
    pub(crate) async fn next(&mut self) -> io::Result<Event> {
        loop {
            let frame = self.read_frame().await?;
            let (fin, opcode) = (frame.fin, frame.opcode);
            let payload = BytesMut::from(&frame.payload[..]);
            match opcode {
                OpCode::Ping => return Ok(Event::Ping(payload.freeze())),
                OpCode::Pong => return Ok(Event::Pong),
                OpCode::Close => return Ok(Event::Close(reason_of(&payload))),
                OpCode::Text | OpCode::Binary => self.begin(payload)?,
                OpCode::Continuation => self.extend(&payload)?,
            }
            if fin && let Some(message) = self.partial.take() {
                return Ok(Event::Message(message.freeze()));
            }
        }
    }

    async fn read_frame(&mut self) -> io::Result<Frame<'_>> {
        // Nothing is ever sent from here, since automatic answers are off.
        let mut unused = |_: Frame<'_>| std::future::ready(Ok::<(), io::Error>(()));
        self.frames.read_frame(&mut unused).await.map_err(into_io)
    }

    fn begin(&mut self, payload: BytesMut) -> io::Result<()> {
        if self.partial.is_some() {
            return Err(violation("a message began before the last one ended"));
        }
        self.partial = Some(payload);
        Ok(())
    }

    fn extend(&mut self, payload: &[u8]) -> io::Result<()> {
        let partial = self
            .partial
            .as_mut()
            .ok_or_else(|| violation("a continuation frame without a message"))?;
        if partial.len() + payload.len() > MAX_MESSAGE {
            return Err(violation("a message is too long"));
        }
        partial.extend_from_slice(payload);
        Ok(())
    }
}

// === impl MessageWriter ===

impl<IO: AsyncRead + AsyncWrite + Unpin> MessageWriter<IO> {
    pub(crate) async fn binary(&mut self, payload: Vec<u8>) -> io::Result<()> {
        self.write(Frame::binary(payload.into())).await
    }

    pub(crate) async fn text(&mut self, payload: String) -> io::Result<()> {
        self.write(Frame::text(payload.into_bytes().into())).await
    }

    pub(crate) async fn pong(&mut self, payload: Bytes) -> io::Result<()> {
        self.write(Frame::pong(Payload::Owned(payload.into()))).await?;
        self.flush().await
    }

    /// Sends the close frame. Clients take any code but 1000 for a failure.
    pub(crate) async fn close(&mut self, closing: Closing) -> io::Result<()> {
        let (code, reason) = match closing {
            Closing::Normal => (1000, ""),
            Closing::ProtocolError => (1002, "protocol error"),
            Closing::Failed => (1011, "the session ended early"),
        };
        self.write(Frame::close(code, reason.as_bytes())).await?;
        self.flush().await
    }

    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        self.frames.flush().await.map_err(into_io)
    }

    async fn write(&mut self, frame: Frame<'static>) -> io::Result<()> {
        self.frames.write_frame(frame).await.map_err(into_io)
    }
}

/// A byte stream carried in binary messages; the two ends of it close each other.
pub(crate) fn tunnel<IO>(io: IO, role: Role) -> DuplexStream
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (near, far) = tokio::io::duplex(TUNNEL_BUFFER);
    let (messages, writer) = split(io, role);
    let (out, into) = tokio::io::split(far);
    tokio::spawn(async move {
        let (pongs, pong_queue) = mpsc::channel(1);
        tokio::select! {
            _ = unwrap_messages(messages, into, pongs) => {}
            _ = wrap_bytes(writer, out, pong_queue) => {}
        }
    });
    near
}

/// Message payloads to bytes. Ends when the peer closes or the near side is gone.
async fn unwrap_messages<IO>(
    mut messages: Messages<IO>,
    mut into: WriteHalf<DuplexStream>,
    pongs: mpsc::Sender<Bytes>,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match messages.next().await? {
            Event::Message(data) => into.write_all(&data).await?,
            // One ping answers for all that come while the pong waits.
            Event::Ping(payload) => drop(pongs.try_send(payload)),
            Event::Pong => {}
            Event::Close(reason) => {
                into.shutdown().await?;
                return reason;
            }
        }
    }
}

/// Bytes to binary messages. Ends with a normal close once the near side has shut down.
async fn wrap_bytes<IO>(
    mut writer: MessageWriter<IO>,
    mut out: ReadHalf<DuplexStream>,
    mut pongs: mpsc::Receiver<Bytes>,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut chunk = vec![0; MAX_CHUNK];
    loop {
        tokio::select! {
            Some(payload) = pongs.recv() => writer.pong(payload).await?,
            read = out.read(&mut chunk) => match read? {
                0 => return writer.close(Closing::Normal).await,
                n => {
                    writer.binary(chunk[..n].to_vec()).await?;
                    writer.flush().await?;
                }
            },
        }
    }
}

/// Done is 1000, 1001 (a page was left) or no code at all.
fn reason_of(payload: &[u8]) -> io::Result<()> {
    match payload {
        [] | [0x03, 0xe8 | 0xe9, ..] => Ok(()),
        _ => Err(io::ErrorKind::ConnectionAborted.into()),
    }
}

fn violation(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn into_io(error: WebSocketError) -> io::Error {
    match error {
        WebSocketError::IoError(error) => error,
        WebSocketError::UnexpectedEOF => io::ErrorKind::UnexpectedEof.into(),
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}
