//! Watches and logs that browsers read: over a WebSocket, through a server on a port of its own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use skiff_apiserver::Leaf;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::client::TlsStream;

use crate::common::Cluster;
use crate::common::serving::{Serving, serving};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const LOG: &str = "/api/v1/namespaces/default/pods/talker/log";
/// A test that waits as long for a message has hung.
const HUNG: Duration = Duration::from_secs(10);

#[derive(Debug, PartialEq)]
enum Message {
    Text(String),
    Binary(Vec<u8>),
    /// With the code that says why.
    Close(u16),
}

/// The browser's end.
struct Socket {
    stream: TlsStream<TcpStream>,
    /// The answer to the handshake.
    head: String,
}

// === watches ===

#[tokio::test]
async fn each_event_of_a_watch_is_a_text() {
    let serving = serving().await;
    let admin = serving.cluster.admin();
    admin.post(CONFIG_MAPS, &config_map("first")).await.created();
    let mut socket = Socket::open(&serving, &format!("{CONFIG_MAPS}?watch=1"), "").await;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    assert_eq!(socket.event().await, ("ADDED".to_owned(), "first".to_owned()));
    for name in ["second", "third"] {
        admin.post(CONFIG_MAPS, &config_map(name)).await.created();
    }
    admin.delete(&format!("{CONFIG_MAPS}/first")).await.ok();
    for (kind, name) in [("ADDED", "second"), ("ADDED", "third"), ("DELETED", "first")] {
        assert_eq!(socket.event().await, (kind.to_owned(), name.to_owned()));
    }
}

#[tokio::test]
async fn a_protobuf_watch_is_binary() {
    let serving = serving().await;
    serving.cluster.admin().post(CONFIG_MAPS, &config_map("first")).await.created();
    let accept = "Accept: application/vnd.kubernetes.protobuf;stream=watch\r\n";
    let mut socket = Socket::open(&serving, &format!("{CONFIG_MAPS}?watch=1"), accept).await;
    let Message::Binary(event) = socket.next().await else { panic!("a text") };
    assert!(event.starts_with(b"\n\x05ADDED"), "{event:?}");
}

#[tokio::test]
async fn a_watch_that_is_refused_is_refused_in_http() {
    let serving = serving().await;
    let path = format!("{CONFIG_MAPS}?watch=1&resourceVersionMatch=Exact");
    let refused = Socket::open(&serving, &path, "").await;
    assert!(refused.head.starts_with("HTTP/1.1 422 "), "{}", refused.head);
}

#[tokio::test]
async fn a_watch_that_ends_is_closed_in_order() {
    let serving = serving().await;
    let mut socket = Socket::open(&serving, &format!("{CONFIG_MAPS}?watch=1"), "").await;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    serving.stop.cancel();
    assert_eq!(socket.next().await, Message::Close(1000));
}

/// A browser hangs up unless the protocol it names is named back.
#[tokio::test]
async fn a_watch_hears_its_protocol_back() {
    let serving = serving().await;
    let path = format!("{CONFIG_MAPS}?watch=1");
    let named = "Sec-WebSocket-Protocol: base64.binary.k8s.io\r\n";
    let socket = Socket::open(&serving, &path, named).await;
    assert!(socket.head.contains("sec-websocket-protocol: base64.binary.k8s.io\r\n"));
    let several = "Sec-WebSocket-Protocol: one, other\r\n";
    let socket = Socket::open(&serving, &path, several).await;
    assert!(socket.head.starts_with("HTTP/1.1 400 "), "{}", socket.head);
}

#[tokio::test]
async fn a_browser_that_does_not_read_is_cut() {
    let serving = serving().await;
    let mut stuck = Socket::open(&serving, &format!("{CONFIG_MAPS}?watch=1"), "").await;
    for at in 0..10 {
        let mut object = config_map(&format!("m-{at}"));
        object["data"] = json!({ "x": "y".repeat(900_000) });
        serving.cluster.admin().post(CONFIG_MAPS, &object).await.created();
    }
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(600)).await;
    tokio::time::resume();
    let mut got = Vec::new();
    let _ = stuck.stream.read_to_end(&mut got).await;
    assert!(got.len() < 9_000_000, "{} bytes came after all", got.len());
}

