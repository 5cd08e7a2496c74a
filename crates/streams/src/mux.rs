//! The two ends of a multiplexed stream, and how they meet the task that owns the connection.
//!
//! A session task reads frames and writes each stream's bytes into a bounded pipe, whose other end is
//! an [`Incoming`]. Bytes written to an [`Outgoing`] become [`Command`]s in one bounded queue that the
//! session's writer drains. Both framings (SPDY and WebSocket channels) are built on these two.
//!
//! Invariant: bytes of one stream keep their order, also relative to commands sent after them; a full
//! pipe or queue waits, it never grows.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

pub(crate) type StreamId = u32;

/// The most one data frame carries: what upstream's copy loops use.
pub(crate) const MAX_CHUNK: usize = 32 * 1024;
/// What one stream buffers towards its reader; also the window granted to a SPDY peer.
pub(crate) const WINDOW: u32 = 256 * 1024;
/// Consumed bytes are returned to the peer's window in steps of this size.
const GRANT_STEP: u32 = WINDOW / 4;
/// Frames waiting for the connection: with `MAX_CHUNK`, half a megabyte per session.
const QUEUE: usize = 16;

/// What the session's writer is asked to send. Framings without a notion of it skip a command:
/// channels are numbered beforehand, so nothing opens, answers or resets them.
#[derive(Debug)]
pub(crate) enum Command {
    Open {
        stream: StreamId,
        headers: Vec<(String, String)>,
    },
    Reply(StreamId),
    Data {
        stream: StreamId,
        data: Bytes,
    },
    Finish(StreamId),
    Reset {
        stream: StreamId,
        status: u32,
    },
    Pong(Bytes),
    /// The last command: everything queued before it is sent first.
    Close(Closing),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    Normal,
    ProtocolError,
    Failed,
}

pub(crate) fn command_queue() -> (mpsc::Sender<Command>, mpsc::Receiver<Command>) {
    mpsc::channel(QUEUE)
}

/// Sends from places that cannot wait (drop), without ever losing the command.
pub(crate) fn send_detached(commands: &mpsc::Sender<Command>, command: Command) {
    if let Err(mpsc::error::TrySendError::Full(command)) = commands.try_send(command)
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        let commands = commands.clone();
        runtime.spawn(async move {
            // A closed queue means the session has ended: nobody is left to tell.
            let _ = commands.send(command).await;
        });
    }
}

/// Ends the session when dropped.
#[derive(Debug)]
pub(crate) struct Hangup(pub(crate) mpsc::Sender<Command>);

impl Drop for Hangup {
    fn drop(&mut self) {
        send_detached(&self.0, Command::Close(Closing::Normal));
    }
}

/// How many bytes may still be sent: per stream and per session.
///
/// Upstream's SPDY peers neither grant nor obey windows, so the balance only binds once the peer has
/// shown that it keeps one; what was sent before counts against it.
#[derive(Debug)]
pub(crate) struct Credit(Mutex<CreditState>);

#[derive(Debug)]
struct CreditState {
    available: i64,
    binding: bool,
    failed: Option<io::ErrorKind>,
    waiters: Vec<Waker>,
}

/// The state both ends of a stream share with its session.
#[derive(Debug)]
pub(crate) struct Flow {
    session: Arc<Credit>,
    pub(crate) stream: Credit,
    pub(crate) consumed: Consumption,
    pub(crate) reader_gone: AtomicBool,
    /// The peer has half-closed: losing it later takes nothing from what it sent.
    pub(crate) peer_done: AtomicBool,
}

/// Bytes taken out of a window that the peer has not been told about.
#[derive(Debug)]
pub(crate) struct Consumption {
    stream: StreamId,
    bytes: AtomicU32,
    /// Where the session's writer hears of a change; none without windows.
    notices: Option<mpsc::UnboundedSender<StreamId>>,
}

/// The receiving end of a stream: end of file is the peer's half-close, an error its loss.
#[derive(Debug)]
pub struct Incoming {
    pipe: DuplexStream,
    flow: Arc<Flow>,
}

/// The sending end of a stream: `shutdown` (or drop) half-closes it towards the peer.
#[derive(Debug)]
pub struct Outgoing {
    stream: StreamId,
    commands: PollSender<Command>,
    flow: Arc<Flow>,
    finished: bool,
    /// Held as long as the stream is: its receiver learns when the last of several is gone.
    alive: Option<mpsc::Sender<Infallible>>,
}

/// Both ends for the application, and the pipe through which the session feeds the first.
pub(crate) fn stream_ends(
    stream: StreamId,
    commands: &mpsc::Sender<Command>,
    flow: &Arc<Flow>,
) -> (Incoming, Outgoing, DuplexStream) {
    let (pipe, feed) = tokio::io::duplex(WINDOW as usize);
    let incoming = Incoming { pipe, flow: flow.clone() };
    let outgoing = Outgoing {
        stream,
        commands: PollSender::new(commands.clone()),
        flow: flow.clone(),
        finished: false,
        alive: None,
    };
    (incoming, outgoing, feed)
}

// === impl Credit ===

impl Credit {
    pub(crate) fn new(initial: i64, binding: bool) -> Self {
        Credit(Mutex::new(CreditState {
            available: initial,
            binding,
            failed: None,
            waiters: Vec::new(),
        }))
    }

    /// Adds to the balance and makes it binding: the peer keeps a window.
    pub(crate) fn grant(&self, bytes: i64) {
        self.update(|state| {
            state.available = state.available.saturating_add(bytes);
            state.binding = true;
        });
    }

