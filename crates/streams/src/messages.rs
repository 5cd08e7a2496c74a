//! An answer that goes on for a while, sent as WebSocket messages: logs and watches for browsers.
//!
//! Consumes messages from a queue, emits them over an upgraded connection until the queue or the peer ends.
//! Counterpart: `wsstream.Reader` and the WebSocket half of `endpoints/handlers/watch.go`.
//! Invariant: one message of the queue is one WebSocket message; what the peer sends is read and, pings aside,
//! ignored, so that its close is noticed while nothing is being sent.

use std::io;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use fastwebsockets::Role;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::Error;
use crate::mux::Closing;
use crate::negotiate::{Codec, Framing, Negotiated};
use crate::websocket::{Event, MessageWriter, Messages, split};

/// Sends `messages` as they come: as text if `text`, or else as the negotiated protocol says.
pub async fn send_messages<IO>(
    io: IO,
    negotiated: &Negotiated,
    text: bool,
    mut messages: mpsc::Receiver<Bytes>,
) -> Result<(), Error>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (incoming, mut writer) = split(io, Role::Server);
    let (pings, mut heard) = mpsc::channel(1);
    // However the sending ends, nothing of the connection outlives it.
    let mut listener = JoinSet::new();
    listener.spawn(listen(incoming, pings));
    let base64 = matches!(negotiated.protocol.framing, Framing::Messages(Codec::Base64));
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Some(message) => send(&mut writer, &message, text, base64).await?,
                None => return Ok(writer.close(Closing::Normal).await?),
            },
            ping = heard.recv() => match ping {
                Some(payload) => writer.pong(payload).await?,
                None => return Ok(()),
            },
        }
    }
}

async fn send<IO>(
    writer: &mut MessageWriter<IO>,
    message: &[u8],
    text: bool,
    base64: bool,
) -> io::Result<()>
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    match (base64, text) {
        (true, _) => writer.text(STANDARD.encode(message)).await?,
        (false, true) => writer.text(String::from_utf8_lossy(message).into_owned()).await?,
        (false, false) => writer.binary(message.to_vec()).await?,
    }
    writer.flush().await
}

/// Hands on pings; ends when the peer is done or gone.
async fn listen<IO>(mut incoming: Messages<IO>, pings: mpsc::Sender<Bytes>)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match incoming.next().await {
            // One pong answers for all that come while it waits.
            Ok(Event::Ping(payload)) => drop(pings.try_send(payload)),
            Ok(Event::Message(_) | Event::Pong) => {}
            Ok(Event::Close(_)) | Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::negotiate::{Endpoint, negotiate};

    fn negotiated(protocol: &str) -> Negotiated {
        let request = Request::get("/")
            .header("connection", "Upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "x")
            .header("sec-websocket-protocol", protocol)
            .body(())
            .expect("a request");
        negotiate(&request, Endpoint::Messages).expect("a protocol")
    }

    async fn received(protocol: &str, sent: &[&'static [u8]]) -> Vec<Bytes> {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (sender, queue) = mpsc::channel(8);
        let negotiated = negotiated(protocol);
        let task =
            tokio::spawn(async move { send_messages(near, &negotiated, false, queue).await });
        for message in sent {
            sender.send(Bytes::from_static(message)).await.expect("it listens");
        }
        drop(sender);
        let (mut messages, _writer) = split(far, Role::Client);
        let mut got = Vec::new();
        while let Event::Message(message) = messages.next().await.expect("no error") {
            got.push(message);
        }
        task.await.expect("no panic").expect("no error");
        got
    }

    #[tokio::test]
    async fn each_message_is_one_and_the_end_is_a_normal_close() {
        assert_eq!(received("binary.k8s.io", &[b"one", b"two\n"]).await, ["one", "two\n"]);
        assert_eq!(received("base64.binary.k8s.io", &[b"foo\n"]).await, ["Zm9vCg=="]);
    }

    #[tokio::test]
    async fn a_peer_that_closes_ends_it_while_nothing_is_sent() {
        let (near, far) = tokio::io::duplex(1 << 16);
        let (sender, queue) = mpsc::channel(1);
        let negotiated = negotiated("");
        let task = tokio::spawn(async move { send_messages(near, &negotiated, true, queue).await });
        let (_messages, mut writer) = split(far, Role::Client);
        writer.close(Closing::Normal).await.expect("sent");
        task.await.expect("no panic").expect("no error");
        assert!(sender.is_closed());
    }
}
