//! Answers that nobody reads.
//!
//! Body + patience -> the same body, let go of when a piece of it has waited that long for its client. A list pins the
//! objects as they were, and a watch those it has yet to tell: neither may be held for as long as a client likes.
//! No counterpart upstream, where such a client holds its buffers for as long as its connection lives.
//! Invariant: a body that waits for us, such as a watch on which nothing happens, is never let go of.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::task::AbortHandle;

use crate::reply::{Body, BoxError};

/// How long a client may take for one piece of an answer, twice over at most.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
#[error("the answer was not read in time")]
pub struct Unread;

/// A body while it is read.
struct Watched {
    held: Arc<Held>,
    ends: AbortHandle,
}

struct Held {
    /// None once it was let go of.
    body: Mutex<Option<Body>>,
    /// How often the client asked, times two; odd while we wait for it to ask again.
    asked: AtomicU64,
}

/// The body, let go of when its client does not ask for the next piece in time.
pub fn let_go(body: Body, patience: Duration) -> Body {
    let held = Arc::new(Held { body: Mutex::new(Some(body)), asked: AtomicU64::new(1) });
    let ends = tokio::spawn(look_after(held.clone(), patience)).abort_handle();
    Watched { held, ends }.boxed_unsync()
}

async fn look_after(held: Arc<Held>, patience: Duration) {
    let mut seen = 0;
    loop {
        tokio::time::sleep(patience).await;
        let asked = held.asked.load(Relaxed);
        if asked == seen && !asked.is_multiple_of(2) {
            drop(held.lock().take());
            return tracing::debug!("an answer was not read in time");
        }
        seen = asked;
    }
}

// === impl Held ===

impl Held {
    fn lock(&self) -> MutexGuard<'_, Option<Body>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Watched ===

impl Drop for Watched {
    fn drop(&mut self) {
        self.ends.abort();
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut body = self.held.lock();
        let Some(body) = body.as_mut() else { return Poll::Ready(Some(Err(Unread.into()))) };
        let polled = Pin::new(body).poll_frame(context);
        let asked = (self.held.asked.load(Relaxed) | 1) + 1;
        self.held.asked.store(asked + u64::from(polled.is_ready()), Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.held.lock().as_ref().is_some_and(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.held.lock().as_ref().map(http_body::Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    /// Endless pieces; tells by its weak count whether it is still held.
    fn endless() -> (Body, std::sync::Weak<()>) {
        let held = Arc::new(());
        let weak = Arc::downgrade(&held);
        let pieces = futures::stream::unfold(held, |held| async move {
            Some((Ok::<_, BoxError>(Frame::data(Bytes::from_static(b"piece"))), held))
        });
        (StreamBody::new(pieces).boxed_unsync(), weak)
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_read_is_let_go_of() {
        let (body, held) = endless();
        let mut body = let_go(body, LIMIT);
        for _ in 0..3 {
            body.frame().await.expect("goes on").expect("a piece");
        }
        tokio::time::sleep(2 * LIMIT + LIMIT / 2).await;
        assert!(held.upgrade().is_none(), "it is still held");
        let error = body.frame().await.expect("an end").expect_err("a fault");
        assert!(error.is::<Unread>());
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_nobody_begins_to_read_is_let_go_of() {
        let (body, held) = endless();
        let _body = let_go(body, LIMIT);
        tokio::time::sleep(2 * LIMIT + LIMIT / 2).await;
        assert!(held.upgrade().is_none(), "it is still held");
    }

    /// Between two looks it waited for us, and then we for it.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_went_on_in_between_is_not_stuck() {
        let (send, pieces) = futures::channel::mpsc::unbounded::<Result<Frame<Bytes>, BoxError>>();
        let mut body = let_go(StreamBody::new(pieces).boxed_unsync(), LIMIT);
        for _ in 0..20 {
            let piece = Frame::data(Bytes::from_static(b"piece"));
            send.unbounded_send(Ok(piece)).expect("it is listened to");
            body.frame().await.expect("goes on").expect("a piece");
            assert!(futures::poll!(std::pin::pin!(body.frame())).is_pending());
            tokio::time::sleep(LIMIT).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_reader_gets_everything() {
        let (body, _held) = endless();
        let mut body = let_go(body, LIMIT);
        for _ in 0..20 {
            body.frame().await.expect("goes on").expect("a piece");
            tokio::time::sleep(LIMIT * 9 / 10).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_of_ours_is_not_held_against_the_client() {
        let silent = futures::stream::pending::<Result<Frame<Bytes>, BoxError>>();
        let mut body = let_go(StreamBody::new(silent).boxed_unsync(), LIMIT);
        let waited = tokio::time::timeout(20 * LIMIT, body.frame()).await;
        assert!(waited.is_err(), "a silent watch was ended: {waited:?}");
    }
}
