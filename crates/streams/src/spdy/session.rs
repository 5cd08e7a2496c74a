//! A SPDY session: one connection, many streams, opened by either side.
//!
//! A task owns the connection. Its reader turns frames into bytes for [`Incoming`]s and new streams for
//! [`Session::accept`]; its writer drains the command queue. Counterpart: `spdystream.Connection`.
//! Differs from upstream: windows are granted, and obeyed once the peer uses them.
//!
//! Invariant: a stream leaves the table when both directions are over, it was reset, or its reader is
//! gone after we finished it; frames for streams not in the table are ignored.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::frame::{Frame, FrameReader, FrameWriter, SETTING_INITIAL_WINDOW_SIZE, status};
use super::headers::Headers;
use crate::Error;
use crate::channels::{FAREWELL, LINGER};
use crate::mux::{
    Closing, Command, Consumption, Credit, Flow, Hangup, Incoming, Outgoing, StreamId, WINDOW,
    command_queue, send_detached, stream_ends,
};

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

struct Reader<IO> {
    frames: FrameReader<ReadHalf<IO>>,
    shared: Arc<Shared>,
    arrived: mpsc::Sender<NewStream>,
    side: Side,
}

// === impl Reader ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Reader<IO> {
    async fn run(mut self) -> io::Result<()> {
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

struct Writer<IO> {
    io: WriteHalf<IO>,
    frames: FrameWriter,
    shared: Arc<Shared>,
    side: Side,
    buffer: Vec<u8>,
}

// === impl Writer ===

impl<IO: AsyncRead + AsyncWrite + Unpin> Writer<IO> {
    async fn run(
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, DuplexStream};

    use super::*;

    /// A server session, and the bare connection its client would have.
    fn server() -> (Session, tokio::task::JoinHandle<()>, DuplexStream) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (session, driver) = Session::prepare(near, Side::Server);
        (session, tokio::spawn(driver), far)
    }

    fn open(stream: StreamId) -> Frame {
        Frame::SynStream {
            stream,
            headers: vec![("streamtype".to_owned(), "data".to_owned())],
            fin: false,
            unidirectional: false,
        }
    }

    fn data(stream: StreamId, length: usize, fin: bool) -> Frame {
        let data = Bytes::from(vec![7; length]);
        Frame::Data { stream, data, fin }
    }

    fn encode(frames: &[Frame]) -> Vec<u8> {
        let mut writer = FrameWriter::new();
        let mut bytes = Vec::new();
        for frame in frames {
            writer.write(frame, &mut bytes);
        }
        bytes
    }

    async fn expect(client: &mut FrameReader<DuplexStream>, expected: Frame) {
        let frame = timeout(Duration::from_secs(5), client.next()).await;
        assert_eq!(frame.expect("a frame in time").unwrap(), Some(expected));
    }

    #[tokio::test]
    async fn pings_are_answered_and_wrong_numbers_refused() {
        let (_session, _driver, mut far) = server();
        let frames = [Frame::Ping(5), Frame::Ping(6), open(2), open(3), open(1)];
        far.write_all(&encode(&frames)).await.unwrap();
        let mut client = FrameReader::new(far);
        let settings = vec![(SETTING_INITIAL_WINDOW_SIZE, WINDOW)];
        expect(&mut client, Frame::Settings(settings)).await;
        expect(&mut client, Frame::Ping(5)).await;
        // Stream 2 has the server's parity; stream 1 comes after stream 3.
        for stream in [2, 1] {
            let status = status::PROTOCOL_ERROR;
            expect(&mut client, Frame::RstStream { stream, status }).await;
        }
    }

    #[tokio::test]
    async fn a_peer_without_windows_is_sent_everything() {
        let (mut session, _driver, mut far) = server();
        far.write_all(&encode(&[open(1)])).await.unwrap();
        let mut stream = session.accept().await.unwrap().accept().await.unwrap();
        let writing = stream.outgoing.write_all(&[1; 512 * 1024]);
        timeout(Duration::from_secs(5), writing).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_peer_with_windows_is_not_overrun() {
        let (mut session, _driver, mut far) = server();
        let window = Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, 1000)]);
        let mut writer = FrameWriter::new();
        let mut bytes = Vec::new();
        for frame in [window, open(1)] {
            writer.write(&frame, &mut bytes);
        }
        far.write_all(&bytes).await.unwrap();
        let mut stream = session.accept().await.unwrap().accept().await.unwrap();
        assert_eq!(stream.outgoing.write(&[1; 5000]).await.unwrap(), 1000);
        let more = timeout(Duration::from_millis(50), stream.outgoing.write(&[1; 5000]));
        more.await.expect_err("the window is used up");
        let (delta, mut bytes) = (300, Vec::new());
        writer.write(&Frame::WindowUpdate { stream: 1, delta }, &mut bytes);
        far.write_all(&bytes).await.unwrap();
        assert_eq!(stream.outgoing.write(&[1; 5000]).await.unwrap(), 300);
    }

    #[tokio::test]
    async fn a_reset_is_an_error_not_an_end() {
        let (mut session, _driver, mut far) = server();
        let reset = Frame::RstStream { stream: 1, status: 5 };
        far.write_all(&encode(&[open(1), data(1, 4, false), reset])).await.unwrap();
        let mut stream = session.accept().await.unwrap().accept().await.unwrap();
        let mut read = Vec::new();
        let error = stream.incoming.read_to_end(&mut read).await.unwrap_err();
        assert_eq!((read.len(), error.kind()), (4, io::ErrorKind::ConnectionReset));
    }

    /// Whole sessions fed with mutated frames: the task ends without a panic once the peer is gone.
    #[tokio::test]
    async fn mutated_sessions_never_panic() {
        let frames = [
            Frame::Settings(vec![(SETTING_INITIAL_WINDOW_SIZE, 1 << 16)]),
            open(1),
            data(1, 100, false),
            Frame::WindowUpdate { stream: 1, delta: 4096 },
            open(3),
            data(3, 10, true),
            Frame::Ping(1),
            Frame::RstStream { stream: 1, status: 5 },
            Frame::GoAway { last_good: 0, status: 0 },
        ];
        let clean = encode(&frames);
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..2_000 {
            let mut bytes = clean.clone();
            for _ in 0..=random(3) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            let (mut session, driver, mut far) = server();
            far.write_all(&bytes).await.unwrap();
            far.shutdown().await.unwrap();
            let accepting = async {
                while let Some(stream) = session.accept().await {
                    if let Ok(mut stream) = stream.accept().await {
                        let _ = stream.incoming.read_to_end(&mut Vec::new()).await;
                        let _ = stream.outgoing.write_all(b"answer").await;
                    }
                }
            };
            timeout(Duration::from_secs(10), accepting).await.expect("the session ends");
            driver.await.expect("the session's task does not panic");
        }
    }
}
