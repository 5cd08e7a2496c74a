//! The server half of exec and attach.
//!
//! Input: an upgraded connection and which streams the client asked for. Output: those streams as
//! plain readers and writers, terminal sizes as values, and an [`ErrorStream`] that ends the session
//! with the command's status. Counterpart: `cri/streaming/remotecommand`.
//!
//! Invariant: the status is the last thing a client receives, after all output written before it.

use std::time::Duration;

use fastwebsockets::Role;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::Error;
use crate::channels::{self, Dialect};
use crate::mux::{Closing, Command, Incoming, Outgoing, send_detached};
use crate::negotiate::{Codec, Endpoint, Framing, Negotiated, Protocol};
use crate::spdy::{Session, Side, Stream, value_of};

/// How long a SPDY client may take to open the streams it asked for, as upstream.
const STREAM_CREATION_TIMEOUT: Duration = Duration::from_secs(30);
/// A terminal size is some thirty bytes; more than this without one is not a size.
const MAX_RESIZE_BUFFER: usize = 4096;

/// Channel numbers, and with them the order of everything indexed by stream below.
pub(crate) const STDIN: usize = 0;
pub(crate) const STDOUT: usize = 1;
pub(crate) const STDERR: usize = 2;
pub(crate) const ERROR: usize = 3;
pub(crate) const RESIZE: usize = 4;
pub(crate) const STREAM_TYPES: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];

/// Which streams the client asked for, by the request's query parameters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamOptions {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// What the client's terminal was resized to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    pub width: u16,
    pub height: u16,
}

/// How the command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandStatus {
    Success,
    /// It ran and exited with a code other than zero.
    ExitCode(i32),
    /// It could not be run, or its end is unknown.
    InternalError(String),
}

pub struct RemoteCommand;

/// The client's ends of a running command. Drop a writer when its source has ended.
pub struct RemoteCommandStreams {
    pub stdin: Option<Incoming>,
    pub stdout: Option<Outgoing>,
    pub stderr: Option<Outgoing>,
    /// Present for terminals. The first size comes right away, the last one is never skipped.
    pub resize: Option<mpsc::Receiver<TerminalSize>>,
    pub status: ErrorStream,
}

/// Ends the session. Dropped unfinished, it tells the client that the session failed.
pub struct ErrorStream {
    error: Option<Outgoing>,
    commands: mpsc::Sender<Command>,
    json: bool,
    /// A SPDY session ends when its handle is dropped.
    _session: Option<Session>,
}

// === impl StreamOptions ===

impl StreamOptions {
    /// Reads the query of an exec or attach request, in the API's words (`stdout=true`) or in the
    /// kubelet's (`output=1`).
    pub fn from_query(query: &str) -> Result<Self, Error> {
        let mut options = StreamOptions::default();
        for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
            let on = matches!(value, "1" | "true");
            match name {
                "stdin" | "input" => options.stdin = on,
                "stdout" | "output" => options.stdout = on,
                "stderr" | "error" => options.stderr = on,
                "tty" => options.tty = on,
                _ => {}
            }
        }
        options.checked()
    }

    /// A terminal has one output; and a command without any stream cannot be talked to.
    fn checked(mut self) -> Result<Self, Error> {
        self.stderr &= !self.tty;
        if !(self.stdin || self.stdout || self.stderr) {
            return Err(Error::NoStreams);
        }
        Ok(self)
    }

    /// Which of the five streams exist, in channel order.
    pub(crate) fn wanted(self, protocol: Protocol) -> [bool; 5] {
        let resize = self.tty && (protocol.framing != Framing::Spdy || protocol.version >= 3);
        [self.stdin, self.stdout, self.stderr, true, resize]
    }
}

// === impl RemoteCommand ===

impl RemoteCommand {
    /// Takes over the upgraded connection; returns once all streams the client asked for exist.
    pub async fn accept<IO>(
        io: IO,
        negotiated: &Negotiated,
        options: StreamOptions,
    ) -> Result<RemoteCommandStreams, Error>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let protocol = negotiated.protocol;
        let wanted = options.checked()?.wanted(protocol);
        match (negotiated.endpoint, protocol.framing) {
            (Endpoint::RemoteCommand, Framing::Channels(codec)) => {
                accept_channels(io, protocol, codec, wanted).await
            }
            (Endpoint::RemoteCommand, Framing::Spdy) => accept_spdy(io, protocol, wanted).await,
            _ => Err(Error::WrongEndpoint { protocol: protocol.name }),
        }
    }
}

