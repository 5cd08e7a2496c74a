//! A server and its clients in one process: hyper over in-memory connections, so that every test goes
//! through the real handshake.

// Each test binary uses its part of this language.
#![allow(dead_code)]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
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
use tokio::io::DuplexStream;

pub type Body = BoxBody<Bytes, hyper::Error>;
type Handled = Pin<Box<dyn Future<Output = ()> + Send>>;
type Session = Arc<dyn Fn(TokioIo<Upgraded>, Negotiated, String) -> Handled + Send + Sync>;

/// What a server offers, and what it does with an upgraded connection.
#[derive(Clone)]
pub struct Served {
    endpoint: Endpoint,
    session: Session,
    spoken: Spoken,
}

/// What was negotiated: the upgrade and the protocol's name.
pub type Spoken = Arc<Mutex<Vec<String>>>;

/// A test that hangs is a test that fails.
pub async fn within<F: Future>(seconds: u64, what: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(seconds), what).await.expect("finished in time")
}

/// Runs `command` for each exec or attach request.
pub fn exec<F, R>(command: F) -> Served
where
    F: Fn(RemoteCommandStreams) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    let command = Arc::new(command);
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
    Served { endpoint: Endpoint::RemoteCommand, session, spoken: Spoken::default() }
}

/// Runs `forward` for each forwarded connection.
pub fn forward<F, R>(forward: F) -> Served
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
    Served { endpoint: Endpoint::PortForward, session, spoken: Spoken::default() }
}

impl Served {
    pub fn recording(self, spoken: &Spoken) -> Served {
        let spoken = spoken.clone();
        Served { spoken, ..self }
    }
}

/// A connection to a server of `exec`.
pub fn exec_server<F, R>(command: F) -> DuplexStream
where
    F: Fn(RemoteCommandStreams) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    connection(exec(command))
}

/// A connection to a server of `forward`.
pub fn forward_server<F, R>(forwarded: F) -> DuplexStream
where
    F: Fn(ForwardedConnection) -> R + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    connection(forward(forwarded))
}

/// The client's end of a connection through a proxy to `server`.
pub fn proxied(server: DuplexStream) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = Arc::new(Mutex::new(Some(server)));
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
    tokio::spawn(http.serve_connection(TokioIo::new(far), service).with_upgrades());
    near
}

fn connection(served: Served) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let service = service_fn(move |request: Request<Incoming>| {
        let response = answer(request, &served);
        async move { Ok::<_, Infallible>(response) }
    });
    let http = hyper::server::conn::http1::Builder::new();
    tokio::spawn(http.serve_connection(TokioIo::new(far), service).with_upgrades());
    near
}

/// Upgrades the request, or says why not.
pub fn answer(mut request: Request<Incoming>, served: &Served) -> Response<Body> {
    match negotiate(&request, served.endpoint) {
        Ok(negotiated) => {
            let upgrade = request.headers()["upgrade"].to_str().unwrap();
            let name = format!("{upgrade} {}", negotiated.protocol_name());
            served.spoken.lock().unwrap().push(name);
            begin(&mut request, negotiated, served.session.clone())
        }
        Err(error) => refused(&error),
    }
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
    error.response().map(|body| body.map_err(|never| match never {}).boxed())
}
