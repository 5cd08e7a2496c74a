//! The channel protocols: numbered streams inside WebSocket messages, one number per message.
//!
//! A message is a channel number and bytes; `base64` variants write both as text. Version 5 adds the
//! close signal, channel 255 followed by the number of the channel a client has finished.
//! Counterpart: `wsstream.Conn` and client-go's `remotecommand/websocket.go`.
//!
//! Invariant: only the end of the connection, or a version 5 close signal, ends a channel. There is
//! no window: a channel nobody reads stops the others, as upstream.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::Role;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use crate::mux::{
    Closing, Command, Flow, Incoming, Outgoing, StreamId, command_queue, stream_ends,
};
use crate::negotiate::Codec;
use crate::websocket::{self, Event, MessageWriter, Messages};

/// The channel number that carries the close signal, itself followed by the closed channel's.
const CLOSE_SIGNAL: u8 = 255;
/// How long a finished session waits for the client to close: upstream's bound. Closing at once would
/// make the kernel drop what a slow client has not read yet.
pub(crate) const LINGER: Duration = Duration::from_secs(15 * 60);
/// How long a client that has closed may take to accept what was already queued.
pub(crate) const FAREWELL: Duration = Duration::from_secs(5);
/// Upstream's clients ping every 5 seconds and give up after 61 without a pong.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
pub(crate) struct Dialect {
    pub role: Role,
    pub codec: Codec,
    /// Version 5: a client says when a channel ends.
    pub close_signal: bool,
}

/// Takes over the connection and returns both ends of `count` channels.
pub(crate) fn start<IO>(
    io: IO,
    dialect: Dialect,
    count: u8,
) -> (Vec<(Incoming, Outgoing)>, mpsc::Sender<Command>)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (messages, writer) = websocket::split(io, dialect.role);
    let (commands, queue) = command_queue();
    let mut ends = Vec::new();
    let mut channels = Vec::new();
    for number in 0..count {
        let stream = StreamId::from(number);
        let flow = Flow::unlimited(stream);
        let (incoming, outgoing, feed) = stream_ends(stream, &commands, &flow);
        ends.push((incoming, outgoing));
        channels.push(Channel { feed: Some(feed), flow });
    }
    let reader = Reader { messages, channels, dialect, commands: commands.clone() };
    tokio::spawn(run(reader, writer, queue));
    (ends, commands)
}

struct Channel {
    /// None once the channel has ended or its reader is gone.
    feed: Option<DuplexStream>,
    flow: Arc<Flow>,
}

struct Reader<IO> {
    messages: Messages<IO>,
    channels: Vec<Channel>,
    dialect: Dialect,
    commands: mpsc::Sender<Command>,
}

/// Drives both directions until one of them is over, then lets the other come to rest.
async fn run<IO>(reader: Reader<IO>, writer: MessageWriter<IO>, queue: mpsc::Receiver<Command>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let dialect = reader.dialect;
    let mut reading = std::pin::pin!(reader.run());
    let mut writing = std::pin::pin!(write_all(writer, queue, dialect));
    tokio::select! {
        end = &mut reading => {
            if end.is_ok() {
                // The reader has queued our own close frame.
                let _ = timeout(FAREWELL, writing).await;
            }
        }
        end = &mut writing => {
            if end.is_ok() {
                let _ = timeout(LINGER, reading).await;
            }
        }
    }
}

// === impl Reader ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Reader<IO> {
    /// Ok when the peer closed by the rules, an error when it was lost.
    async fn run(mut self) -> io::Result<()> {
        let end = self.read_all().await;
        let closing = match &end {
            Ok(()) => Closing::Normal,
            Err(error) => {
                tracing::debug!(%error, "websocket session lost");
                for channel in &self.channels {
                    channel.flow.stream.fail(error.kind());
                }
                Closing::ProtocolError
            }
        };
        // Ends every channel's reader before waiting for room in the queue.
        self.channels.clear();
        let _ = self.commands.send(Command::Close(closing)).await;
        end
    }

    async fn read_all(&mut self) -> io::Result<()> {
        loop {
            match self.messages.next().await? {
                Event::Message(message) => self.deliver(message).await,
                Event::Ping(payload) => {
                    // A closed queue means our side is done; the peer's close is still awaited.
                    let _ = self.commands.send(Command::Pong(payload)).await;
                }
                Event::Pong => {}
                Event::Close(reason) => return reason,
            }
        }
    }

    async fn deliver(&mut self, message: Bytes) {
        let Some((number, data)) = self.dialect.decode(message) else {
            tracing::debug!("dropping a malformed channel message");
            return;
        };
        if number == CLOSE_SIGNAL && self.dialect.close_signal {
            for ended in data {
                self.end(ended);
            }
            return;
        }
        let Some(channel) = self.channels.get_mut(usize::from(number)) else {
            tracing::debug!(number, "dropping a message for an unknown channel");
            return;
        };
        if let Some(feed) = &mut channel.feed
            && write_patiently(feed, &data, &self.commands, KEEP_ALIVE).await.is_err()
        {
            channel.feed = None;
        }
    }

    fn end(&mut self, number: u8) {
        if let Some(channel) = self.channels.get_mut(usize::from(number)) {
            channel.flow.peer_done.store(true, Ordering::Release);
            channel.feed = None;
        }
    }
}

