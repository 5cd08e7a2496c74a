//! A server and its clients in one process: hyper over in-memory connections, so that every test goes
//! through the real handshake.

// Each test binary uses its part of this language.
#![allow(dead_code)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, combinators::BoxBody};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use skiff_streams::{
    Endpoint, Error, ForwardedConnection, Negotiated, PortForward, RemoteCommand,
    RemoteCommandStreams, StreamOptions, forwarded_ports, negotiate, proxy_upgrade,
};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

pub type Body = BoxBody<Bytes, hyper::Error>;
type Handled = Pin<Box<dyn Future<Output = ()> + Send>>;
type Session = Arc<dyn Fn(TokioIo<Upgraded>, Negotiated, String) -> Handled + Send + Sync>;

/// A test that hangs is a test that fails.
pub async fn within<F: Future>(seconds: u64, what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(seconds), what)
        .await
        .expect("finished in time")
}

/// A connection whose server runs `command` for each exec or attach request.
pub fn exec_server<F, R>(command: F) -> DuplexStream
where
    F: Fn(RemoteCommandStreams) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let command = Arc::new(command);
    connection(serve_exec(command))
}

fn serve_exec<F, R>(command: Arc<F>) -> (Endpoint, Session)
where
    F: Fn(RemoteCommandStreams) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let session: Session = Arc::new(move |io, negotiated, query| {
        let command = command.clone();
        Box::pin(async move {
            let options = StreamOptions::from_query(&query).expect("a good query");
            match RemoteCommand::accept(io, &negotiated, options).await {
                Ok(streams) => command(streams).await,
                Err(error) => eprintln!("no session: {error}"),
            }
        })
    });
    (Endpoint::RemoteCommand, session)
}

/// A connection whose server runs `forward` for each forwarded connection.
pub fn forward_server<F, R>(forward: F) -> DuplexStream
where
    F: Fn(ForwardedConnection) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let forward = Arc::new(forward);
    let session: Session = Arc::new(move |io, negotiated, query| {
        let forward = forward.clone();
        Box::pin(async move {
            let ports = forwarded_ports(&query).expect("good ports");
            let accepted = PortForward::accept(io, &negotiated, &ports).await;
            let mut session = accepted.expect("a session");
            while let Some(connection) = session.next().await {
                tokio::spawn(forward(connection));
            }
        })
    });
    connection((Endpoint::PortForward, session))
}

/// The client's end of a connection through a proxy to `server`.
pub fn proxied(server: DuplexStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = Arc::new(std::sync::Mutex::new(Some(server)));
    let service = service_fn(move |request: Request<Incoming>| {
        let server = server.lock().unwrap().take().expect("one request only");
        async move {
            Ok::<_, Infallible>(match proxy_upgrade(request, server).await {
                Ok(response) => response,
                Err(error) => refused(&error),
            })
        }
    });
    let http = hyper::server::conn::http1::Builder::new();
    tokio::spawn(
        http.serve_connection(TokioIo::new(far), service)
            .with_upgrades(),
    );
    near
}

fn connection((endpoint, session): (Endpoint, Session)) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(serve(far, endpoint, session));
    near
}

async fn serve<IO>(io: IO, endpoint: Endpoint, session: Session)
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |mut request: Request<Incoming>| {
        let answer = match negotiate(&request, endpoint) {
            Ok(negotiated) => begin(&mut request, negotiated, session.clone()),
            Err(error) => refused(&error),
        };
        async move { Ok::<_, Infallible>(answer) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    let _ = http
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades()
        .await;
}

fn begin(
    request: &mut Request<Incoming>,
    negotiated: Negotiated,
    session: Session,
) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let upgraded = Negotiated::upgraded(request);
    let response = negotiated.response();
    tokio::spawn(async move {
        let io = upgraded.await.expect("the client upgrades");
        session(io, negotiated, query).await;
    });
    response.map(|body| body.map_err(|never| match never {}).boxed())
}

fn refused(error: &Error) -> Response<Body> {
    error
        .response()
        .map(|body| body.map_err(|never| match never {}).boxed())
}
