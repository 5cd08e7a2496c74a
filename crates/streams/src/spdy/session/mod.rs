//! A SPDY session: one connection, many streams, opened by either side.
//!
//! A task owns the connection. Its reader turns frames into bytes for [`Incoming`]s and new streams for
//! [`Session::accept`]; its writer drains the command queue. Counterpart: `spdystream.Connection`.
//! Differs from upstream: windows are granted, and obeyed once the peer uses them.
//!
//! Invariant: a stream leaves the table when both directions are over, it was reset, or its reader is
//! gone after we finished it; frames for streams not in the table are ignored.

mod reader;
mod writer;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::frame::{FrameReader, FrameWriter, status};
use super::headers::Headers;
use crate::Error;
use crate::channels::{FAREWELL, LINGER};
use crate::mux::{
    Command, Consumption, Credit, Flow, Hangup, Incoming, Outgoing, StreamId, command_queue,
    send_detached, stream_ends,
};

use reader::Reader;
use writer::Writer;

/// Streams open at once. A forwarded connection takes two.
const MAX_STREAMS: usize = 4096;
/// New streams nobody has accepted yet.
const BACKLOG: usize = 64;
/// Every SPDY window starts here (draft 3, section 2.6.8).
const INITIAL_WINDOW: i64 = 64 * 1024;
/// The stream number that stands for the whole session in window updates (SPDY/3.1).
const SESSION: StreamId = 0;
/// How long to wait for the answer to an opened stream, as upstream.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Its streams have odd numbers.
    Client,
    Server,
}

/// The application's handle; dropping it ends the session.
pub(crate) struct Session {
    shared: Arc<Shared>,
    arrivals: mpsc::Receiver<NewStream>,
    next_id: AtomicU32,
    _hangup: Hangup,
}

/// A stream the peer opened and we have not answered yet; dropping it refuses the stream.
pub(crate) struct NewStream {
    pub id: StreamId,
    pub headers: Headers,
    ends: Option<(Incoming, Outgoing)>,
    commands: mpsc::Sender<Command>,
}

/// Both ends of an open stream.
pub(crate) struct Stream {
    pub incoming: Incoming,
    pub outgoing: Outgoing,
}

struct Shared {
    commands: mpsc::Sender<Command>,
    notices: mpsc::UnboundedSender<StreamId>,
    /// What we may send over all streams together.
    session: Arc<Credit>,
    /// What we have received over all streams together.
    received: Consumption,
    table: Mutex<Table>,
}

struct Table {
    streams: HashMap<StreamId, Entry>,
    /// The window the peer's settings give to new streams, once it has said so.
    peer_window: Option<u32>,
    /// The last stream the peer opened; their numbers only grow.
    last_opened: StreamId,
}

struct Entry {
    flow: Arc<Flow>,
    /// Where the reader puts bytes; none while it is doing so and after the peer's half-close.
    feed: Option<DuplexStream>,
    /// Resolved by the peer's answer to a stream we opened.
    reply: Option<oneshot::Sender<()>>,
    we_done: bool,
}

// === impl Side ===

impl Side {
    /// How long a finished session waits for the peer to close. What a client has not read yet would
    /// be lost if its server closed first; a client that hangs up wants nothing more.
    fn patience(self) -> Duration {
        match self {
            Side::Client => FAREWELL,
            Side::Server => LINGER,
        }
    }
}

// === impl Session ===

impl Session {
    /// Takes over the connection; the session runs in a task of its own.
    pub(crate) fn start<IO>(io: IO, side: Side) -> Session
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (session, driver) = Session::prepare(io, side);
        tokio::spawn(driver);
        session
    }

    /// The session and the task that it needs to make progress.
    fn prepare<IO>(io: IO, side: Side) -> (Session, impl Future<Output = ()>)
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let (commands, queue) = command_queue();
        let (notices, notice_queue) = mpsc::unbounded_channel();
        let (arrived, arrivals) = mpsc::channel(BACKLOG);
        let session = Arc::new(Credit::new(INITIAL_WINDOW, false));
        let received = Consumption::new(SESSION, Some(notices.clone()));
        let shared = Arc::new(Shared {
            commands,
            notices,
            session,
            received,
            table: Mutex::new(Table { streams: HashMap::new(), peer_window: None, last_opened: 0 }),
        });
        let (read, write) = tokio::io::split(io);
        let reader =
            Reader { frames: FrameReader::new(read), shared: shared.clone(), arrived, side };
        let writer = Writer {
            io: write,
            frames: FrameWriter::new(),
            shared: shared.clone(),
            side,
            buffer: Vec::new(),
        };
        let session = Session {
            _hangup: Hangup(shared.commands.clone()),
            shared,
            arrivals,
            next_id: AtomicU32::new(if side == Side::Client { 1 } else { 2 }),
        };
        (session, run(reader, writer, queue, notice_queue))
    }

    /// The next stream the peer opens; none once the session is over.
    pub(crate) async fn accept(&mut self) -> Option<NewStream> {
        self.arrivals.recv().await
    }

    /// Opens a stream and waits for the peer's answer.
    pub(crate) async fn open(&self, headers: Headers) -> Result<Stream, Error> {
        let id = self.next_id.fetch_add(2, Ordering::Relaxed);
        let (reply, answered) = oneshot::channel();
        let (incoming, outgoing) = self
            .shared
            .insert(id, |entry| entry.reply = Some(reply))
            .ok_or(Error::StreamRefused)?;
        let command = Command::Open { stream: id, headers };
        let sent = self.shared.commands.send(command).await;
        sent.map_err(|_| Error::Disconnected)?;
        match timeout(REPLY_TIMEOUT, answered).await {
            Ok(Ok(())) => Ok(Stream { incoming, outgoing }),
            Ok(Err(_)) => Err(Error::StreamRefused),
            Err(_) => Err(Error::StreamTimeout),
        }
    }

    pub(crate) fn commands(&self) -> mpsc::Sender<Command> {
        self.shared.commands.clone()
    }
}

