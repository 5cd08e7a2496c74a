//! The node's own door: a Unix socket for the command line on the same machine.
//!
//! `GET /health`, `GET|POST|DELETE /images`. Whoever may open the socket is root on this machine;
//! nothing here is part of the Kubernetes API. Counterpart: the CRI socket that `crictl` and
//! `ctr images import` talk to.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use skiff_runtime::{Image, Runtime};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

/// One name of an image.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImageRow {
    pub name: String,
    pub id: String,
    pub bytes: u64,
}

/// What the socket answers when it cannot do as asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Failure {
    pub error: String,
}

/// What of this node works now.
#[derive(Default)]
pub struct Health {
    pub api: AtomicBool,
    pub node: AtomicBool,
}

/// What the socket needs of the node.
pub struct NodeSocket {
    pub health: Arc<Health>,
    pub runtime: Option<Arc<dyn Runtime>>,
    /// Archives on their way in are kept here.
    pub scratch: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("there is no such path")]
    NoSuchPath,
    #[error("this server runs without a node")]
    NoNode,
    #[error("the archive could not be received")]
    Receive(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("{0}")]
    Runtime(String),
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

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let answer = match (&method, path.as_str()) {
            (&Method::GET, "/health") => return text(self.health_line()),
            (&Method::GET, "/images") => self.images().await,
            (&Method::POST, "/images") => self.load(request.into_body()).await,
            (&Method::DELETE, "/images") => self.remove(request.uri().query()).await,
            _ => Err(Error::NoSuchPath),
        };
        match answer {
            Ok(rows) => json(StatusCode::OK, &rows),
            Err(error) => {
                let status = match error {
                    Error::NoSuchPath => StatusCode::NOT_FOUND,
                    _ => StatusCode::UNPROCESSABLE_ENTITY,
                };
                json(status, &Failure { error: with_source(&error) })
            }
        }
    }

    fn health_line(&self) -> String {
        let word = |up: &AtomicBool| if up.load(Ordering::Relaxed) { "ok" } else { "down" };
        format!("api {}\nnode {}\n", word(&self.health.api), word(&self.health.node))
    }

    async fn images(&self) -> Result<Vec<ImageRow>, Error> {
        let images = self.runtime()?.list_images().await.map_err(runtime_error)?;
        let mut rows: Vec<ImageRow> = images.iter().flat_map(rows_of).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(rows)
    }

    async fn load(&self, body: Incoming) -> Result<Vec<ImageRow>, Error> {
        let runtime = self.runtime()?;
        let archive = Scratch::receive(&self.scratch, body).await.map_err(Error::Receive)?;
        let images = runtime.load_image(&archive.0).await.map_err(runtime_error)?;
        Ok(images.iter().flat_map(rows_of).collect())
    }

    async fn remove(&self, query: Option<&str>) -> Result<Vec<ImageRow>, Error> {
        let name = query.and_then(|query| query.strip_prefix("name=")).unwrap_or("");
        let name = unescape(name);
        let runtime = self.runtime()?;
        if runtime.image_status(&name).await.map_err(runtime_error)?.is_none() {
            return Err(Error::Runtime(format!("there is no image {name:?}")));
        }
        runtime.remove_image(&name).await.map_err(runtime_error)?;
        Ok(Vec::new())
    }

    fn runtime(&self) -> Result<&Arc<dyn Runtime>, Error> {
        self.runtime.as_ref().ok_or(Error::NoNode)
    }
}

/// A file that is gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    async fn receive(
        dir: &Path,
        mut body: Incoming,
    ) -> Result<Scratch, Box<dyn std::error::Error + Send + Sync>> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        tokio::fs::create_dir_all(dir).await?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let scratch = Scratch(dir.join(format!("archive-{}-{number}", std::process::id())));
        let mut file = tokio::fs::File::create(&scratch.0).await?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                file.write_all(&data).await?;
            }
        }
        file.flush().await?;
        Ok(scratch)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove a received archive");
        }
    }
}

fn rows_of(image: &Image) -> Vec<ImageRow> {
    let row =
        |name: &String| ImageRow { name: name.clone(), id: image.id.clone(), bytes: image.size };
    match image.repo_tags.is_empty() {
        true => image.repo_digests.iter().map(row).collect(),
        false => image.repo_tags.iter().map(row).collect(),
    }
}

fn runtime_error(error: skiff_runtime::Error) -> Error {
    Error::Runtime(with_source(&error))
}

fn with_source(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", with_source(source)),
        None => error.to_string(),
    }
}

fn text(body: String) -> Response<Full<Bytes>> {
    Response::new(Full::new(body.into()))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).expect("rows are plain data");
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

/// `%XX` back to bytes; what is no escape stays as it is.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_read_back() {
        assert_eq!(unescape("kuard%3Ablue"), "kuard:blue");
        assert_eq!(unescape("100%"), "100%");
    }
}