// === logs ===

#[tokio::test]
async fn a_log_comes_as_it_is_written() {
    let (serving, mut kubelet) = serving_talker().await;
    let mut socket = Socket::open(&serving, &format!("{LOG}?follow=true"), "").await;
    assert!(socket.head.starts_with("HTTP/1.1 101 "), "{}", socket.head);
    let request = kubelet.asked().await;
    assert!(request.starts_with("GET /containerLogs/default/talker/app?follow=true HTTP/1.1\r\n"));
    assert!(!request.to_lowercase().contains("upgrade"), "{request}");
    for line in ["one\n", "two\n"] {
        kubelet.write(line).await;
        assert_eq!(socket.next().await, Message::Binary(line.into()));
    }
    kubelet.end().await;
    assert_eq!(socket.next().await, Message::Close(1000));
}

#[tokio::test]
async fn a_log_comes_in_the_protocol_that_was_named() {
    let (serving, mut kubelet) = serving_talker().await;
    let named = "Sec-WebSocket-Protocol: base64.binary.k8s.io\r\n";
    let mut socket = Socket::open(&serving, LOG, named).await;
    assert!(socket.head.contains("sec-websocket-protocol: base64.binary.k8s.io\r\n"));
    kubelet.asked().await;
    kubelet.write("one\n").await;
    assert_eq!(socket.next().await, Message::Text(STANDARD.encode("one\n")));
}

#[tokio::test]
async fn a_browser_that_leaves_ends_its_log() {
    let (serving, mut kubelet) = serving_talker().await;
    let socket = Socket::open(&serving, &format!("{LOG}?follow=true"), "").await;
    kubelet.asked().await;
    drop(socket);
    kubelet.left().await;
}

#[tokio::test]
async fn what_a_kubelet_says_of_a_log_it_does_not_show_is_told() {
    for (code, message) in [
        ("400 Bad Request", "it waits"),
        ("500 Internal Server Error", "Internal error occurred: it waits"),
        ("404 Not Found", "the server could not find the requested resource ( pods/log talker)"),
    ] {
        let (serving, mut kubelet) = serving_talker_whose_kubelet_answers(code).await;
        let admin = serving.cluster.admin();
        let asking = tokio::spawn(async move { admin.get(LOG).await });
        kubelet.asked().await;
        kubelet.write("it waits").await;
        kubelet.end().await;
        let answer = asking.await.expect("an answer");
        let (told, _, said) = answer.refused();
        assert_eq!((told.to_string().as_str(), said.as_str()), (&code[..3], message));
    }
}

#[tokio::test]
async fn a_log_that_is_not_there_is_refused_in_http() {
    let (serving, _kubelet) = serving_talker().await;
    let path = LOG.replace("talker", "nobody");
    let socket = Socket::open(&serving, &path, "").await;
    assert!(socket.head.starts_with("HTTP/1.1 404 "), "{}", socket.head);
}

// === impl Socket ===

impl Socket {
    async fn open(serving: &Serving, path: &str, headers: &str) -> Socket {
        let mut stream = serving.dial("http/1.1").await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{headers}\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        let head = head(&mut stream).await;
        Socket { stream, head }
    }

    async fn next(&mut self) -> Message {
        tokio::time::timeout(HUNG, self.read()).await.expect("a message in time").expect("a frame")
    }

    /// A whole frame: servers send them unmasked, and ours in one piece.
    async fn read(&mut self) -> std::io::Result<Message> {
        let kind = self.stream.read_u8().await?;
        let length = match self.stream.read_u8().await? {
            126 => usize::from(self.stream.read_u16().await?),
            127 => usize::try_from(self.stream.read_u64().await?).expect("a length"),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).await?;
        Ok(match kind {
            0x81 => Message::Text(String::from_utf8(payload).expect("text")),
            0x82 => Message::Binary(payload),
            0x88 => Message::Close(u16::from_be_bytes([payload[0], payload[1]])),
            other => panic!("a frame of kind {other:#x}"),
        })
    }

