//! The client halves of exec, attach and port-forward.
//!
//! A connection to a server and a path go in; the same streams the server gets come out, the other way
//! round. Counterpart: client-go's `remotecommand` and `portforward`.
//! Spoken: exec by WebSocket v5 and v4 (also base64) and by SPDY v4; port-forward by SPDY, bare or
//! tunnelled.

use bytes::Bytes;
use fastwebsockets::Role;
use http::{Method, Request, StatusCode, header};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::channels::{self, Dialect};
use crate::mux::{Hangup, Incoming, Outgoing};
use crate::negotiate::{
    Codec, Endpoint, Framing, HEADER_PROTOCOL, HEADER_WEBSOCKET_KEY, HEADER_WEBSOCKET_PROTOCOL,
    HEADER_WEBSOCKET_VERSION, Protocol, SPDY_31, Upgrade, accept_key, protocol_named,
};
use crate::port_forward::DataStream;
use crate::remote_command::{ERROR, RESIZE, STDERR, STDIN, STDOUT, STREAM_TYPES};
use crate::spdy::{Session, Side, Stream};
use crate::{CommandStatus, Error, StreamOptions, TerminalSize, websocket};

/// How the upgrade is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    WebSocket,
    Spdy,
}

/// A running command, from the client's side. Dropping it ends the session.
pub struct ExecClient {
    pub stdin: Option<Outgoing>,
    pub stdout: Option<Incoming>,
    pub stderr: Option<Incoming>,
    resize: Option<ResizeStream>,
    status: StatusStream,
    kept: Kept,
}

/// The streams of an [`ExecClient`] one by one; they end when its [`Kept`] is dropped.
pub struct ExecStreams {
    pub stdin: Option<Outgoing>,
    pub stdout: Option<Incoming>,
    pub stderr: Option<Incoming>,
    /// Present with a terminal.
    pub resize: Option<ResizeStream>,
    pub status: StatusStream,
}

/// Tells a command's terminal its sizes.
pub struct ResizeStream(Outgoing);

/// Tells how a command ended.
pub struct StatusStream {
    error: Incoming,
    /// Version 4 and later always send a status.
    expected: bool,
}

/// The connection of a session. Dropping it ends the session.
pub struct Kept {
    _session: Option<Session>,
    _hangup: Hangup,
}

/// A port-forward session, from the client's side. Dropping it ends all its connections.
pub struct PortForwardClient {
    session: Session,
    next_request: AtomicU32,
}

/// A connection to a port of the pod.
pub struct ConnectedPort {
    pub data: DataStream,
    /// Ends empty when nothing went wrong.
    pub error: Incoming,
}

// === impl ExecClient ===