async fn accept_channels<IO>(
    io: IO,
    protocol: Protocol,
    codec: Codec,
    wanted: [bool; 5],
) -> Result<RemoteCommandStreams, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let dialect = Dialect { role: Role::Server, codec, close_signal: protocol.version >= 5 };
    let (ends, commands) = channels::start(io, dialect, STREAM_TYPES.len() as u8);
    announce(&commands, wanted).await?;
    let mut streams = ends.into_iter().zip(wanted).map(|(ends, wanted)| {
        let (incoming, outgoing) = ends;
        wanted.then_some(Stream { incoming, outgoing })
    });
    let streams = std::array::from_fn(|_| streams.next().flatten());
    Ok(assemble(streams, commands, protocol, None))
}

/// An empty message on the first output tells clients that the session stands, as upstream.
async fn announce(commands: &mpsc::Sender<Command>, wanted: [bool; 5]) -> Result<(), Error> {
    let first = [STDOUT, STDERR, ERROR]
        .into_iter()
        .find(|index| wanted[*index])
        .expect("the error stream always exists");
    let hello = Command::Data { stream: first as u32, data: Default::default() };
    commands.send(hello).await.map_err(|_| Error::Disconnected)
}

async fn accept_spdy<IO>(
    io: IO,
    protocol: Protocol,
    wanted: [bool; 5],
) -> Result<RemoteCommandStreams, Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut session = Session::start(io, Side::Server);
    let collected = timeout(STREAM_CREATION_TIMEOUT, collect_streams(&mut session, wanted));
    let streams = collected.await.map_err(|_| Error::StreamTimeout)??;
    let commands = session.commands();
    Ok(assemble(streams, commands, protocol, Some(session)))
}

/// Accepts streams until each wanted one exists; one of an unknown or repeated type is refused.
async fn collect_streams(
    session: &mut Session,
    wanted: [bool; 5],
) -> Result<[Option<Stream>; 5], Error> {
    let mut streams: [Option<Stream>; 5] = Default::default();
    while (0..streams.len()).any(|index| wanted[index] && streams[index].is_none()) {
        let stream = session.accept().await.ok_or(Error::Disconnected)?;
        let stream_type = value_of(&stream.headers, "streamtype").unwrap_or_default();
        let index = STREAM_TYPES.iter().position(|name| *name == stream_type);
        match index.filter(|index| wanted[*index] && streams[*index].is_none()) {
            Some(index) => streams[index] = Some(stream.accept().await?),
            None => tracing::debug!(stream_type, "refusing an unexpected stream"),
        }
    }
    Ok(streams)
}

fn assemble(
    streams: [Option<Stream>; 5],
    commands: mpsc::Sender<Command>,
    protocol: Protocol,
    session: Option<Session>,
) -> RemoteCommandStreams {
    let [stdin, stdout, stderr, error, resize] = streams;
    let incoming = |stream: Option<Stream>| {
        stream.map(|stream| {
            stream.outgoing.disuse();
            stream.incoming
        })
    };
    let outgoing = |stream: Option<Stream>| stream.map(|stream| stream.outgoing);
    RemoteCommandStreams {
        stdin: incoming(stdin),
        stdout: outgoing(stdout),
        stderr: outgoing(stderr),
        resize: incoming(resize).map(terminal_sizes),
        status: ErrorStream {
            error: outgoing(error),
            commands,
            json: protocol.version >= 4,
            _session: session,
        },
    }
}

/// Reads the JSON objects a client sends for each change of its terminal.
fn terminal_sizes(mut stream: Incoming) -> mpsc::Receiver<TerminalSize> {
    let (sender, sizes) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut buffer = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut buffer).await {
            for size in take_sizes(&mut buffer) {
                if sender.send(size).await.is_err() {
                    return;
                }
            }
            if buffer.len() > MAX_RESIZE_BUFFER {
                return;
            }
        }
    });
    sizes
}

/// Takes the complete sizes off the front of the buffer. What cannot become one is thrown away.
fn take_sizes(buffer: &mut Vec<u8>) -> Vec<TerminalSize> {
    let mut sizes = Vec::new();
    let mut used = 0;
    let mut parsed = serde_json::Deserializer::from_slice(buffer).into_iter();
    while let Some(size) = parsed.next() {
        match size {
            Ok(size) => {
                sizes.push(size);
                used = parsed.byte_offset();
            }
            Err(error) if error.is_eof() => break,
            Err(_) => {
                used = buffer.len();
                break;
            }
        }
    }
    buffer.drain(..used);
    sizes
}