    pub(crate) fn fail(&self, kind: io::ErrorKind) {
        self.update(|state| {
            state.failed.get_or_insert(kind);
        });
    }

    fn failed(&self) -> Option<io::ErrorKind> {
        self.lock().failed
    }

    fn refund(&self, bytes: usize) {
        self.update(|state| state.available += bytes as i64);
    }

    fn poll_take(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let mut state = self.lock();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        let taken = match usize::try_from(state.available) {
            _ if !state.binding => wanted,
            Ok(available) if available > 0 => available.min(wanted),
            _ => {
                // A writer that is polled in a loop waits once.
                if !state.waiters.iter().any(|waiter| waiter.will_wake(cx.waker())) {
                    state.waiters.push(cx.waker().clone());
                }
                return Poll::Pending;
            }
        };
        state.available -= taken as i64;
        Poll::Ready(Ok(taken))
    }

    fn update(&self, change: impl FnOnce(&mut CreditState)) {
        let waiters = {
            let mut state = self.lock();
            change(&mut state);
            std::mem::take(&mut state.waiters)
        };
        waiters.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, CreditState> {
        self.0.lock().expect("no code panics while holding credit")
    }
}

// === impl Consumption ===

impl Consumption {
    pub(crate) fn new(stream: StreamId, notices: Option<mpsc::UnboundedSender<StreamId>>) -> Self {
        Consumption { stream, bytes: AtomicU32::new(0), notices }
    }

    /// Tells the session once per `GRANT_STEP`, so at most one such notice is under way.
    pub(crate) fn add(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).expect("a read is smaller than a window");
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if before < GRANT_STEP && before.saturating_add(bytes) >= GRANT_STEP {
            self.notify();
        }
    }

    /// What to grant the peer now; the count starts again.
    pub(crate) fn take(&self) -> u32 {
        self.bytes.swap(0, Ordering::AcqRel)
    }

    fn notify(&self) {
        if let Some(notices) = &self.notices {
            // The session may have ended; then there is no window to keep.
            let _ = notices.send(self.stream);
        }
    }
}

// === impl Flow ===

impl Flow {
    pub(crate) fn new(session: Arc<Credit>, stream: Credit, consumed: Consumption) -> Arc<Self> {
        Arc::new(Flow {
            session,
            stream,
            consumed,
            reader_gone: AtomicBool::new(false),
            peer_done: AtomicBool::new(false),
        })
    }

    /// A stream whose peer knows no windows.
    pub(crate) fn unlimited(stream: StreamId) -> Arc<Self> {
        let unlimited = || Credit::new(0, false);
        let consumed = Consumption::new(stream, None);
        Flow::new(Arc::new(unlimited()), unlimited(), consumed)
    }

    fn poll_take(&self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        let of_session = ready!(self.session.poll_take(cx, wanted))?;
        match self.stream.poll_take(cx, of_session) {
            Poll::Ready(Ok(taken)) => {
                if taken < of_session {
                    self.session.refund(of_session - taken);
                }
                Poll::Ready(Ok(taken))
            }
            other => {
                self.session.refund(of_session);
                other
            }
        }
    }

    fn refund(&self, bytes: usize) {
        self.stream.refund(bytes);
        self.session.refund(bytes);
    }
}

// === impl Incoming ===

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.pipe).poll_read(cx, buf))?;
        let read = buf.filled().len() - before;
        if read == 0 && buf.remaining() > 0 {
            // The pipe ends alike on half-close and on loss; only the flow knows which it was.
            return Poll::Ready(match self.flow.stream.failed() {
                Some(kind) if !self.flow.peer_done.load(Ordering::Acquire) => Err(kind.into()),
                _ => Ok(()),
            });
        }
        self.flow.consumed.add(read);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.flow.reader_gone.store(true, Ordering::Release);
        self.flow.consumed.notify();
    }
}

// === impl Outgoing ===

impl Outgoing {
    /// Keeps silent about this direction, which the protocol does not use: no half-close is sent.
    pub(crate) fn disuse(mut self) {
        self.finished = true;
    }

    pub(crate) fn keep_alive(&mut self, alive: mpsc::Sender<Infallible>) {
        self.alive = Some(alive);
    }

    fn poll_send(&mut self, cx: &mut Context<'_>, command: Command) -> Poll<io::Result<()>> {
        ready!(self.commands.poll_reserve(cx)).map_err(|_| self.broken())?;
        Poll::Ready(self.commands.send_item(command).map_err(|_| self.broken()))
    }

    fn broken(&self) -> io::Error {
        self.flow.stream.failed().unwrap_or(io::ErrorKind::BrokenPipe).into()
    }
}

impl AsyncWrite for Outgoing {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.finished {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Poll::Ready(taken) = self.flow.poll_take(cx, buf.len().min(MAX_CHUNK)) else {
            // A place in the queue held while waiting for credit would starve the other streams.
            self.commands.abort_send();
            return Poll::Pending;
        };
        let taken = taken?;
        let command =
            Command::Data { stream: self.stream, data: Bytes::copy_from_slice(&buf[..taken]) };
        match self.poll_send(cx, command) {
            Poll::Ready(sent) => Poll::Ready(sent.map(|()| taken)),
            Poll::Pending => {
                self.flow.refund(taken);
                Poll::Pending
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The session flushes whenever its queue runs empty.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.finished {
            let finish = Command::Finish(self.stream);
            ready!(self.poll_send(cx, finish))?;
            self.finished = true;
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        self.commands.abort_send();
        if let Some(commands) = self.commands.get_ref() {
            send_detached(commands, Command::Finish(self.stream));
        }
    }
}
