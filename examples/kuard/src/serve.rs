//! Listening, TLS, and an end that loses no request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::app::{App, now};
use crate::http::{Answer, Call};
use crate::options::Options;

const MAX_BODY: usize = 10 << 20;
/// After the word to stop, new connections are still taken for as long as it takes everybody to
/// hear that this pod is leaving.
const LINGER: Duration = Duration::from_secs(2);
/// Longer than any honest client takes.
const HANDSHAKE: Duration = Duration::from_secs(2);
const DRAIN: Duration = Duration::from_secs(10);

type Error = Box<dyn std::error::Error>;

/// Serves until SIGTERM or SIGINT, then a little longer.
pub async fn run(app: Arc<App>, options: &Options) -> Result<(), Error> {
    let plain = TcpListener::bind(options.address).await?;
    let secure = match tls(&options.tls_dir)? {
        Some(acceptor) => {
            println!("{} Serving HTTPS on :{}", now(), options.tls_address.port());
            Some((TcpListener::bind(options.tls_address).await?, acceptor))
        }
        None => {
            println!("{} Could not find certificates to serve TLS", now());
            None
        }
    };
    println!("{} Serving on HTTP on :{}", now(), options.address.port());
    let graceful = GracefulShutdown::new();
    tokio::select! {
        () = accept(&app, &plain, &graceful) => {}
        () = accept_tls(&app, secure.as_ref(), &graceful) => {}
        () = told_to_stop() => {}
    }
    println!("{} Stopping", now());
    tokio::select! {
        () = accept(&app, &plain, &graceful) => {}
        () = tokio::time::sleep(LINGER) => {}
    }
    drop(plain);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(DRAIN) => {}
    }
    Ok(())
}

async fn told_to_stop() {
    let terminate = signal(SignalKind::terminate());
    let interrupt = signal(SignalKind::interrupt());
    match (terminate, interrupt) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

async fn accept(app: &Arc<App>, listener: &TcpListener, graceful: &GracefulShutdown) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => serve(app, stream, peer, graceful),
            Err(error) => wait_after(&error).await,
        }
    }
}

async fn accept_tls(
    app: &Arc<App>,
    secure: Option<&(TcpListener, TlsAcceptor)>,
    graceful: &GracefulShutdown,
) {
    let Some((listener, acceptor)) = secure else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(app, stream, peer, graceful),
                    Ok(Err(error)) => println!("{} {peer} no TLS: {error}", now()),
                    Err(_) => println!("{} {peer} no TLS: too slow", now()),
                }
            }
            Err(error) => wait_after(&error).await,
        }
    }
}

/// Out of descriptors, most likely: some will come back.
async fn wait_after(error: &std::io::Error) {
    println!("{} cannot accept: {error}", now());
    tokio::time::sleep(Duration::from_millis(100)).await;
}

fn serve<S>(app: &Arc<App>, stream: S, peer: SocketAddr, graceful: &GracefulShutdown)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let app = app.clone();
    let service = service_fn(move |request| {
        let app = app.clone();
        async move { Ok::<_, Infallible>(answer(app, request, peer).await.into_response()) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // `nc` says that it has no more to send, and still wants its answer.
    builder.http1().half_close(true);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let watched = graceful.watch(connection);
    tokio::spawn(async move {
        // A client that went away is nobody's fault.
        let _ = watched.await;
    });
}

async fn answer(app: Arc<App>, request: Request<Incoming>, peer: SocketAddr) -> Answer {
    let (head, body) = request.into_parts();
    let body = match Limited::new(body, MAX_BODY).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            return Answer::error(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string());
        }
    };
    let call = Call {
        method: head.method,
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or("").to_owned(),
        target: head.uri.to_string(),
        version: head.version,
        headers: head.headers,
        body,
        peer: peer.to_string(),
    };
    app.answer(call, peer).await
}

/// The key pair in the directory, if there is one.
fn tls(dir: &Path) -> Result<Option<TlsAcceptor>, Error> {
    let (certificate, key) = (dir.join("kuard.crt"), dir.join("kuard.key"));
    if !certificate.exists() || !key.exists() {
        return Ok(None);
    }
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}
