//! The server's end: calls on a Unix socket, handed to whoever is registered for their path.
//!
//! Counterpart: `grpc.Server`. Differs from upstream: a call that was begun is finished even when its client leaves, since what
//! calls do here (run a sandbox, register a plugin) must not stop halfway.
//! Invariant: every call is answered with a status; a handler that panics is `Internal`.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http::{HeaderMap, Request, Response, header};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    net::{UnixListener, UnixStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    DEFAULT_MAX_MESSAGE,
    accept::serve_each,
    client::until,
    message::{Messages, framed},
    status::{Code, Status, trailers},
};

/// What a server-streaming call answers.
pub type Answers<A> = BoxStream<'static, Result<A, Status>>;
type Frames = BoxStream<'static, Result<Bytes, Status>>;
type Body = UnsyncBoxBody<Bytes, Infallible>;
type Handler = Box<dyn Fn(Messages) -> BoxFuture<'static, Result<Frames, Status>> + Send + Sync>;

/// Methods by path.
pub struct Router {
    methods: HashMap<String, Handler>,
    max_message: usize,
}

// === impl Router ===

impl Default for Router {
    fn default() -> Self {
        Router { methods: HashMap::new(), max_message: DEFAULT_MAX_MESSAGE }
    }
}

impl Router {
    /// The largest message that is taken in.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    pub fn unary<Q, A, F>(
        self,
        path: impl Into<String>,
        handle: impl Fn(Q) -> F + Send + Sync + 'static,
    ) -> Self
    where
        Q: Message + Default + 'static,
        A: Message + 'static,
        F: Future<Output = Result<A, Status>> + Send + 'static,
    {
        self.server_streaming(path, move |request| {
            let answer = handle(request);
            async move {
                let answer = answer.await?;
                Ok(stream::once(async { Ok(answer) }).boxed())
            }
        })
    }

    pub fn server_streaming<Q, A, F>(
        mut self,
        path: impl Into<String>,
        handle: impl Fn(Q) -> F + Send + Sync + 'static,
    ) -> Self
    where
        Q: Message + Default + 'static,
        A: Message + 'static,
        F: Future<Output = Result<Answers<A>, Status>> + Send + 'static,
    {
        let handle = Arc::new(handle);
        let handler: Handler = Box::new(move |mut messages| {
            let handle = handle.clone();
            Box::pin(async move {
                let missing = || Status::new(Code::Internal, "no message in the request");
                let request = messages.next().await?.ok_or_else(missing)?;
                let answers = handle(request).await?;
                Ok(answers.map(|answer| answer.map(|message| framed(&message))).boxed())
            })
        });
        self.methods.insert(path.into(), handler);
        self
    }

    /// Answers until `stop`; what is under way then is cut.
    pub async fn serve(self, listener: UnixListener, stop: CancellationToken) {
        let router = Arc::new(self);
        let serve = |stream| router.clone().serve_connection(stream);
        serve_each(|cx| listener.poll_accept(cx), stop, serve).await;
    }

    async fn serve_connection(self: Arc<Self>, stream: UnixStream) {
        let service = service_fn(move |request| {
            let router = self.clone();
            async move { Ok::<_, Infallible>(router.answer(request).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        if let Err(error) = connection.serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let deadline = timeout_of(request.headers()).map(|timeout| Instant::now() + timeout);
        let frames = until(deadline, self.begin(request)).await;
        Response::builder()
            .header(header::CONTENT_TYPE, "application/grpc")
            .body(body(frames, deadline))
            .expect("a constant header is valid")
    }

    async fn begin(self: Arc<Self>, request: Request<Incoming>) -> Result<Frames, Status> {
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        let handler = self.methods.get(path).ok_or_else(|| Status::unimplemented(path))?;
        let call = handler(Messages::new(body, self.max_message));
        let ended = tokio::spawn(call).await;
        ended.unwrap_or_else(|_| Err(Status::new(Code::Internal, "the call's handler panicked")))
    }
}

/// The answers, then the trailers that say how the call ended.
fn body(answers: Result<Frames, Status>, deadline: Option<Instant>) -> Body {
    let answers = answers.unwrap_or_else(|status| stream::once(async { Err(status) }).boxed());
    let frames = stream::unfold(Some(answers), move |answers| async move {
        let mut answers = answers?;
        let next = until(deadline, async { answers.next().await.transpose() }).await;
        Some(match next {
            Ok(Some(message)) => (Ok(Frame::data(message)), Some(answers)),
            Ok(None) => (Ok(Frame::trailers(trailers(Ok(())))), None),
            Err(status) => (Ok(Frame::trailers(trailers(Err(status)))), None),
        })
    });
    StreamBody::new(frames).boxed_unsync()
}

/// `grpc-timeout`: up to eight digits and a unit.
fn timeout_of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.checked_mul(3600)?),
        "M" => Duration::from_secs(number.checked_mul(60)?),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().expect("a value"));
            timeout_of(&headers)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7200)));
        assert_eq!(read("1500m"), Some(Duration::from_millis(1500)));
        assert_eq!(read("7u"), Some(Duration::from_micros(7)));
        for malformed in ["", "m", "5", "-1S", "5x"] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
    }
}