impl ExecClient {
    /// Asks `io`'s server to exec or attach at `path`, which carries the query that `options` repeat.
    pub async fn connect<IO>(
        io: IO,
        path: &str,
        transport: Transport,
        protocol: &str,
        options: StreamOptions,
    ) -> Result<ExecClient, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let protocol = spoken(Endpoint::RemoteCommand, transport, protocol)?;
        let io = upgrade(io, path, protocol).await?;
        let wanted = options.wanted(protocol);
        match protocol.framing {
            Framing::Channels(codec) => Ok(Self::over_channels(io, protocol, codec, wanted)),
            _ => Self::over_spdy(io, protocol, wanted).await,
        }
    }

    fn over_channels(
        io: TokioIo<Upgraded>,
        protocol: Protocol,
        codec: Codec,
        wanted: [bool; 5],
    ) -> ExecClient {
        let dialect = Dialect { role: Role::Client, codec, close_signal: protocol.version >= 5 };
        let (ends, commands) = channels::start(io, dialect, STREAM_TYPES.len() as u8);
        let mut streams = ends.into_iter().zip(wanted).map(|(ends, wanted)| {
            let (incoming, outgoing) = ends;
            wanted.then_some(Stream { incoming, outgoing })
        });
        Self::assemble(
            std::array::from_fn(|_| streams.next().flatten()),
            protocol,
            None,
            Hangup(commands),
        )
    }

    async fn over_spdy(
        io: TokioIo<Upgraded>,
        protocol: Protocol,
        wanted: [bool; 5],
    ) -> Result<ExecClient, Error> {
        let session = Session::start(io, Side::Client);
        let mut streams: [Option<Stream>; 5] = Default::default();
        // Upstream's clients open the error stream first.
        for index in [ERROR, STDIN, STDOUT, STDERR, RESIZE] {
            if wanted[index] {
                let stream_type = STREAM_TYPES[index].to_owned();
                let headers = vec![("streamtype".to_owned(), stream_type)];
                streams[index] = Some(session.open(headers).await?);
            }
        }
        let hangup = Hangup(session.commands());
        Ok(Self::assemble(streams, protocol, Some(session), hangup))
    }

    fn assemble(
        streams: [Option<Stream>; 5],
        protocol: Protocol,
        session: Option<Session>,
        hangup: Hangup,
    ) -> ExecClient {
        let incoming = |stream: Option<Stream>| {
            stream.map(|stream| {
                stream.outgoing.disuse();
                stream.incoming
            })
        };
        let [stdin, stdout, stderr, error, resize] = streams;
        ExecClient {
            stdin: stdin.map(|stream| stream.outgoing),
            stdout: incoming(stdout),
            stderr: incoming(stderr),
            resize: resize.map(|stream| ResizeStream(stream.outgoing)),
            status: StatusStream {
                error: incoming(error).expect("the error stream always exists"),
                expected: protocol.version >= 4,
            },
            kept: Kept { _session: session, _hangup: hangup },
        }
    }

    pub fn into_parts(self) -> (ExecStreams, Kept) {
        let ExecClient { stdin, stdout, stderr, resize, status, kept } = self;
        (ExecStreams { stdin, stdout, stderr, resize, status }, kept)
    }

    /// Tells the command's terminal its new size; nothing happens without a terminal.
    pub async fn resize(&mut self, size: TerminalSize) -> Result<(), Error> {
        match &mut self.resize {
            Some(resize) => resize.send(size).await,
            None => Ok(()),
        }
    }

    /// Waits for the command's end. Read the output first, or at the same time.
    pub async fn status(&mut self) -> Result<CommandStatus, Error> {
        self.status.wait().await
    }
}

// === impl ResizeStream ===

impl ResizeStream {
    pub async fn send(&mut self, size: TerminalSize) -> Result<(), Error> {
        let text = serde_json::to_vec(&size).expect("two numbers make JSON");
        Ok(self.0.write_all(&text).await?)
    }
}

// === impl StatusStream ===

impl StatusStream {
    /// Until the command's end; all its output may not have been read by then.
    pub async fn wait(&mut self) -> Result<CommandStatus, Error> {
        let mut text = Vec::new();
        let ended = self.error.read_to_end(&mut text).await;
        // Upstream's servers hang up after the status without ending its stream.
        if text.is_empty() {
            ended?;
        }
        Ok(match text.as_slice() {
            [] if self.expected => return Err(Error::Disconnected),
            [] => CommandStatus::Success,
            _ => CommandStatus::from_json(&text).unwrap_or_else(|| {
                CommandStatus::InternalError(String::from_utf8_lossy(&text).into_owned())
            }),
        })
    }
}

// === impl PortForwardClient ===

