//! Logs and watches over a WebSocket, for clients that can read no endless answer: browsers, mostly.
//!
//! GET with an upgrade -> the same request without -> its body, cut into messages -> the socket.
//! Counterpart: `responsewriters.StreamObject` and `WatchServer.HandleWS`.
//! Invariant: the request takes the whole path as any other does; only the form of a successful answer differs. What
//! an aggregated server or a pod answers to an upgrade is its own business.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::StreamExt;
use http::header::{CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{Request, Response};
use http_body_util::BodyStream;
use skiff_api::Status;
use skiff_streams::{Endpoint, Error, Negotiated, negotiate, send_messages};
use tokio::sync::mpsc;

use crate::reply::{self, Body};
use crate::request_info::RequestInfo;
use crate::server::Server;
use crate::stalled::{self, Impatient};

pub struct MessageSocket {
    negotiated: Negotiated,
    upgrade: hyper::upgrade::OnUpgrade,
}

/// How the bytes of an answer fall into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// Each piece as it comes: logs.
    Anywhere,
    /// One event a line.
    Lines,
    /// One event after each length in four bytes.
    Lengths,
}

// === impl MessageSocket ===

impl MessageSocket {
    /// Takes the upgrade off a request that wants one for its answer.
    pub fn take<B>(
        server: &Server,
        info: &RequestInfo,
        request: &mut Request<B>,
    ) -> Result<Option<MessageSocket>, Status> {
        let streams =
            info.verb == "watch" || (info.resource == "pods" && info.subresource == "log");
        if !streams
            || !request.headers().contains_key(UPGRADE)
            || server.aggregator.remote(info).is_some()
        {
            return Ok(None);
        }
        let endpoint = match info.verb.as_str() {
            "watch" => Endpoint::Events,
            _ => Endpoint::Messages,
        };
        let negotiated = match negotiate(request, endpoint) {
            Ok(negotiated) => negotiated,
            Err(Error::NotAnUpgrade) => return Ok(None),
            Err(error) => return Err(Status::bad_request(error.to_string())),
        };
        let upgrade = hyper::upgrade::on(&mut *request);
        for header in [CONNECTION, UPGRADE] {
            request.headers_mut().remove(header);
        }
        Ok(Some(MessageSocket { negotiated, upgrade }))
    }

    /// The answer that begins the messages; a refusal stays what it is.
    pub fn answer(self, response: Response<Body>) -> Response<Body> {
        if !response.status().is_success() {
            return response;
        }
        let content_type = response.headers().get(CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let cut = Cut::of(content_type.unwrap_or(""));
        let switching = self.negotiated.response().map(|_| reply::empty());
        tokio::spawn(async move {
            if let Err(error) = self.run(response.into_body(), cut).await {
                tracing::debug!(%error, "messages ended early");
            }
        });
        switching
    }

    async fn run(self, body: Body, cut: Cut) -> Result<(), Error> {
        let io = hyper_util::rt::TokioIo::new(self.upgrade.await?);
        // The connection gave up its own watch over the peer with the upgrade.
        let io = Impatient::new(io, stalled::PATIENCE, Arc::default());
        let (sender, queue) = mpsc::channel(16);
        let text = cut == Cut::Lines;
        let feed = feed(body, cut, sender);
        let (sent, ()) = tokio::join!(send_messages(io, &self.negotiated, text, queue), feed);
        sent
    }
}

/// Cuts the body into messages until it or the socket ends.
async fn feed(body: Body, cut: Cut, messages: mpsc::Sender<Bytes>) {
    let mut frames = BodyStream::new(body);
    let mut rest = BytesMut::new();
    loop {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            () = messages.closed() => return,
        };
        let Some(Ok(frame)) = frame else { return };
        let Ok(data) = frame.into_data() else { continue };
        rest.extend_from_slice(&data);
        while let Some(message) = cut.next(&mut rest) {
            if messages.send(message).await.is_err() {
                return;
            }
        }
    }
}

// === impl Cut ===

impl Cut {
    fn of(content_type: &str) -> Cut {
        match content_type {
            kind if kind.starts_with("application/json") => Cut::Lines,
            kind if kind.contains("stream=watch") => Cut::Lengths,
            _ => Cut::Anywhere,
        }
    }

    /// The next whole message, taken off the front.
    fn next(self, bytes: &mut BytesMut) -> Option<Bytes> {
        let end = match self {
            Cut::Anywhere => Some(bytes.len()).filter(|len| *len > 0),
            Cut::Lines => bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1),
            Cut::Lengths => {
                let length = u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?);
                let whole = 4 + usize::try_from(length).ok()?;
                if bytes.len() < whole {
                    return None;
                }
                bytes.advance(4);
                Some(whole - 4)
            }
        }?;
        Some(bytes.split_to(end).freeze())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(cut: Cut, bytes: &[u8]) -> (Vec<Bytes>, usize) {
        let mut rest = BytesMut::from(bytes);
        let found = std::iter::from_fn(|| cut.next(&mut rest)).collect();
        (found, rest.len())
    }

    #[test]
    fn events_that_came_together_are_sent_apart() {
        let (found, rest) = pieces(Cut::Lines, b"{\"a\":1}\n{\"b\":2}\n{\"c\"");
        assert_eq!((found, rest), (vec!["{\"a\":1}\n".into(), "{\"b\":2}\n".into()], 4));
        let (found, rest) = pieces(Cut::Lengths, b"\0\0\0\x02ab\0\0\0\x01c\0\0\0\x05d");
        assert_eq!((found, rest), (vec!["ab".into(), "c".into()], 5));
        assert_eq!(pieces(Cut::Anywhere, b"log\nlines"), (vec!["log\nlines".into()], 0));
    }
}