// === impl NewStream ===

impl NewStream {
    /// Answers the peer, which may send from now on.
    pub(crate) async fn accept(mut self) -> Result<Stream, Error> {
        let reply = self.commands.send(Command::Reply(self.id)).await;
        reply.map_err(|_| Error::Disconnected)?;
        let (incoming, outgoing) = self.ends.take().expect("a stream is accepted once");
        Ok(Stream { incoming, outgoing })
    }
}

impl Drop for NewStream {
    fn drop(&mut self) {
        if let Some((incoming, outgoing)) = self.ends.take() {
            outgoing.disuse();
            drop(incoming);
            let refusal = Command::Reset { stream: self.id, status: status::REFUSED_STREAM };
            send_detached(&self.commands, refusal);
        }
    }
}

// === impl Shared ===

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("no code panics while holding the table")
    }

    /// Adds a stream to the table, unless it is full.
    fn insert(
        &self,
        id: StreamId,
        adjust: impl FnOnce(&mut Entry),
    ) -> Option<(Incoming, Outgoing)> {
        let mut table = self.table();
        if table.streams.len() >= MAX_STREAMS {
            return None;
        }
        let credit = match table.peer_window {
            Some(window) => Credit::new(i64::from(window), true),
            None => Credit::new(INITIAL_WINDOW, false),
        };
        let consumed = Consumption::new(id, Some(self.notices.clone()));
        let flow = Flow::new(self.session.clone(), credit, consumed);
        let (incoming, outgoing, feed) = stream_ends(id, &self.commands, &flow);
        let mut entry = Entry { flow, feed: Some(feed), reply: None, we_done: false };
        adjust(&mut entry);
        table.streams.insert(id, entry);
        Some((incoming, outgoing))
    }

    /// Changes an entry, then removes it if the stream is over.
    fn update(&self, id: StreamId, change: impl FnOnce(&mut Entry)) {
        let mut table = self.table();
        if let Some(entry) = table.streams.get_mut(&id) {
            change(entry);
            if entry.is_over() {
                table.streams.remove(&id);
            }
        }
    }

    /// Ends every stream with an error; whoever waits on one is woken.
    fn fail_all(&self, kind: io::ErrorKind) {
        self.session.fail(kind);
        for (_, entry) in self.table().streams.drain() {
            entry.flow.stream.fail(kind);
        }
    }
}

impl Entry {
    fn is_over(&self) -> bool {
        let reader_gone = self.flow.reader_gone.load(Ordering::Acquire);
        self.we_done && (self.peer_is_done() || reader_gone)
    }

    fn peer_is_done(&self) -> bool {
        self.flow.peer_done.load(Ordering::Acquire)
    }

    fn peer_finished(&mut self) {
        self.flow.peer_done.store(true, Ordering::Release);
        self.feed = None;
    }
}

/// Drives both directions until one is over, then lets the other come to rest.
async fn run<IO>(
    reader: Reader<IO>,
    writer: Writer<IO>,
    queue: mpsc::Receiver<Command>,
    notices: mpsc::UnboundedReceiver<StreamId>,
) where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let (shared, side) = (reader.shared.clone(), reader.side);
    let mut reading = std::pin::pin!(reader.run());
    let mut writing = std::pin::pin!(writer.run(queue, notices));
    let end = tokio::select! {
        end = &mut reading => {
            if end.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::InvalidData) {
                // The reader has queued the frame that tells the peer what it did wrong.
                let _ = timeout(FAREWELL, writing).await;
            }
            end
        }
        end = &mut writing => match end {
            Ok(()) => timeout(side.patience(), reading).await.unwrap_or(Ok(())),
            Err(error) => Err(error),
        },
    };
    if let Err(error) = &end {
        tracing::debug!(%error, "spdy session lost");
    }
    shared.fail_all(io::ErrorKind::ConnectionReset);
}

#[cfg(test)]
mod tests;
