//! JSON posted to a webhook over pooled connections.
//!
//! [`Post`] -> status and body -> a JSON value, or a [`CallError`] whose text is what follows `failed to call webhook: `.
//! Counterpart: `webhook.ClientManager` over client-go's REST client. A connection pool is kept for each of the last
//! [`POOLS`] configurations; a Service is resolved when a connection is made, not at each call.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use skiff_api::Status;
use skiff_store::Store;

use super::config::{ClientConfig, ConfigError, Endpoint};
use super::dial::{Destination, DialError, Io, dial};
use super::service::resolve;
use super::tls::client_tls;

/// The largest answer that is read.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// How many configurations keep connections.
const POOLS: usize = 128;
const IDLE: Duration = Duration::from_secs(90);

/// The one client of a server; cheap to call at once from many requests.
pub struct WebhookClient {
    store: Store,
    pools: Mutex<HashMap<ClientConfig, Pool>>,
}

type Pool = Client<Connector, Full<Bytes>>;

/// One call.
pub struct Post<'a> {
    pub config: &'a ClientConfig,
    pub body: Bytes,
    pub timeout: Duration,
    /// Whether the other side is told how long it has, by `?timeout=`.
    pub tell_timeout: bool,
    pub headers: HeaderMap,
}

#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("{0}")]
    Config(#[from] ConfigError),
    #[error("Post \"{url}\": {cause}")]
    Unreachable { url: Uri, cause: String },
    /// The other side answered, but not with success.
    #[error("{}", .0.message)]
    Refused(Box<Status>),
    #[error("{0}")]
    Malformed(String),
}

// === impl WebhookClient ===

impl WebhookClient {
    pub fn new(store: Store) -> WebhookClient {
        WebhookClient { store, pools: Mutex::default() }
    }

    /// Posts and reads the answer, all within the timeout.
    ///
    /// Boxed, like [`WebhookClient::get`]: nearly every request may come to ask a webhook and nearly none does, so the
    /// state of a call has no place in the state of them all.
    pub fn post<'a>(&'a self, post: Post<'a>) -> BoxFuture<'a, Result<Value, CallError>> {
        Box::pin(self.send(post))
    }

    async fn send(&self, post: Post<'_>) -> Result<Value, CallError> {
        let query = match post.tell_timeout {
            true => format!("timeout={}s", post.timeout.as_secs_f64().ceil()),
            false => String::new(),
        };
        let url = post.config.url(&query)?;
        let pool = self.pool(post.config).map_err(|error| unreachable(&url, error.to_string()))?;
        let mut request = Request::post(url.clone())
            .header(ACCEPT, "application/json, */*")
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, "kube-apiserver-admission")
            .body(Full::new(post.body))
            .map_err(|error| unreachable(&url, error.to_string()))?;
        request.headers_mut().extend(post.headers);
        exchange(pool, request, &url, post.timeout).await
    }

    /// Reads a document.
    pub fn get<'a>(
        &'a self,
        config: &'a ClientConfig,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Value, CallError>> {
        Box::pin(self.fetch(config, timeout))
    }

    async fn fetch(&self, config: &ClientConfig, timeout: Duration) -> Result<Value, CallError> {
        let url = config.url("")?;
        let pool = self.pool(config).map_err(|error| unreachable(&url, error.to_string()))?;
        let request = Request::get(url.clone())
            .header(ACCEPT, "application/json, */*")
            .header(USER_AGENT, concat!("kube-apiserver/skiff-", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|error| unreachable(&url, error.to_string()))?;
        exchange(pool, request, &url, timeout).await
    }

    fn pool(&self, config: &ClientConfig) -> Result<Pool, crate::reply::BoxError> {
        if let Some(pool) = self.pools.lock().expect("no panic while held").get(config) {
            return Ok(pool.clone());
        }
        let tls = Arc::new(client_tls(&config.trust, config.identity.as_deref())?);
        let connector =
            Connector { store: self.store.clone(), endpoint: config.endpoint.clone(), tls };
        let pool: Pool =
            Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE).build(connector);
        let mut pools = self.pools.lock().expect("no panic while held");
        if pools.len() >= POOLS {
            // Whichever goes: those in use come back at their next call.
            let victim = pools.keys().next().cloned();
            victim.and_then(|victim| pools.remove(&victim));
        }
        Ok(pools.entry(config.clone()).or_insert(pool).clone())
    }
}

async fn exchange(
    pool: Pool,
    request: Request<Full<Bytes>>,
    url: &Uri,
    timeout: Duration,
) -> Result<Value, CallError> {
    let exchange = async {
        let response = pool.request(request).await;
        let response = response.map_err(|error| unreachable(url, cause(&error)))?;
        read(response, url).await
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(unreachable(url, "context deadline exceeded".to_owned())),
    }
}

fn unreachable(url: &Uri, cause: String) -> CallError {
    CallError::Unreachable { url: url.clone(), cause }
}

