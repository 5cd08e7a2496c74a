//! The node's own door: a Unix socket for the command line on the same machine.
//!
//! `GET /health`, and what [`images`] lists. Whoever may open the socket is root on this machine;
//! nothing here is part of the Kubernetes API. Counterpart: the CRI socket that `crictl` and
//! `ctr images import` talk to.

mod images;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use images::ImageVerbs;
pub use images::{ImageRow, Progress, PullRequest};
use serde::{Deserialize, Serialize};
use skiff_runtime::Embedded;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::cli::with_causes;

/// What the socket answers when it cannot do as asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// What of this node works now.
#[derive(Default)]
pub struct Health {
    pub api: AtomicBool,
    pub node: AtomicBool,
}

/// Who has this node's images.
#[derive(Clone)]
pub enum Images {
    Here(Arc<Embedded>),
    /// A container runtime of its own, at this endpoint.
    Elsewhere(String),
    Nowhere,
}

/// What the socket needs of the node.
pub struct NodeSocket {
    pub health: Arc<Health>,
    pub images: Images,
    /// Archives on their way in are kept here.
    pub scratch: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("there is no such path")]
    NoSuchPath,
    #[error("this server runs without a node")]
    NoNode,
    #[error(
        "the images of this node are those of the container runtime at {0}: use its own tools (for containerd, ctr --namespace k8s.io images)"
    )]
    Elsewhere(String),
    #[error("the archive could not be received")]
    Receive(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the request is not valid: {0}")]
    Request(String),
    #[error(transparent)]
    Runtime(#[from] skiff_runtime::Error),
}

impl NodeSocket {
    /// Listens. A socket file left by an earlier run is replaced.
    pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => UnixListener::bind(path),
        }
    }

    /// Answers until `shutdown`.
    pub async fn serve(
        self,
        listener: UnixListener,
        shutdown: CancellationToken,
    ) -> std::io::Result<()> {
        let node = Arc::new(self);
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted?.0,
                () = shutdown.cancelled() => return Ok(()),
            };
            let node = node.clone();
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let node = node.clone();
                    async move { Ok::<_, Infallible>(node.answer(request).await) }
                });
                let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = served.await {
                    tracing::debug!(%error, "a local connection ended early");
                }
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/health") => text(self.health_line()),
            (_, path) if path.starts_with("/images") => {
                let answered = match &self.images {
                    Images::Here(runtime) => {
                        ImageVerbs { runtime, scratch: &self.scratch }.answer(&head, body).await
                    }
                    Images::Elsewhere(endpoint) => Err(Error::Elsewhere(endpoint.clone())),
                    Images::Nowhere => Err(Error::NoNode),
                };
                answered.unwrap_or_else(|error| refusal(&error))
            }
            _ => refusal(&Error::NoSuchPath),
        }
    }

    fn health_line(&self) -> String {
        let word = |up: &AtomicBool| if up.load(Ordering::Relaxed) { "ok" } else { "down" };
        format!("api {}\nnode {}\n", word(&self.health.api), word(&self.health.node))
    }
}

fn refusal(error: &Error) -> Response<Body> {
    let status = match error {
        Error::NoSuchPath => StatusCode::NOT_FOUND,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    };
    json(status, &Failure { error: with_causes(error) })
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed_unsync()
}

fn text(body: String) -> Response<Body> {
    Response::new(full(body))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_vec(value).expect("rows are plain data");
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response
}
