//! A stream whose peer must go on reading, and is heard out when it ends.
//!
//! Bytes pass through; a write that cannot go on for longer than its patience fails, which ends the connection.
//! Sockets have no such limit of their own: a peer that is alive and does not read keeps what is sent to it for ever.
//! At the end what still comes is read and forgotten for a moment: a socket closed over unread bytes takes back the
//! answer that was sent before. Counterpart: only of the latter, Go's `closeWriteAndWait`.
//! Invariant: what was handed over to another protocol is never cut here.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long a peer may leave what it is sent in its socket; lists that are read slowly go on, bit by bit.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a peer that is refused may go on sending before the socket is closed.
const HEARING: Duration = Duration::from_millis(500);

pub struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Set while a write cannot go on.
    waits: Option<Pin<Box<Sleep>>>,
    /// Set once the last word was sent to a peer that was still sending.
    hears: Option<Pin<Box<Sleep>>>,
    /// The connection speaks another protocol now, in which silence may be meant.
    handed_over: Arc<AtomicBool>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Impatient<S> {
    pub fn new(stream: S, patience: Duration, handed_over: Arc<AtomicBool>) -> Impatient<S> {
        Impatient { stream, patience, waits: None, hears: None, handed_over }
    }

    /// Starts the clock when a write has to wait, stops it when it goes on.
    fn timed<T>(
        &mut self,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let written = write(Pin::new(&mut self.stream), context);
        if written.is_ready() || self.handed_over.load(Relaxed) {
            self.waits = None;
            return written;
        }
        let patience = self.patience;
        let waits = self.waits.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        waits.as_mut().poll(context).map(|()| {
            Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read what it is sent"))
        })
    }

    /// Reads what a peer says after it was told the end; ready at once when it says nothing.
    fn hear_out(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut forgotten = [0; 4096];
        loop {
            let mut buffer = ReadBuf::new(&mut forgotten);
            match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {}
                Poll::Ready(_) => return Poll::Ready(()),
                Poll::Pending => break,
            }
            self.hears.get_or_insert_with(|| Box::pin(tokio::time::sleep(HEARING)));
        }
        self.hears.as_mut().map_or(Poll::Ready(()), |hears| hears.as_mut().poll(context))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.timed(context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.timed(context, |stream, context| stream.poll_write_vectored(context, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.timed(context, |stream, context| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.timed(context, |stream, context| stream.poll_shutdown(context)))?;
        self.hear_out(context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_does_not_read_is_given_up() {
        let (ours, _theirs) = duplex(16);
        let mut ours = Impatient::new(ours, LIMIT, Arc::default());
        let error = ours.write_all(&[0; 100]).await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_slowly_gets_everything() {
        let (ours, mut theirs) = duplex(16);
        let mut ours = Impatient::new(ours, LIMIT, Arc::default());
        let reader = async {
            let mut read = 0;
            while read < 160 {
                tokio::time::sleep(LIMIT * 9 / 10).await;
                read += theirs.read(&mut [0; 16]).await.expect("bytes");
            }
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 160]), reader);
        written.expect("it went on all the time");
    }

    #[tokio::test(start_paused = true)]
    async fn another_protocol_may_be_silent() {
        let (ours, _theirs) = duplex(16);
        let mut ours = Impatient::new(ours, LIMIT, Arc::new(AtomicBool::new(true)));
        let waited = tokio::time::timeout(20 * LIMIT, ours.write_all(&[0; 100])).await;
        assert!(waited.is_err(), "it was cut: {waited:?}");
    }
}
