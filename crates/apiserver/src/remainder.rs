//! What a client still sends of a request that has been answered.
//!
//! A refusal does not wait for the body. A little that still comes is read and forgotten before the answer goes out, so that
//! the connection serves the next request; where more would come, the answer says that the connection ends.
//! HTTP/1.1 only: a stream of HTTP/2 ends alone. Counterpart: Go's `net/http`, `maxPostHandlerReadBytes`.
//! Invariant: a connection never ends on a client that has not been told.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{CONNECTION, EXPECT};
use http::{HeaderValue, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::{BodyExt, Limited};

use crate::reply::BoxError;

/// The most that is read of an answered request, and for how long.
const FORGIVEN: usize = 256 << 10;
const PATIENCE: Duration = Duration::from_secs(2);

/// A request's body, which comes back if it is not read to its end.
pub struct Lent<B: Body + Unpin> {
    body: Option<B>,
    returned: Option<Returned<B>>,
}

type Returned<B> = Arc<Mutex<Option<B>>>;

/// Where the body comes back to; `None` if there is nothing to come back.
pub struct Remainder<B> {
    returned: Option<Returned<B>>,
    /// The client sends nothing before it is asked to, and nobody has asked.
    waits_to_be_asked: bool,
}

// === impl Remainder ===

impl<B> Remainder<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    pub fn of(request: Request<B>) -> (Request<Lent<B>>, Remainder<B>) {
        let may_remain = request.version() == Version::HTTP_11 && !request.body().is_end_stream();
        let returned = may_remain.then(Returned::default);
        let waits_to_be_asked = request.headers().contains_key(EXPECT);
        let remainder = Remainder { returned: returned.clone(), waits_to_be_asked };
        (request.map(|body| Lent { body: Some(body), returned }), remainder)
    }

    /// Hears the client out, or has the answer say that the connection ends.
    pub async fn settle<A>(self, response: &mut Response<A>) {
        let Some(body) = self.returned.as_ref().and_then(take) else { return };
        let is_little = body.size_hint().lower() <= FORGIVEN as u64;
        if self.waits_to_be_asked || !is_little || !is_heard_out(body).await {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
}

fn take<B>(returned: &Returned<B>) -> Option<B> {
    returned.lock().unwrap_or_else(PoisonError::into_inner).take()
}

async fn is_heard_out<B>(body: B) -> bool
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    let mut rest = Limited::new(body, FORGIVEN);
    let forgotten = async {
        while let Some(frame) = rest.frame().await {
            if frame.is_err() {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(PATIENCE, forgotten).await.unwrap_or(false)
}

// === impl Lent ===

impl<B: Body + Unpin> Body for Lent<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }
}

impl<B: Body + Unpin> Drop for Lent<B> {
    fn drop(&mut self) {
        let rest = self.body.take().filter(|body| !body.is_end_stream());
        if let (Some(rest), Some(returned)) = (rest, &self.returned) {
            *returned.lock().unwrap_or_else(PoisonError::into_inner) = Some(rest);
        }
    }
}