impl PortForwardClient {
    /// Starts a session with `io`'s server at `path`: tunnelled over a WebSocket, bare over SPDY.
    pub async fn connect<IO>(
        io: IO,
        path: &str,
        transport: Transport,
    ) -> Result<PortForwardClient, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let name = match transport {
            Transport::WebSocket => "SPDY/3.1+portforward.k8s.io",
            Transport::Spdy => "portforward.k8s.io",
        };
        let protocol = spoken(Endpoint::PortForward, transport, name)?;
        let io = upgrade(io, path, protocol).await?;
        let session = match transport {
            Transport::WebSocket => {
                Session::start(websocket::tunnel(io, Role::Client), Side::Client)
            }
            Transport::Spdy => Session::start(io, Side::Client),
        };
        Ok(PortForwardClient { session, next_request: AtomicU32::new(0) })
    }

    /// Opens a connection to a port of the pod; many may be open at once.
    pub async fn open(&self, port: u16) -> Result<ConnectedPort, Error> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed);
        let headers = |stream_type: &str| {
            vec![
                ("streamtype".to_owned(), stream_type.to_owned()),
                ("port".to_owned(), port.to_string()),
                ("requestid".to_owned(), request.to_string()),
            ]
        };
        let mut error = self.session.open(headers("error")).await?;
        error.outgoing.shutdown().await?;
        let data = self.session.open(headers("data")).await?;
        Ok(ConnectedPort {
            data: DataStream { incoming: data.incoming, outgoing: data.outgoing },
            error: error.incoming,
        })
    }
}

fn spoken(endpoint: Endpoint, transport: Transport, name: &str) -> Result<Protocol, Error> {
    let upgrade = match transport {
        Transport::WebSocket => Upgrade::WebSocket,
        Transport::Spdy => Upgrade::Spdy,
    };
    protocol_named(endpoint, upgrade, name).ok_or(Error::BadHandshake("unknown protocol"))
}

/// Sends the upgrade request and checks the answer.
async fn upgrade<IO>(io: IO, path: &str, protocol: Protocol) -> Result<TokioIo<Upgraded>, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let key = fastwebsockets::handshake::generate_key();
    let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
    tokio::spawn(connection.with_upgrades());
    let request = upgrade_request(path, protocol, &key)?;
    let mut response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(Error::UpgradeRefused(response.status()));
    }
    let accept = response.headers().get("sec-websocket-accept");
    if protocol.upgrade == Upgrade::WebSocket && accept != Some(&accept_key(key.as_bytes())) {
        return Err(Error::BadHandshake("the server did not prove its handshake"));
    }
    Ok(TokioIo::new(hyper::upgrade::on(&mut response).await?))
}

fn upgrade_request(
    path: &str,
    protocol: Protocol,
    key: &str,
) -> Result<Request<Empty<Bytes>>, Error> {
    let request = Request::builder()
        .uri(path)
        .header(header::HOST, "localhost")
        .header(header::CONNECTION, "Upgrade");
    let request = match protocol.upgrade {
        Upgrade::WebSocket => request
            .method(Method::GET)
            .header(header::UPGRADE, "websocket")
            .header(HEADER_WEBSOCKET_VERSION, "13")
            .header(HEADER_WEBSOCKET_KEY, key)
            .header(HEADER_WEBSOCKET_PROTOCOL, protocol.name),
        Upgrade::Spdy => request
            .method(Method::POST)
            .header(header::UPGRADE, SPDY_31)
            .header(HEADER_PROTOCOL, protocol.name),
    };
    request.body(Empty::new()).map_err(|_| Error::BadHandshake("the path is not a valid uri"))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;

    use super::*;
    use crate::mux::{Flow, command_queue, stream_ends};

    /// What containerd's streaming server does.
    #[tokio::test]
    async fn a_status_counts_although_the_server_hangs_up_without_ending_it() {
        for (sent, expected) in [
            (CommandStatus::ExitCode(7).to_json(), Some(CommandStatus::ExitCode(7))),
            (String::new(), None),
        ] {
            let (commands, _queue) = command_queue();
            let flow = Flow::unlimited(1);
            let (error, _outgoing, mut feed) = stream_ends(1, &commands, &flow);
            feed.write_all(sent.as_bytes()).await.expect("the pipe has room");
            flow.stream.fail(ErrorKind::ConnectionReset);
            drop(feed);
            let mut status = StatusStream { error, expected: true };
            assert_eq!(status.wait().await.ok(), expected);
        }
    }
}