/// The innermost error that says something to a user.
fn cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut source = std::error::Error::source(error);
    let mut text = error.to_string();
    while let Some(inner) = source {
        if let Some(dial) = inner.downcast_ref::<DialError>() {
            return dial.to_string();
        }
        if inner.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_incomplete_message) {
            return "EOF".to_owned();
        }
        text = inner.to_string();
        source = inner.source();
    }
    text
}

// === the answer ===

async fn read(response: Response<Incoming>, url: &Uri) -> Result<Value, CallError> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await;
    let body = body.map_err(|error| unreachable(url, error.to_string()))?.to_bytes();
    if !parts.status.is_success() {
        return Err(CallError::Refused(Box::new(refusal(parts.status, &parts.headers, &body))));
    }
    if body.is_empty() {
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        return Err(CallError::Malformed(format!(
            "0-length response with status code: {} and content type: {}",
            parts.status.as_u16(),
            kind.unwrap_or("")
        )));
    }
    serde_json::from_slice(&body).map_err(|_| CallError::Malformed(NO_OBJECT.to_owned()))
}

/// A body that is no JSON is text to upstream, which looks for a kind in it.
const NO_OBJECT: &str = r#"couldn't get version/kind; json parse error: json: cannot unmarshal string into Go value of type struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }"#;

/// The Status that was sent, or what a client makes of a bare status code.
fn refusal(code: StatusCode, headers: &HeaderMap, body: &[u8]) -> Status {
    let sent = serde_json::from_slice::<Value>(body).ok();
    if let Some(sent) = sent.filter(|sent| sent["kind"] == "Status" && sent["status"] != "Success")
    {
        return Status::from_value(&sent);
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let said = match kind.is_empty() || kind.starts_with("text/") {
        true => String::from_utf8_lossy(&body[..body.len().min(MAX_SHOWN)]).trim().to_owned(),
        false => "unknown".to_owned(),
    };
    let mut status =
        Status::new(code.as_u16(), skiff_api::Reason::Unknown, meaning_of(code, &said));
    let seconds = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    if let Some(seconds) = seconds {
        status.details.get_or_insert_default().retry_after_seconds = seconds;
    }
    status
}

const MAX_SHOWN: usize = 2048;

/// What a status code without a Status means.
pub fn meaning_of(code: StatusCode, said: &str) -> String {
    let text = match code.as_u16() {
        400 => "the server rejected our request for an unknown reason",
        401 => "the server has asked for the client to provide credentials",
        403 | 415 => said,
        404 => "the server could not find the requested resource",
        405 => "the server does not allow this method on the requested resource",
        406 if said.is_empty() || said == "unknown" => {
            "the server was unable to respond with a content type that the client supports"
        }
        406 => said,
        409 => "the server reported a conflict",
        422 => "the server rejected our request due to an error in our request",
        429 => "the server has received too many requests and has asked us to try again later",
        503 => "the server is currently unable to handle the request",
        504 => {
            "the server was unable to return a response in the time allotted, but may still be processing the request"
        }
        500.. => {
            return format!(
                "an error on the server ({said:?}) has prevented the request from succeeding"
            );
        }
        other => {
            return format!(
                "the server responded with the status code {other} but did not return more information"
            );
        }
    };
    text.to_owned()
}

// === connections ===

/// Makes the connections of one pool.
#[derive(Clone)]
pub struct Connector {
    store: Store,
    endpoint: Endpoint,
    tls: Arc<rustls::ClientConfig>,
}

impl Connector {
    pub fn new(store: Store, endpoint: Endpoint, tls: Arc<rustls::ClientConfig>) -> Connector {
        Connector { store, endpoint, tls }
    }

    async fn connect(self, uri: Uri) -> Result<Stream, DialError> {
        let secure = uri.scheme_str() != Some("http");
        let name = uri.host().unwrap_or("").to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let (host, port, name) = match &self.endpoint {
            Endpoint::Url(_) => (name.clone(), port, name),
            Endpoint::Service { namespace, name: service, port, .. } => {
                let (host, port) = resolve(&self.store, namespace, service, *port).await?;
                (host, port, name)
            }
        };
        let tls = secure.then(|| (name, self.tls.clone()));
        Ok(Stream(TokioIo::new(dial(&Destination { host, port, tls }).await?)))
    }
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Stream, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

/// A dialled stream, as the pool wants it.
pub struct Stream(TokioIo<Box<dyn Io>>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bare_status_codes_are_explained() {
        let headers = HeaderMap::new();
        let status = refusal(StatusCode::INTERNAL_SERVER_ERROR, &headers, b"broken\n");
        assert_eq!(
            status.message,
            r#"an error on the server ("broken") has prevented the request from succeeding"#
        );
        let status = refusal(StatusCode::NOT_FOUND, &headers, b"404 page not found");
        assert_eq!(status.message, "the server could not find the requested resource");
    }

    #[test]
    fn a_status_that_was_sent_is_kept() {
        let body = br#"{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","code":418,"reason":"Teapot"}"#;
        let status = refusal(StatusCode::IM_A_TEAPOT, &HeaderMap::new(), body);
        assert_eq!((status.message.as_str(), status.code), ("no", 418));
    }
}
