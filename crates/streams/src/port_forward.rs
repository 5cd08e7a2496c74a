//! The server half of port-forward: one session, many forwarded connections.
//!
//! Input: an upgraded connection. Output: [`ForwardedConnection`]s, each a port, its data both ways and
//! a stream for an error text. Counterpart: `cri/streaming/portforward`.
//! SPDY clients (also inside a WebSocket) open two streams per connection, paired by `requestID`; the
//! channel protocol has two channels for each port of the query, and one connection per port.
//!
//! Invariant: a half-close passes through in both directions, for each connection by itself.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use fastwebsockets::Role;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::Error;
use crate::channels::{self, Dialect};
use crate::mux::{Hangup, Incoming, Outgoing};
use crate::negotiate::{Codec, Endpoint, Framing, Negotiated};
use crate::spdy::{NewStream, Session, Side, Stream, value_of};
use crate::websocket;

/// How long a client may take between the two streams of a connection, as upstream.
const PAIR_TIMEOUT: Duration = Duration::from_secs(30);
/// What the channel protocol can number: two channels for each, printable in its base64 variant.
const MAX_PORTS: usize = 32;

/// A port-forward session. Dropping it ends all its connections.
pub struct PortForward(Source);

enum Source {
    Streams(Pairing),
    Channels(Channels),
}

/// One connection to forward. Half-close `data` and drop it when the pod's side is done.
pub struct ForwardedConnection {
    pub port: u16,
    pub data: DataStream,
    /// Text for the user. kubectl ends the whole session when any is written: leave it empty for a
    /// connection the pod merely reset.
    pub error: Outgoing,
}

/// Both directions of a forwarded connection.
pub struct DataStream {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

// === impl PortForward ===

impl PortForward {
    /// Takes over the upgraded connection. `ports` are those of the request's query
    /// ([`forwarded_ports`]), which only the channel protocol needs.
    pub async fn accept<IO>(
        io: IO,
        negotiated: &Negotiated,
        ports: &[u16],
    ) -> Result<PortForward, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let protocol = negotiated.protocol;
        if negotiated.endpoint != Endpoint::PortForward {
            return Err(Error::WrongEndpoint { protocol: protocol.name });
        }
        Ok(PortForward(match protocol.framing {
            Framing::Spdy => Source::Streams(Pairing::new(Session::start(io, Side::Server))),
            Framing::SpdyInWebSocket => {
                let tunnel = websocket::tunnel(io, Role::Server);
                Source::Streams(Pairing::new(Session::start(tunnel, Side::Server)))
            }
            Framing::Channels(codec) => Source::Channels(Channels::start(io, codec, ports).await?),
            Framing::Messages(_) => return Err(Error::WrongEndpoint { protocol: protocol.name }),
        }))
    }

    /// The next connection; none once the session is over.
    pub async fn next(&mut self) -> Option<ForwardedConnection> {
        match &mut self.0 {
            Source::Streams(pairing) => pairing.next().await,
            Source::Channels(channels) => channels.next().await,
        }
    }
}

/// The ports of a port-forward query (`ports=80,443&ports=8080`, or `port=` as the kubelet spells it).
pub fn forwarded_ports(query: &str) -> Result<Vec<u16>, Error> {
    let ports = query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| matches!(*name, "ports" | "port"));
    ports
        .flat_map(|(_, value)| value.split(',').flat_map(|part| part.split("%2C")))
        .map(parse_port)
        .collect()
}

fn parse_port(text: &str) -> Result<u16, Error> {
    match text.parse() {
        Ok(0) | Err(_) => Err(Error::InvalidPort(text.to_owned())),
        Ok(port) => Ok(port),
    }
}

/// Pairs the streams of a SPDY session into connections.
struct Pairing {
    session: Session,
    waiting: HashMap<String, Half>,
}

/// The stream of a pair that came first.
struct Half {
    kind: StreamKind,
    stream: Stream,
    deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamKind {
    Data,
    Error,
}

// === impl Pairing ===

impl Pairing {
    fn new(session: Session) -> Self {
        Pairing { session, waiting: HashMap::new() }
    }

    async fn next(&mut self) -> Option<ForwardedConnection> {
        loop {
            let deadline = self.waiting.values().map(|half| half.deadline).min();
            let stream = tokio::select! {
                stream = self.session.accept() => stream?,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.expire().await;
                    continue;
                }
            };
            if let Some(connection) = self.add(stream).await {
                return Some(connection);
            }
        }
    }

