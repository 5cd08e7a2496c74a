//! The client's end of the node's door.
//!
//! Consumes requests, emits rows, lines of progress or bytes; a refusal becomes an error with the
//! node's own words.

use std::path::PathBuf;

use futures::Stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use skiff_cluster::Layout;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::UnixStream;

use crate::node_socket::{Failure, Progress};

pub type Body = BoxBody<Bytes, std::io::Error>;
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How much of a file is sent at a time.
const CHUNK: usize = 256 << 10;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cluster {0:?} is not running: start it with `skiff start`")]
    NotRunning(String),
    #[error("cannot use {}", path.display())]
    File {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{0}")]
    Refused(String),
    #[error("the node closed the connection")]
    Closed,
}

/// The door of one cluster's node.
pub struct Door {
    pub cluster: String,
}

// === impl Door ===

impl Door {
    /// A request whose answer is one JSON document.
    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Body,
    ) -> Result<T> {
        let response = self.send(method, path, body).await?;
        Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
    }

    /// A request that is answered with its progress; gives what it is done with.
    pub async fn follow(
        &self,
        path: &str,
        body: Body,
        mut tell: impl FnMut(Progress),
    ) -> Result<String> {
        let mut incoming = self.send(Method::POST, path, body).await?.into_body();
        let mut pending = Vec::new();
        let mut done = Err(Error::Closed);
        while let Some(frame) = incoming.frame().await {
            pending.extend_from_slice(&frame?.into_data().unwrap_or_default());
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                match serde_json::from_slice(&line)? {
                    Progress::Done(what) => done = Ok(what),
                    Progress::Failed(why) => done = Err(Error::Refused(why)),
                    step => tell(step),
                }
            }
        }
        Ok(done?)
    }

    /// A request whose answer is a stream of bytes, if it is good.
    pub async fn send(&self, method: Method, path: &str, body: Body) -> Result<Response<Incoming>> {
        let layout = Layout::of(&self.cluster)?;
        let socket = UnixStream::connect(layout.socket())
            .await
            .map_err(|_| Error::NotRunning(self.cluster.clone()))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(socket)).await?;
        // Its end shows at the other end of the channel, as an answer cut short.
        tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", "node").body(body)?;
        let response = sender.send_request(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let bytes = response.into_body().collect().await?.to_bytes();
        let failure: Failure = serde_json::from_slice(&bytes)?;
        Err(Error::Refused(failure.error).into())
    }
}

pub fn empty() -> Body {
    Full::new(Bytes::new()).map_err(|never| match never {}).boxed()
}

pub fn streamed(reader: impl AsyncRead + Unpin + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(chunks(reader)))
}

/// What a reader yields, a piece at a time.
pub fn chunks(
    reader: impl AsyncRead + Unpin + Send + Sync + 'static,
) -> impl Stream<Item = std::io::Result<Frame<Bytes>>> + Send + Sync {
    futures::stream::try_unfold(reader, |mut reader| async move {
        let mut chunk = Vec::with_capacity(CHUNK);
        match reader.read_buf(&mut chunk).await? {
            0 => Ok(None),
            _ => Ok(Some((Frame::data(Bytes::from(chunk)), reader))),
        }
    })
}

/// `path?key=value&..`, escaped.
pub fn query(path: &str, pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key}={}", escape(value)));
    format!("{path}?{}", pairs.collect::<Vec<_>>().join("&"))
}

/// Everything but letters, digits and a few marks as `%XX`.
fn escape(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
