//! A language for in-process tests: a server in a directory of its own, requests without sockets.

#![allow(dead_code, reason = "each test binary uses its part")]

pub mod serving;
pub mod webhook;

use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full};
use serde_json::{Value, json};
use skiff_apiserver::{ApiServer, ApiServerConfig, Body, LocalService, TypedService, UserInfo};
use tower::Service;

/// A server that is gone, with its directory, when the test is.
pub struct Cluster {
    pub server: ApiServer,
    directory: Directory,
}

struct Directory(std::path::PathBuf);

/// Someone who asks.
#[derive(Clone)]
pub struct Client {
    service: Way,
}

#[derive(Clone)]
enum Way {
    Plain(LocalService),
    Typed(TypedService),
}

pub struct Answer {
    pub status: StatusCode,
    pub headers: http::HeaderMap,
    pub bytes: Bytes,
}

pub async fn cluster() -> Cluster {
    cluster_with(|config| config).await
}

pub async fn cluster_with(change: impl FnOnce(ApiServerConfig) -> ApiServerConfig) -> Cluster {
    let directory = std::env::temp_dir().join(format!("skiff-apiserver-{}", uuid::Uuid::new_v4()));
    let config = change(ApiServerConfig::new(&directory));
    let server = ApiServer::build(config).await.expect("a new directory can be opened");
    let cluster = Cluster { server, directory: Directory(directory) };
    let account = json!({ "metadata": { "name": "default" } });
    cluster.admin().post("/api/v1/namespaces/default/serviceaccounts", &account).await.created();
    cluster
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Cluster {
    /// The same directory under a new server.
    pub async fn restart(self) -> Cluster {
        self.restart_after(async |_| ()).await
    }

    /// The same, when something was done to the directory in between.
    pub async fn restart_after(self, change: impl AsyncFnOnce(&std::path::Path)) -> Cluster {
        let Cluster { server, directory } = self;
        server.close().await.expect("the store closes");
        drop(server);
        change(&directory.0).await;
        let config = ApiServerConfig::new(&directory.0);
        let server = ApiServer::build(config).await.expect("the same directory opens again");
        Cluster { server, directory }
    }

    /// Where the server keeps everything.
    pub fn directory(&self) -> &std::path::Path {
        &self.directory.0
    }

    pub fn admin(&self) -> Client {
        self.user(UserInfo::new("admin", &["system:masters"]))
    }

    /// Somebody who still has to prove who they are.
    pub fn stranger(&self) -> Client {
        Client { service: Way::Plain(self.server.local_unauthenticated()) }
    }

    pub fn user(&self, user: UserInfo) -> Client {
        Client { service: Way::Plain(self.server.local(user)) }
    }

    /// A part of the server's process.
    pub fn component(&self, user: &str) -> Client {
        Client { service: Way::Typed(self.server.typed(UserInfo::system(user))) }
    }
}

impl Way {
    async fn call(self, request: Request<Full<Bytes>>) -> http::Response<Body> {
        match self {
            Way::Plain(mut service) => service.call(request).await,
            Way::Typed(mut service) => service.call(request).await,
        }
        .expect("infallible")
    }
}

impl Client {
    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, "", Bytes::new()).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::POST, path, "application/json", body.to_string().into()).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(Method::PUT, path, "application/json", body.to_string().into()).await
    }

    pub async fn patch(&self, path: &str, language: &str, body: &Value) -> Answer {
        let content_type = format!("application/{language}");
        self.send(Method::PATCH, path, &content_type, body.to_string().into()).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, "", Bytes::new()).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> Answer {
        let request = Request::builder().method(method).uri(path).header("user-agent", "test/1");
        let request = if content_type.is_empty() {
            request
        } else {
            request.header("content-type", content_type)
        };
        self.request(request.body(Full::new(body)).expect("a well-formed request")).await
    }

    pub async fn request(&self, request: Request<Full<Bytes>>) -> Answer {
        let (parts, body) = self.service.clone().call(request).await.into_parts();
        let bytes = body.collect().await.expect("a complete body").to_bytes();
        Answer { status: parts.status, headers: parts.headers, bytes }
    }

    /// Opens a watch; events come from [`Events::next`].
    pub async fn watch(&self, path: &str) -> Events {
        Events { messages: Messages::new(self.stream(path).await, line_length) }
    }

    /// The body of an answer as it comes.
    pub async fn stream(&self, path: &str) -> Body {
        let request =
            Request::builder().uri(path).body(Full::new(Bytes::new())).expect("well-formed");
        let response = self.service.clone().call(request).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.into_body()
    }
}

/// The next piece of a body; panics if none comes in good time.
pub async fn frame(body: &mut Body) -> Bytes {
    let frame = tokio::time::timeout(std::time::Duration::from_secs(5), body.frame()).await;
    let frame = frame.expect("a frame in time").expect("the body goes on").expect("no error");
    frame.into_data().expect("data")
}

/// The events of a watch.
pub struct Events {
    messages: Messages,
}

impl Events {
    /// Waits for the end of the stream, and says what came before.
    pub async fn rest(&mut self) -> Vec<String> {
        let mut rest = Vec::new();
        while let Some(message) = self.messages.next().await {
            rest.push(String::from_utf8_lossy(&message).into_owned());
        }
        rest
    }

    /// Type and object of the next event; panics if none comes in good time.
    pub async fn next(&mut self) -> (String, Value) {
        let wait = std::time::Duration::from_secs(5);
        let line = tokio::time::timeout(wait, self.messages.next()).await;
        let line = line.expect("an event in time").expect("the watch goes on");
        let event: Value = serde_json::from_slice(&line).expect("JSON");
        (event["type"].as_str().expect("a type").to_owned(), event["object"].clone())
    }
}

/// A stream of messages, of which a frame of the body may hold several.
pub struct Messages {
    body: BodyStream<Body>,
    pending: Vec<u8>,
    length: fn(&[u8]) -> Option<usize>,
}

impl Messages {
    /// `length` says how long the first message is, once all of it is there.
    pub fn new(body: Body, length: fn(&[u8]) -> Option<usize>) -> Messages {
        Messages { body: BodyStream::new(body), pending: Vec::new(), length }
    }

    /// The next whole message; none when the body ends.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(length) = (self.length)(&self.pending) {
                let rest = self.pending.split_off(length);
                return Some(std::mem::replace(&mut self.pending, rest));
            }
            let data = self.body.next().await?.ok()?.into_data().ok()?;
            self.pending.extend_from_slice(&data);
        }
    }
}

/// A line, as JSON and YAML watches send them.
pub fn line_length(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1)
}

/// A protobuf frame: four bytes say how long what follows is.
pub fn frame_length(bytes: &[u8]) -> Option<usize> {
    let head: [u8; 4] = bytes.get(..4)?.try_into().ok()?;
    let length = 4 + u32::from_be_bytes(head) as usize;
    (bytes.len() >= length).then_some(length)
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).expect("a JSON body")
    }

    pub fn ok(self) -> Value {
        self.expect(StatusCode::OK)
    }

    pub fn created(self) -> Value {
        self.expect(StatusCode::CREATED)
    }

    pub fn expect(self, status: StatusCode) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        self.json()
    }

    /// Code, reason and message of a refusal.
    pub fn refused(self) -> (u16, String, String) {
        let status = self.json();
        assert_eq!(status["status"], "Failure", "{status}");
        let text = |field: &str| status[field].as_str().unwrap_or("").to_owned();
        (self.status.as_u16(), text("reason"), text("message"))
    }
}