// === impl ErrorStream ===

impl ErrorStream {
    /// Sends the status and ends the session. Write all output first: what comes after is not sent.
    pub async fn finish(mut self, status: CommandStatus) -> Result<(), Error> {
        let mut error = self.error.take().expect("a session finishes once");
        let text = if self.json { status.to_json() } else { status.to_text().unwrap_or_default() };
        error.write_all(text.as_bytes()).await?;
        error.shutdown().await?;
        let close = Command::Close(Closing::Normal);
        let closed = self.commands.send(close).await;
        closed.map_err(|_| Error::Disconnected)
    }

    /// Completes when the client is gone, so that a command nobody watches can be stopped.
    pub async fn closed(&self) {
        self.commands.closed().await;
    }
}

impl Drop for ErrorStream {
    fn drop(&mut self) {
        if let Some(error) = self.error.take() {
            error.disuse();
            send_detached(&self.commands, Command::Close(Closing::Failed));
        }
    }
}

// === impl CommandStatus ===

impl CommandStatus {
    /// The `v1.Status` of protocol version 4 and later.
    pub(crate) fn to_json(&self) -> String {
        let status = match self {
            CommandStatus::Success => json!({"metadata": {}, "status": "Success"}),
            CommandStatus::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.to_text(),
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            CommandStatus::InternalError(message) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.to_text(),
                "reason": "InternalError",
                "details": {"causes": [{"message": message}]},
                "code": 500,
            }),
        };
        status.to_string()
    }

    /// What earlier versions send: a message, or nothing at all for success.
    fn to_text(&self) -> Option<String> {
        match self {
            CommandStatus::Success => None,
            CommandStatus::ExitCode(code) => {
                Some(format!("command terminated with non-zero exit code: exit status {code}"))
            }
            CommandStatus::InternalError(message) => {
                Some(format!("Internal error occurred: {message}"))
            }
        }
    }

    /// Reads what [`CommandStatus::to_json`] and upstream's servers write.
    pub(crate) fn from_json(text: &[u8]) -> Option<Self> {
        let status: serde_json::Value = serde_json::from_slice(text).ok()?;
        if status["status"] == "Success" {
            return Some(CommandStatus::Success);
        }
        let mut causes = status["details"]["causes"].as_array().into_iter().flatten();
        let exit_code = causes
            .find(|cause| cause["reason"] == "ExitCode")
            .and_then(|cause| cause["message"].as_str()?.parse().ok());
        Some(match exit_code {
            Some(code) if status["reason"] == "NonZeroExitCode" => CommandStatus::ExitCode(code),
            _ => CommandStatus::InternalError(status["message"].as_str()?.to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_in_the_words_of_the_api_and_of_the_kubelet() {
        let check = |query: &str, expected: [bool; 4]| {
            let options = StreamOptions::from_query(query).unwrap();
            let found = [options.stdin, options.stdout, options.stderr, options.tty];
            assert_eq!(found, expected, "{query}");
        };
        check("command=sh&stdin=true&stdout=true&tty=true", [true, true, false, true]);
        check("input=1&output=1&error=1", [true, true, true, false]);
        check("output=1&error=1&tty=1", [false, true, false, true]);
        let none = StreamOptions::from_query("command=ls&stdout=false").unwrap_err();
        assert_eq!(none.status_code(), http::StatusCode::BAD_REQUEST);
    }

    #[test]
    fn sizes_may_be_split_joined_or_broken() {
        let mut buffer = br#"{"Width":80,"Height":24}{"Width":1,"#.to_vec();
        let size = |width, height| TerminalSize { width, height };
        assert_eq!(take_sizes(&mut buffer), [size(80, 24)]);
        buffer.extend_from_slice(br#""Height":2}"#);
        assert_eq!(take_sizes(&mut buffer), [size(1, 2)]);
        buffer.extend_from_slice(b"nonsense");
        assert_eq!(take_sizes(&mut buffer), []);
        assert_eq!(buffer, b"");
    }

    #[test]
    fn statuses_survive_their_json() {
        for status in [
            CommandStatus::Success,
            CommandStatus::ExitCode(42),
            CommandStatus::InternalError("Internal error occurred: x".into()),
        ] {
            let read = CommandStatus::from_json(status.to_json().as_bytes()).unwrap();
            let prefixed =
                read == CommandStatus::InternalError(status.to_text().unwrap_or_default());
            assert!(read == status || prefixed, "{read:?}");
        }
    }
}
