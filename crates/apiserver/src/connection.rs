//! Sockets: accept -> TLS -> HTTP/1.1 or HTTP/2 -> the request path.
//!
//! A client certificate is optional; one that does not check out is refused in the handshake. Counterpart:
//! `pkg/server/secure_serving.go`. Invariant: a slow or silent peer costs a bounded time and never holds others back.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::authn::x509;
use crate::path::{self, Caller, Peer};
use crate::remainder::Remainder;
use crate::server::Server;
use crate::stalled::{self, Impatient};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
const DRAIN: Duration = Duration::from_secs(10);
/// How often the serving certificate is looked at.
const RENEWAL_CHECK: Duration = Duration::from_secs(3600);
const MAX_STREAMS: u32 = 1000;
const MAX_HEADER_BYTES: u32 = 64 * 1024;

pub async fn serve(
    server: Arc<Server>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send,
) -> std::io::Result<()> {
    let certificate = Arc::new(ServingCertificate::load(&server)?);
    let acceptor = TlsAcceptor::from(tls_config(&server, certificate.clone())?);
    let builder = Arc::new(http_builder());
    let graceful = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    let mut renewal = tokio::time::interval(RENEWAL_CHECK);
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let peer = Peer(peer.ip());
                    let (server, acceptor, builder) = (server.clone(), acceptor.clone(), builder.clone());
                    tokio::spawn(connection(server, acceptor, builder, (stream, peer), graceful.watcher()));
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            _ = renewal.tick() => certificate.renew(&server),
            () = &mut shutdown => break,
        }
    }
    server.stopping.cancel();
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

async fn connection(
    server: Arc<Server>,
    acceptor: TlsAcceptor,
    builder: Arc<Builder<TokioExecutor>>,
    (stream, peer): (TcpStream, Peer),
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            server.metrics.tls_handshake_errors.fetch_add(1, Relaxed);
            return tracing::debug!(%error, "TLS handshake failed");
        }
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let user = tls
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| x509::shown(leaf, &server.authn.front_proxy_authorities))
        .map(Arc::new);
    let handed_over = Arc::new(AtomicBool::new(false));
    let stream = Impatient::new(tls, stalled::PATIENCE, handed_over.clone());
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let (server, caller) = (server.clone(), Caller::Remote(user.clone()));
        let handed_over = handed_over.clone();
        async move {
            let (request, remainder) = Remainder::of(request);
            let mut response = path::handle(server, caller, request).await;
            remainder.settle(&mut response).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                handed_over.store(true, Relaxed);
            }
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let serving =
        builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
    if let Err(error) = watcher.watch(serving).await {
        tracing::debug!(%error, "connection ended");
    }
}

fn http_builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(4 * 1024 * 1024)
        .keep_alive_interval(Duration::from_secs(30));
    builder
}

fn tls_config(
    server: &Server,
    certificate: Arc<ServingCertificate>,
) -> std::io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for authority in &server.authn.client_authorities {
        roots.add(authority.clone()).map_err(std::io::Error::other)?;
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(std::io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The certificate shown to clients; replaced in place before it expires.
#[derive(Debug)]
struct ServingCertificate {
    current: arc_swap::ArcSwap<CertifiedKey>,
}

impl ServingCertificate {
    fn load(server: &Server) -> std::io::Result<ServingCertificate> {
        Ok(ServingCertificate { current: arc_swap::ArcSwap::from_pointee(certified(server)?) })
    }

    fn renew(&self, server: &Server) {
        match certified(server) {
            Ok(key) => self.current.store(Arc::new(key)),
            Err(error) => tracing::warn!(%error, "the serving certificate cannot be renewed"),
        }
    }
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn certified(server: &Server) -> std::io::Result<CertifiedKey> {
    let identity = server.pki.identity(&server.serving_leaf()).map_err(std::io::Error::other)?;
    let chain = identity.chain().map_err(std::io::Error::other)?;
    let key = identity.key().map_err(std::io::Error::other)?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(std::io::Error::other)
}
