//! Connections to registries: TCP, TLS with the trust a host wants, and proxies.
//!
//! Consumes requests, emits responses whose bodies stream. Counterpart: Go's `http.Transport`.
//! `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` are honoured; loopback addresses are never proxied.
//! Invariant: a host that cannot be reached is told of within [`CONNECT_PATIENCE`].

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::{
    client::{
        legacy::{
            Client,
            connect::{Connected, Connection, proxy::Tunnel},
        },
        proxy::matcher::Matcher,
    },
    rt::{TokioExecutor, TokioIo},
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tower::Service;

use super::{
    config::{TlsConfig, is_loopback},
    error::RegistryError,
    trust::client_config,
};

pub(super) type Body = UnsyncBoxBody<Bytes, io::Error>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Until the first byte of an answer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(60);

/// A client for hosts that are trusted alike.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Body>,
    proxies: Arc<Matcher>,
}

// === impl Transport ===

impl Transport {
    pub fn new(tls: &TlsConfig) -> Result<Self, RegistryError> {
        let proxies = Arc::new(Matcher::from_env());
        let connector = Connector { tls: Arc::new(client_config(tls)?), proxies: proxies.clone() };
        Ok(Transport { client: Client::builder(TokioExecutor::new()).build(connector), proxies })
    }

    pub async fn send(
        &self,
        mut request: Request<Body>,
    ) -> Result<Response<Incoming>, RegistryError> {
        let url = request.uri().to_string();
        let proxy = proxy_for(&self.proxies, request.uri());
        if let (Some("http"), Some(auth)) =
            (request.uri().scheme_str(), proxy.as_ref().and_then(|proxy| proxy.basic_auth()))
        {
            request.headers_mut().insert(header::PROXY_AUTHORIZATION, auth.clone());
        }
        match tokio::time::timeout(ANSWER_PATIENCE, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => {
                Err(RegistryError::Unreachable { url, reason: causes(&error) })
            }
            Ok(Err(error)) => Err(RegistryError::Broken { url, reason: causes(&error) }),
            Err(_) => Err(RegistryError::Broken { url, reason: "no answer".to_owned() }),
        }
    }
}

fn proxy_for(
    proxies: &Matcher,
    uri: &Uri,
) -> Option<hyper_util::client::proxy::matcher::Intercept> {
    let local = uri.host().is_some_and(is_loopback);
    (!local).then(|| proxies.intercept(uri)).flatten()
}

/// The innermost cause: what lies around it only says that a connection failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

// === Connector ===

#[derive(Clone)]
struct Connector {
    tls: Arc<ClientConfig>,
    proxies: Arc<Matcher>,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_PATIENCE, connector.connect(uri)).await {
                Ok(connected) => connected,
                Err(_) => Err("the connection timed out".into()),
            }
        })
    }
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<TokioIo<Stream>, BoxError> {
        let secure = uri.scheme_str() == Some("https");
        let proxy = proxy_for(&self.proxies, &uri);
        if let Some(other) = proxy.as_ref().and_then(|proxy| proxy.uri().scheme_str())
            && other != "http"
        {
            return Err(format!("a proxy spoken to by {other} is not supported").into());
        }
        let tcp = match &proxy {
            None => dial(uri.clone()).await?,
            Some(proxy) if secure => {
                let mut tunnel = Tunnel::new(proxy.uri().clone(), tower::service_fn(dial));
                if let Some(auth) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(uri.clone()).await?
            }
            Some(proxy) => dial(proxy.uri().clone()).await?,
        };
        let tcp = tcp.into_inner();
        if !secure {
            return Ok(TokioIo::new(Stream { io: Box::new(tcp), to_proxy: proxy.is_some() }));
        }
        let name = ServerName::try_from(host(&uri)?.to_owned())?;
        let tls = tokio_rustls::TlsConnector::from(self.tls).connect(name, tcp).await?;
        Ok(TokioIo::new(Stream { io: Box::new(tls), to_proxy: false }))
    }
}

async fn dial(uri: Uri) -> Result<TokioIo<TcpStream>, BoxError> {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = host(&uri)?;
    let tcp = TcpStream::connect((host, uri.port_u16().unwrap_or(default))).await?;
    tcp.set_nodelay(true)?;
    Ok(TokioIo::new(tcp))
}

fn host(uri: &Uri) -> Result<&str, BoxError> {
    let host = uri.host().ok_or("the address names no host")?;
    Ok(host.trim_matches(['[', ']']))
}

// === Stream ===

trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

struct Stream {
    io: Box<dyn Duplex>,
    /// A proxy wants whole addresses in requests.
    to_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.to_proxy)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