    /// Type and name of the next event.
    async fn event(&mut self) -> (String, String) {
        let Message::Text(text) = self.next().await else { panic!("no text") };
        let event: Value = serde_json::from_str(&text).expect("JSON");
        let text = |value: &Value| value.as_str().expect("text").to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }
}

async fn head(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text").to_ascii_lowercase().replacen("http/1.1", "HTTP/1.1", 1)
}

// === a kubelet ===

/// A kubelet that answers one request, with what the test writes.
struct Kubelet {
    requests: mpsc::Receiver<String>,
    pieces: Option<mpsc::Sender<String>>,
}

/// A server, and the pod `talker` on a node whose kubelet is the test.
async fn serving_talker() -> (Serving, Kubelet) {
    serving_talker_whose_kubelet_answers("200 OK").await
}

async fn serving_talker_whose_kubelet_answers(code: &'static str) -> (Serving, Kubelet) {
    let serving = serving().await;
    let (port, kubelet) = Kubelet::start(&serving.cluster, code).await;
    let admin = serving.cluster.admin();
    let node = json!({ "metadata": { "name": "n" }, "status": {
        "addresses": [{ "type": "InternalIP", "address": "127.0.0.1" }],
        "daemonEndpoints": { "kubeletEndpoint": { "Port": port } } } });
    admin.post("/api/v1/nodes", &node).await.created();
    let pod = json!({ "metadata": { "name": "talker" },
        "spec": { "nodeName": "n", "containers": [{ "name": "app", "image": "x" }] } });
    admin.post("/api/v1/namespaces/default/pods", &pod).await.created();
    (serving, kubelet)
}

impl Kubelet {
    async fn start(cluster: &Cluster, code: &'static str) -> (u16, Kubelet) {
        let leaf = Leaf::kubelet_serving("n", vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]);
        let identity = cluster.server.pki().issue(&leaf).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("protocols")
            .with_no_client_auth()
            .with_single_cert(identity.chain().expect("a chain"), identity.key().expect("a key"))
            .expect("an identity");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (asked, requests) = mpsc::channel(1);
        let (pieces, written) = mpsc::channel(1);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move { answer(listener, acceptor, code, asked, written).await });
        (port, Kubelet { requests, pieces: Some(pieces) })
    }

    /// The head of the request.
    async fn asked(&mut self) -> String {
        let request = tokio::time::timeout(HUNG, self.requests.recv()).await;
        request.expect("a request in time").expect("a request")
    }

    async fn write(&self, piece: &str) {
        let pieces = self.pieces.as_ref().expect("it goes on");
        pieces.send(piece.to_owned()).await.expect("somebody reads");
    }

    async fn end(&mut self) {
        self.pieces = None;
    }

    /// Returns when nobody reads any more.
    async fn left(&self) {
        let pieces = self.pieces.as_ref().expect("it goes on");
        tokio::time::timeout(HUNG, pieces.closed()).await.expect("the log is let go of");
    }
}

async fn answer(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    code: &str,
    asked: mpsc::Sender<String>,
    mut written: mpsc::Receiver<String>,
) {
    let (tcp, _) = listener.accept().await.expect("a connection");
    let mut stream = acceptor.accept(tcp).await.expect("TLS");
    asked.send(request(&mut stream).await).await.expect("the test waits");
    let head = format!(
        "HTTP/1.1 {code}\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("the head");
    loop {
        tokio::select! {
            piece = written.recv() => {
                let piece = piece.unwrap_or_default();
                let chunk = format!("{:x}\r\n{piece}\r\n", piece.len());
                stream.write_all(chunk.as_bytes()).await.expect("it is read");
                if piece.is_empty() {
                    return;
                }
            }
            _ = stream.read_u8() => return,
        }
    }
}

async fn request(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("a head"));
    }
    String::from_utf8(head).expect("text")
}

// === objects ===

fn config_map(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}
