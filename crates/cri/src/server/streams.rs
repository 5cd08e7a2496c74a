//! Exec, attach and port-forward: a verb answers a URL, and whoever comes there gets the streams.
//!
//! Counterpart: `k8s.io/kubelet/pkg/cri/streaming`. Invariant: a URL is unguessable, good for one visit, and for a minute.

use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use skiff_grpc::{Code, Status, serve_each};
use skiff_runtime::{AttachRequest, ContainerState, ContainerStatus, ExecRequest, PodSandboxState};
use skiff_streams::{Endpoint, Negotiated, PortForward, RemoteCommand, StreamOptions};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::Served;
use crate::{
    api,
    error::status_of,
    streaming::{forward, join},
};

const LIFE: Duration = Duration::from_secs(60);
/// As upstream: more visitors than these are not waited for.
const MAX_PENDING: usize = 1000;
/// What upstream's servers cap an answer of `ExecSync` at, each stream of it.
const MAX_OUTPUT: usize = 16 << 20;

/// What a URL stands for.
enum Wish {
    Exec(String, ExecRequest),
    Attach(String, AttachRequest),
    PortForward(String, Vec<u16>),
}

/// Wishes whose visitor has not come yet.
pub struct Streams {
    address: SocketAddr,
    pending: Mutex<HashMap<String, (Instant, Wish)>>,
}

// === the verbs ===

pub async fn exec_sync(
    served: Arc<Served>,
    request: api::ExecSyncRequest,
) -> Result<api::ExecSyncResponse, Status> {
    let container = served.container(&request.container_id).await?;
    let seconds = u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0);
    let timeout = seconds.map(Duration::from_secs);
    let done = served.runtime.exec_sync(&container.id, &request.cmd, timeout).await;
    let mut output = done.map_err(status_of)?;
    // Both together must fit one message.
    output.stdout.truncate(MAX_OUTPUT / 2);
    output.stderr.truncate(MAX_OUTPUT / 2 - 1024);
    let skiff_runtime::ExecSyncOutput { stdout, stderr, exit_code } = output;
    Ok(api::ExecSyncResponse { stdout, stderr, exit_code })
}

pub async fn exec(
    served: Arc<Served>,
    request: api::ExecRequest,
) -> Result<api::StreamResponse, Status> {
    let api::ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request;
    let container = served.running(&container_id).await?;
    let request = ExecRequest { command: cmd, stdin, stdout, stderr, tty };
    served.streams.promise("exec", Wish::Exec(container.id, request))
}

pub async fn attach(
    served: Arc<Served>,
    request: api::AttachRequest,
) -> Result<api::StreamResponse, Status> {
    let api::AttachRequest { container_id, stdin, tty, stdout, stderr } = request;
    let container = served.running(&container_id).await?;
    let request = AttachRequest { stdin, stdout, stderr, tty };
    served.streams.promise("attach", Wish::Attach(container.id, request))
}

pub async fn port_forward(
    served: Arc<Served>,
    request: api::PortForwardRequest,
) -> Result<api::StreamResponse, Status> {
    let sandbox = served.sandbox(&request.pod_sandbox_id).await?;
    if sandbox.state != PodSandboxState::Ready {
        let message = format!("pod sandbox {:?} is not running", sandbox.id);
        return Err(Status::new(Code::FailedPrecondition, message));
    }
    let ports: Result<Vec<u16>, _> = request.port.into_iter().map(u16::try_from).collect();
    let ports = ports.map_err(|error| Status::new(Code::InvalidArgument, error.to_string()))?;
    served.streams.promise("portforward", Wish::PortForward(sandbox.id, ports))
}

impl Served {
    async fn running(&self, id: &str) -> Result<ContainerStatus, Status> {
        let container = self.container(id).await?;
        match container.state {
            ContainerState::Running => Ok(container),
            state => {
                let message =
                    format!("container {:?} is not running: it is {state:?}", container.id);
                Err(Status::new(Code::FailedPrecondition, message))
            }
        }
    }
}

// === impl Streams ===

impl Streams {
    pub fn at(address: SocketAddr) -> Self {
        Streams { address, pending: Mutex::default() }
    }