    /// A stream with wrong headers is refused by dropping it, as is a second one of its kind.
    async fn add(&mut self, stream: NewStream) -> Option<ForwardedConnection> {
        let (kind, port) = match classify(&stream) {
            Ok(found) => found,
            Err(reason) => {
                tracing::debug!(reason, "refusing a port-forward stream");
                return None;
            }
        };
        let request = request_id(&stream, kind);
        if self.waiting.get(&request).is_some_and(|half| half.kind == kind) {
            tracing::debug!(request, "refusing a repeated port-forward stream");
            return None;
        }
        let stream = stream.accept().await.ok()?;
        let Some(half) = self.waiting.remove(&request) else {
            let deadline = Instant::now() + PAIR_TIMEOUT;
            self.waiting.insert(request, Half { kind, stream, deadline });
            return None;
        };
        let (data, error) = match kind {
            StreamKind::Data => (stream, half.stream),
            StreamKind::Error => (half.stream, stream),
        };
        Some(ForwardedConnection {
            port,
            data: DataStream { incoming: data.incoming, outgoing: data.outgoing },
            error: error.outgoing,
        })
    }

    async fn expire(&mut self) {
        let now = Instant::now();
        let late = self.waiting.extract_if(|_, half| half.deadline <= now);
        for (request, mut half) in late.collect::<Vec<_>>() {
            if half.kind == StreamKind::Error {
                let text = format!("(request={request}) timed out waiting for streams");
                // The client may be gone; then there is nobody to tell.
                let _ = half.stream.outgoing.write_all(text.as_bytes()).await;
            }
        }
    }
}

fn classify(stream: &NewStream) -> Result<(StreamKind, u16), &'static str> {
    let port = value_of(&stream.headers, "port").ok_or("\"port\" header is required")?;
    let port = parse_port(port).map_err(|_| "the \"port\" header is not a port")?;
    match value_of(&stream.headers, "streamtype") {
        Some("data") => Ok((StreamKind::Data, port)),
        Some("error") => Ok((StreamKind::Error, port)),
        Some(_) => Err("invalid stream type"),
        None => Err("\"streamType\" header is required"),
    }
}

/// Clients before 1.2 send no id, but open the error stream right before the data stream.
fn request_id(stream: &NewStream, kind: StreamKind) -> String {
    match value_of(&stream.headers, "requestid") {
        Some(id) if !id.is_empty() => id.to_owned(),
        _ if kind == StreamKind::Error => stream.id.to_string(),
        _ => stream.id.saturating_sub(2).to_string(),
    }
}

/// The connections of the channel protocol, all there from the start.
struct Channels {
    connections: std::vec::IntoIter<ForwardedConnection>,
    /// Ends with the last stream of the last connection.
    all_over: mpsc::Receiver<Infallible>,
    _hangup: Hangup,
}

// === impl Channels ===

impl Channels {
    async fn start<IO>(io: IO, codec: Codec, ports: &[u16]) -> Result<Channels, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        match ports {
            [] => return Err(Error::NoPorts),
            [_, ..] if ports.len() > MAX_PORTS => {
                return Err(Error::BadHandshake("too many ports"));
            }
            _ => {}
        }
        let dialect = Dialect { role: Role::Server, codec, close_signal: false };
        let (ends, commands) = channels::start(io, dialect, (ports.len() * 2) as u8);
        let (alive, all_over) = mpsc::channel(1);
        let mut ends = ends.into_iter();
        let mut connections = Vec::new();
        while let (Some(data), Some(error)) = (ends.next(), ends.next()) {
            let port = ports[connections.len()];
            connections.push(channel_connection(port, data, error.1, alive.clone()).await?);
        }
        Ok(Channels { connections: connections.into_iter(), all_over, _hangup: Hangup(commands) })
    }

    async fn next(&mut self) -> Option<ForwardedConnection> {
        match self.connections.next() {
            Some(connection) => Some(connection),
            None => {
                self.all_over.recv().await;
                None
            }
        }
    }
}

/// Both channels of a port begin with its number, two bytes, low byte first.
async fn channel_connection(
    port: u16,
    (incoming, mut outgoing): (Incoming, Outgoing),
    mut error: Outgoing,
    alive: mpsc::Sender<Infallible>,
) -> Result<ForwardedConnection, Error> {
    outgoing.write_all(&port.to_le_bytes()).await?;
    error.write_all(&port.to_le_bytes()).await?;
    outgoing.keep_alive(alive.clone());
    error.keep_alive(alive);
    Ok(ForwardedConnection { port, data: DataStream { incoming, outgoing }, error })
}

// === impl DataStream ===

impl AsyncRead for DataStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.incoming).poll_read(cx, buf)
    }
}

impl AsyncWrite for DataStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.outgoing).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outgoing).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.outgoing).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_query() {
        let check = |query: &str, expected: &[u16]| {
            assert_eq!(forwarded_ports(query).unwrap(), expected, "{query}");
        };
        check("", &[]);
        check("ports=80,443&ports=8080", &[80, 443, 8080]);
        check("port=80%2C81&x=1", &[80, 81]);
        for bad in ["ports=0", "ports=65536", "ports=", "ports=http"] {
            assert!(matches!(forwarded_ports(bad), Err(Error::InvalidPort(_))), "{bad}");
        }
    }
}
