//! A CSI driver in memory, behind real sockets: it registers, and keeps its volumes as plain directories.
//!
//! What it is asked is kept as (method, fields), where a field is its number with the text or the texts of it.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use skiff_api::codec::wire::{Payload, Reader, Writer};
use tokio::{net::UnixListener, task::JoinHandle};

pub const NAME: &str = "disk.example.com";

#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    message: Vec<u8>,
}

#[derive(Default)]
struct State {
    asked: Vec<Asked>,
    /// Methods that fail, with what they say.
    refused: Vec<(&'static str, &'static str)>,
}

/// Gone, with its sockets, when dropped.
pub struct FakeCsiDriver {
    state: Arc<Mutex<State>>,
    sockets: [PathBuf; 2],
    tasks: [JoinHandle<()>; 2],
}

// === impl Asked ===

impl Asked {
    /// All the texts of a field, in their order.
    pub fn texts(&self, number: u32) -> Vec<String> {
        fields(&self.message)
            .into_iter()
            .filter(|(n, _)| *n == number)
            .map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    pub fn text(&self, number: u32) -> String {
        self.texts(number).join(",")
    }

    /// A field that is a map, as `key=value`.
    pub fn map(&self, number: u32) -> Vec<String> {
        let entries = fields(&self.message).into_iter().filter(|(n, _)| *n == number);
        let pair = |entry: Vec<u8>| {
            let texts: Vec<String> = fields(&entry)
                .into_iter()
                .map(|(_, bytes)| String::from_utf8_lossy(&bytes).into_owned())
                .collect();
            texts.join("=")
        };
        entries.map(|(_, entry)| pair(entry)).collect()
    }
}

fn fields(message: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let mut reader = Reader(message);
    let mut found = Vec::new();
    while let Some((number, payload)) = reader.field().expect("a message") {
        found.push(match payload {
            Payload::Bytes(bytes) => (number, bytes.to_vec()),
            Payload::Varint(value) => (number, value.to_string().into_bytes()),
            other => panic!("no field of these messages is {other:?}"),
        });
    }
    found
}

// === impl FakeCsiDriver ===

impl FakeCsiDriver {
    /// `root` is the agent's directory.
    pub fn start(root: &Path) -> Self {
        let state = Arc::<Mutex<State>>::default();
        let sockets =
            [root.join("disk.sock"), root.join(format!("plugins_registry/{NAME}-reg.sock"))];
        let tasks = sockets.clone().map(|socket| {
            std::fs::create_dir_all(socket.parent().expect("it has one")).expect("a directory");
            let _ = std::fs::remove_file(&socket);
            let listener = UnixListener::bind(&socket).expect("a socket");
            tokio::spawn(serve(listener, state.clone(), sockets[0].clone()))
        });
        FakeCsiDriver { state, sockets, tasks }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.state.lock().expect("no panic").asked.clone()
    }

    /// Names of the calls about volumes, in their order.
    pub fn calls(&self) -> Vec<String> {
        let about = |asked: &Asked| asked.method.ends_with("Volume");
        self.asked().into_iter().filter(about).map(|asked| asked.method).collect()
    }

    pub fn last(&self, method: &str) -> Asked {
        self.asked().into_iter().rfind(|asked| asked.method == method).expect("it was asked")
    }

    pub fn refuse(&self, method: &'static str, message: &'static str) {
        self.state.lock().expect("no panic").refused.push((method, message));
    }
}

impl Drop for FakeCsiDriver {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.sockets.iter().for_each(|socket| drop(std::fs::remove_file(socket)));
    }
}

async fn serve(listener: UnixListener, state: Arc<Mutex<State>>, endpoint: PathBuf) {
    while let Ok((stream, _)) = listener.accept().await {
        let (state, endpoint) = (state.clone(), endpoint.clone());
        let service = service_fn(move |request| answer(state.clone(), endpoint.clone(), request));
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move { drop(connection.await) });
    }
}

async fn answer(
    state: Arc<Mutex<State>>,
    endpoint: PathBuf,
    request: Request<Incoming>,
) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, Infallible> {
    let method = request.uri().path().rsplit('/').next().expect("a path").to_owned();
    let body = request.into_body().collect().await.expect("a body").to_bytes();
    let asked = Asked { method: method.clone(), message: body[5..].to_vec() };
    let refused = {
        let mut state = state.lock().expect("no panic");
        state.asked.push(asked.clone());
        state.refused.iter().find(|(name, _)| *name == method).map(|(_, message)| *message)
    };
    let mut trailers = HeaderMap::new();
    let (code, message) = match refused {
        Some(message) => ("13", message),
        None => ("0", ""),
    };
    trailers.insert("grpc-status", HeaderValue::from_static(code));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    let answer = if refused.is_some() { Writer::default() } else { perform(&asked, &endpoint) };
    let mut framed = BytesMut::from(&[0; 5][..]);
    framed[1..5].copy_from_slice(&(answer.0.len() as u32).to_be_bytes());
    framed.extend_from_slice(&answer.0);
    let frames = [Ok(Frame::data(framed.freeze())), Ok(Frame::trailers(trailers))];
    Ok(Response::new(StreamBody::new(futures::stream::iter(frames)).boxed_unsync()))
}

/// The capability of a volume that is wanted as a device: field 5, and in it an empty field 1.
const RAW: &[u8] = b"\x2a\x06\x0a\x00";

fn perform(asked: &Asked, endpoint: &Path) -> Writer {
    let mut answer = Writer::default();
    match asked.method.as_str() {
        "GetInfo" => {
            answer.bytes(1, b"CSIPlugin");
            answer.bytes(2, NAME.as_bytes());
            answer.bytes(3, endpoint.as_os_str().as_encoded_bytes());
            answer.bytes(4, b"1.0.0");
        }
        "NodeGetInfo" => {
            answer.bytes(1, b"disk-node-1");
            answer.varint(2, 8);
            answer.message(3, |topology| {
                topology.message(1, |entry| {
                    entry.bytes(1, b"topology.disk.example.com/rack");
                    entry.bytes(2, b"r1");
                });
            });
        }
        "NodeGetCapabilities" => {
            for kind in [1, 3] {
                answer.message(1, |capability| capability.message(1, |rpc| rpc.varint(1, kind)));
            }
        }
        "NodePublishVolume" if asked.message.windows(4).any(|bytes| bytes == RAW) => {
            std::fs::write(asked.text(4), "").expect("a file");
        }
        "NodePublishVolume" => {
            std::fs::create_dir_all(asked.text(4)).expect("a directory");
            std::fs::write(Path::new(&asked.text(4)).join("hello"), "from the driver")
                .expect("a file");
        }
        "NodeUnpublishVolume" => {
            let target = asked.text(2);
            let _ = std::fs::remove_file(&target).or_else(|_| std::fs::remove_dir_all(target));
        }
        "NotifyRegistrationStatus"
        | "NodeExpandVolume"
        | "NodeStageVolume"
        | "NodeUnstageVolume" => {}
        other => panic!("nobody should ask {other}"),
    }
    answer
}