/// Writes to a channel, however long its reader takes.
///
/// Differs from upstream: pings behind the unread bytes go unanswered meanwhile, and kubectl gives up a
/// minute later; pongs nobody asked for (RFC 6455, section 5.5.3) keep such a session alive.
async fn write_patiently(
    feed: &mut DuplexStream,
    data: &[u8],
    commands: &mpsc::Sender<Command>,
    keep_alive: Duration,
) -> io::Result<()> {
    let mut writing = std::pin::pin!(feed.write_all(data));
    loop {
        tokio::select! {
            written = &mut writing => return written,
            () = sleep(keep_alive) => drop(commands.try_send(Command::Pong(Bytes::new()))),
        }
    }
}

/// Writes commands until the closing one; flushes whenever the queue runs empty.
async fn write_all<IO>(
    mut writer: MessageWriter<IO>,
    mut queue: mpsc::Receiver<Command>,
    dialect: Dialect,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(command) = queue.recv().await {
        match command {
            Command::Data { stream, data } => dialect.write(&mut writer, stream, &data).await?,
            Command::Finish(stream) if dialect.signals_close() => {
                let number = channel_number(stream);
                writer.binary(vec![CLOSE_SIGNAL, number]).await?;
            }
            Command::Pong(payload) => writer.pong(payload).await?,
            Command::Close(closing) => return writer.close(closing).await,
            Command::Finish(_)
            | Command::Open { .. }
            | Command::Reply(_)
            | Command::Reset { .. } => {}
        }
        if queue.is_empty() {
            writer.flush().await?;
        }
    }
    writer.close(Closing::Normal).await
}

// === impl Dialect ===

impl Dialect {
    /// Clients would report a close signal as an unknown channel, so only they send it.
    fn signals_close(self) -> bool {
        self.close_signal && self.role == Role::Client
    }

    fn decode(self, message: Bytes) -> Option<(u8, Bytes)> {
        let number = *message.first()?;
        let data = message.slice(1..);
        match self.codec {
            Codec::Binary => Some((number, data)),
            Codec::Base64 => {
                let data = STANDARD.decode(&data).ok()?;
                Some((number.checked_sub(b'0')?, data.into()))
            }
        }
    }

    async fn write<IO>(
        self,
        writer: &mut MessageWriter<IO>,
        stream: StreamId,
        data: &[u8],
    ) -> io::Result<()>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let number = channel_number(stream);
        match self.codec {
            Codec::Binary => {
                let mut message = Vec::with_capacity(data.len() + 1);
                message.push(number);
                message.extend_from_slice(data);
                writer.binary(message).await
            }
            Codec::Base64 => {
                let mut message = String::from(char::from(b'0' + number));
                STANDARD.encode_string(data, &mut message);
                writer.text(message).await
            }
        }
    }
}

fn channel_number(stream: StreamId) -> u8 {
    u8::try_from(stream).expect("channels are numbered with a byte")
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_client_is_kept_while_its_input_waits() {
        let (mut feed, mut reader) = tokio::io::duplex(1);
        let (commands, mut queue) = command_queue();
        let pause = Duration::from_millis(5);
        let writing =
            tokio::spawn(
                async move { write_patiently(&mut feed, b"unread", &commands, pause).await },
            );
        for _ in 0..2 {
            assert!(matches!(queue.recv().await, Some(Command::Pong(_))));
        }
        let mut read = Vec::new();
        reader.read_to_end(&mut read).await.unwrap();
        writing.await.unwrap().unwrap();
        assert_eq!(read, b"unread");
    }

    #[test]
    fn messages_carry_their_channel() {
        let dialect = |codec| Dialect { role: Role::Server, codec, close_signal: false };
        let check = |codec, message: &'static [u8], expected: Option<(u8, &'static [u8])>| {
            let decoded = dialect(codec).decode(Bytes::from_static(message));
            let expected = expected.map(|(number, data)| (number, Bytes::from_static(data)));
            assert_eq!(decoded, expected);
        };
        check(Codec::Binary, b"\x00foo\n", Some((0, b"foo\n")));
        check(Codec::Binary, b"\x04", Some((4, b"")));
        check(Codec::Binary, b"", None);
        // The example in upstream's description of the protocol.
        check(Codec::Base64, b"0Zm9vCgo=", Some((0, b"foo\n\n")));
        check(Codec::Base64, b"0not base64", None);
        check(Codec::Base64, b"\x00Zm9v", None);
    }
}
