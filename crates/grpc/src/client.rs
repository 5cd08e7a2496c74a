//! The client's end: a connection that is kept, shared by all calls, and made anew when it is gone.
//!
//! Counterpart: `grpc.ClientConn` with its `pick_first` of one address.
//! Invariant: a request goes out twice only if the first connection never took it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
    sync::Mutex,
    time::Instant,
};

use crate::{
    DEFAULT_MAX_MESSAGE,
    message::{Messages, framed},
    status::{Code, Status},
};

type Sender = SendRequest<Full<Bytes>>;

/// Where calls go; cheap to make, connects with the first call.
pub struct Channel {
    /// `None`: the one connection that was handed in.
    socket: Option<PathBuf>,
    authority: String,
    user_agent: HeaderValue,
    max_message: usize,
    connection: Mutex<Option<Sender>>,
}

/// The answers of a server-streaming call, as they come. Dropping it cancels the call.
pub struct Streaming<A> {
    messages: Messages,
    deadline: Option<Instant>,
    kind: std::marker::PhantomData<fn() -> A>,
}

// === impl Channel ===

impl Channel {
    /// To whoever listens at a Unix socket, now or later.
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Channel {
            socket: Some(socket.into()),
            authority: "localhost".to_owned(),
            user_agent: HeaderValue::from_static("kubelet"),
            max_message: DEFAULT_MAX_MESSAGE,
            connection: Mutex::new(None),
        }
    }

    /// Over a connection that exists; when it is gone, so is the channel.
    pub async fn over<S>(stream: S, authority: &str) -> Result<Self, Status>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = Mutex::new(Some(handshake(stream).await?));
        let authority = authority.to_owned();
        Ok(Channel { socket: None, authority, connection, ..Channel::unix("") })
    }

    pub fn user_agent(mut self, name: &'static str) -> Self {
        self.user_agent = HeaderValue::from_static(name);
        self
    }

    /// The largest message that is taken in.
    pub fn max_message(mut self, bytes: usize) -> Self {
        self.max_message = bytes;
        self
    }

    /// One message there, one back; `path` is like `/csi.v1.Node/NodeGetInfo`.
    pub async fn unary<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
        timeout: Option<Duration>,
    ) -> Result<A, Status> {
        let mut answers: Streaming<A> = self.server_streaming(path, request, timeout).await?;
        let answer = answers.next().await?;
        let answer = answer.ok_or_else(|| Status::new(Code::Internal, "no message in the answer"));
        // The status comes after the message, and may yet be a refusal.
        answers.next().await?;
        answer
    }

    /// One message there, any number back.
    pub async fn server_streaming<Q: Message, A: Message + Default>(
        &self,
        path: &str,
        request: &Q,
        timeout: Option<Duration>,
    ) -> Result<Streaming<A>, Status> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let request = self.request(path, framed(request), timeout)?;
        let response = until(deadline, self.send(request)).await?;
        if response.status() != StatusCode::OK {
            return Err(Status::of_http(response.status()));
        }
        if let Some(refused) = Status::read(response.headers()) {
            refused?;
        }
        let messages = Messages::new(response.into_body(), self.max_message);
        Ok(Streaming { messages, deadline, kind: std::marker::PhantomData })
    }

    fn request(
        &self,
        path: &str,
        body: Bytes,
        timeout: Option<Duration>,
    ) -> Result<Request<Full<Bytes>>, Status> {
        let mut request = Request::post(format!("http://{}{path}", self.authority))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, &self.user_agent);
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout_text(timeout));
        }
        let invalid = |error: http::Error| Status::new(Code::Internal, error.to_string());
        request.body(Full::new(body)).map_err(invalid)
    }

    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Status> {
        let mut failed = match self.sender(false).await?.try_send_request(request).await {
            Ok(response) => return Ok(response),
            Err(failed) => failed,
        };
        // The peer went away between the look at the connection and its use.
        match failed.take_message() {
            Some(request) if self.socket.is_some() => {
                let mut sender = self.sender(true).await?;
                sender.send_request(request).await.map_err(Status::unavailable)
            }
            _ => Err(Status::unavailable(failed.into_error())),
        }
    }

    /// The connection, or a new one if there is none, or none that works.
    async fn sender(&self, anew: bool) -> Result<Sender, Status> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = &*connection
            && !sender.is_closed()
            && !anew
        {
            return Ok(sender.clone());
        }
        let Some(socket) = &self.socket else {
            return Err(Status::unavailable("the connection is closed"));
        };
        let stream = UnixStream::connect(socket).await.map_err(|error| dialing(socket, &error))?;
        let sender = handshake(stream).await?;
        *connection = Some(sender.clone());
        Ok(sender)
    }
}

async fn handshake<S>(stream: S) -> Result<Sender, Status>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .map_err(Status::unavailable)?;
    tokio::spawn(connection);
    Ok(sender)
}

/// In the words users find in events.
fn dialing(socket: &Path, error: &std::io::Error) -> Status {
    let (socket, errno) = (socket.display(), nameless(error));
    Status::unavailable(format!(
        "connection error: desc = \"transport: Error while dialing: dial unix {socket}: connect: {errno}\""
    ))
}

/// The system's text without the number that Rust appends, and in lower case.
fn nameless(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

/// At most eight digits fit: milliseconds reach for a day, seconds for three years.
fn timeout_text(timeout: Duration) -> String {
    const MOST: u128 = 99_999_999;
    match timeout.as_millis() {
        millis if millis <= MOST => format!("{}m", millis.max(1)),
        millis => format!("{}S", (millis / 1000).min(MOST)),
    }
}

pub(crate) async fn until<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match deadline {
        None => work.await,
        Some(deadline) => tokio::time::timeout_at(deadline, work)
            .await
            .unwrap_or_else(|_| Err(Status::deadline_exceeded())),
    }
}

// === impl Streaming ===

impl<A: Message + Default> Streaming<A> {
    /// The next answer; `None` when the call has succeeded and there is no more.
    pub async fn next(&mut self) -> Result<Option<A>, Status> {
        if let Some(message) = until(self.deadline, self.messages.next()).await? {
            return Ok(Some(message));
        }
        let unsaid =
            || Status::new(Code::Internal, "server closed the stream without sending trailers");
        Status::read(self.messages.trailers()).unwrap_or_else(|| Err(unsaid())).map(|()| None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_have_eight_digits_at_most() {
        assert_eq!(timeout_text(Duration::from_millis(1500)), "1500m");
        assert_eq!(timeout_text(Duration::from_nanos(3)), "1m");
        assert_eq!(timeout_text(Duration::from_secs(100_000)), "100000S");
    }
}