    fn promise(&self, what: &str, wish: Wish) -> Result<api::StreamResponse, Status> {
        let mut pending = self.pending.lock().expect("no holder panics");
        pending.retain(|_, (since, _)| since.elapsed() < LIFE);
        if pending.len() >= MAX_PENDING {
            let message = "maximum number of in-flight requests exceeded";
            return Err(Status::new(Code::ResourceExhausted, message));
        }
        let token = token()?;
        let url = format!("http://{}/{what}/{token}", self.address);
        pending.insert(token, (Instant::now(), wish));
        Ok(api::StreamResponse { url })
    }

    fn redeem(&self, path: &str) -> Option<Wish> {
        let (_, token) = path.rsplit_once('/')?;
        let (since, wish) = self.pending.lock().expect("no holder panics").remove(token)?;
        (since.elapsed() < LIFE).then_some(wish)
    }
}

fn token() -> Result<String, Status> {
    let mut random = [0; 16];
    let failed = |error: getrandom::Error| Status::new(Code::Internal, error.to_string());
    getrandom::fill(&mut random).map_err(failed)?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

// === the streaming server ===

type Answer = Response<Full<Bytes>>;

pub async fn serve(served: Arc<Served>, listener: TcpListener, stop: CancellationToken) {
    let visit = |stream| visit(served.clone(), stream);
    serve_each(|cx| listener.poll_accept(cx), stop, visit).await;
}

async fn visit(served: Arc<Served>, stream: TcpStream) {
    let service = service_fn(move |request| {
        let answer = answer(&served, request).unwrap_or_else(|(code, message)| {
            let mut answer = Response::new(Full::from(message));
            *answer.status_mut() = code;
            answer
        });
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.with_upgrades().await {
        tracing::debug!(%error, "connection ended");
    }
}

fn answer(
    served: &Arc<Served>,
    mut request: Request<Incoming>,
) -> Result<Answer, (StatusCode, String)> {
    let unknown = || (StatusCode::NOT_FOUND, "unknown or used stream".to_owned());
    let wish = served.streams.redeem(request.uri().path()).ok_or_else(unknown)?;
    let endpoint = match wish {
        Wish::Exec(..) | Wish::Attach(..) => Endpoint::RemoteCommand,
        Wish::PortForward(..) => Endpoint::PortForward,
    };
    let refused = |error: skiff_streams::Error| (error.status_code(), error.to_string());
    let negotiated = skiff_streams::negotiate(&request, endpoint).map_err(refused)?;
    let upgraded = Negotiated::upgraded(&mut request);
    let answer = negotiated.response().map(|_| Full::default());
    let served = served.clone();
    tokio::spawn(async move {
        let session = async { served.fulfil(wish, upgraded.await?, &negotiated).await };
        if let Err(error) = session.await {
            tracing::debug!(%error, "stream ended early");
        }
    });
    Ok(answer)
}

impl Served {
    async fn fulfil<IO>(
        &self,
        wish: Wish,
        io: IO,
        negotiated: &Negotiated,
    ) -> Result<(), skiff_streams::Error>
    where
        IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        match wish {
            Wish::Exec(id, request) => {
                let ExecRequest { stdin, stdout, stderr, tty, .. } = request;
                let options = StreamOptions { stdin, stdout, stderr, tty };
                let streams = RemoteCommand::accept(io, negotiated, options).await?;
                join(streams, self.runtime.exec(&id, request).await).await
            }
            Wish::Attach(id, request) => {
                let AttachRequest { stdin, stdout, stderr, tty } = request;
                let options = StreamOptions { stdin, stdout, stderr, tty };
                let streams = RemoteCommand::accept(io, negotiated, options).await?;
                join(streams, self.runtime.attach(&id, request).await).await
            }
            Wish::PortForward(sandbox, ports) => {
                let mut session = PortForward::accept(io, negotiated, &ports).await?;
                let mut connections = tokio::task::JoinSet::new();
                while let Some(connection) = session.next().await {
                    let (runtime, sandbox) = (self.runtime.clone(), sandbox.clone());
                    connections
                        .spawn(async move { forward(&*runtime, &sandbox, connection).await });
                    while connections.try_join_next().is_some() {}
                }
                Ok(())
            }
        }
    }
}
