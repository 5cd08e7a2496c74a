//! Images over the node's own door: one route per verb of `skiff image`.
//!
//! Work that takes long answers with a line of JSON per step ([`Progress`]), archives with their
//! bytes, everything else with rows.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use http::request::Parts;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Response, StatusCode};
use serde::{Deserialize, Serialize};
use skiff_runtime::{
    AuthConfig, BuildOptions, Embedded, Image, ImageService, LayerProgress, PullImage,
    unpack_context,
};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::{Body, Error, json, with_causes};

/// One name of an image.
#[derive(Debug, Serialize, Deserialize)]
pub struct ImageRow {
    /// `<none>` for an image that lost its last name.
    pub name: String,
    pub id: String,
    pub bytes: u64,
}

/// What to fetch or send, and as whom.
#[derive(Debug, Serialize, Deserialize)]
pub struct PullRequest {
    pub image: String,
    pub auth: Option<AuthConfig>,
}

/// One line of a long answer; the last is `Done` or `Failed`.
#[derive(Debug, Serialize, Deserialize)]
pub enum Progress {
    Layer(LayerProgress),
    Step(String),
    Done(String),
    Failed(String),
}

pub(super) struct ImageVerbs<'a> {
    pub runtime: &'a Arc<Embedded>,
    pub scratch: &'a Path,
}

type Answer = Result<Response<Body>, Error>;

// === impl ImageVerbs ===

impl ImageVerbs<'_> {
    pub async fn answer(&self, head: &Parts, body: Incoming) -> Answer {
        let query = Query::of(head.uri.query().unwrap_or_default());
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/images") => self.list().await,
            (&Method::POST, "/images") => self.load(body).await,
            (&Method::DELETE, "/images") => {
                self.runtime.delete_image(query.one("name")?, query.has("force")).await?;
                rows(&[])
            }
            (&Method::POST, "/images/pull") => self.pull(body).await,
            (&Method::POST, "/images/push") => self.push(body).await,
            (&Method::POST, "/images/build") => self.build(body).await,
            (&Method::GET, "/images/archive") => self.save(query.all("name")).await,
            (&Method::POST, "/images/tag") => {
                self.runtime.tag_image(query.one("name")?, query.one("to")?)?;
                rows(&[])
            }
            (&Method::POST, "/images/prune") => {
                rows(&self.runtime.prune_images(query.has("all")).await?)
            }
            (&Method::GET, "/images/inspect") => {
                Ok(json(StatusCode::OK, &self.runtime.inspect_image(query.one("name")?)?))
            }
            _ => Err(Error::NoSuchPath),
        }
    }

    async fn list(&self) -> Answer {
        let images = self.runtime.list_images().await?;
        let mut rows: Vec<ImageRow> = images.iter().flat_map(rows_of).collect();
        rows.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(json(StatusCode::OK, &rows))
    }

    async fn load(&self, body: Incoming) -> Answer {
        let archive = Scratch::receive(self.scratch, body).await.map_err(Error::Receive)?;
        rows(&self.runtime.load_image(&archive.0).await?)
    }

    async fn pull(&self, body: Incoming) -> Answer {
        let PullRequest { image, auth } = read(body).await?;
        let runtime = self.runtime.clone();
        Ok(long(Progress::Layer, move |progress| async move {
            let request = PullImage { reference: image, auth, progress: Some(progress) };
            runtime.pull_image(request).await
        }))
    }

    async fn push(&self, body: Incoming) -> Answer {
        let PullRequest { image, auth } = read(body).await?;
        let runtime = self.runtime.clone();
        Ok(long(Progress::Layer, move |progress| async move {
            runtime.push_image(&image, auth, Some(progress)).await
        }))
    }

    /// The body is a line of options and a tar of files.
    async fn build(&self, body: Incoming) -> Answer {
        let sent = Scratch::receive(self.scratch, body).await.map_err(Error::Receive)?;
        let context =
            Scratch::directory(self.scratch).map_err(|error| Error::Receive(error.into()))?;
        let runtime = self.runtime.clone();
        let dir = context.0.clone();
        let options = tokio::task::spawn_blocking(move || unpack(&sent.0, &dir))
            .await
            .map_err(|error| Error::Receive(error.into()))??;
        Ok(long(Progress::Step, move |tell| async move {
            let built = runtime.build_image(options, context.0.clone(), tell).await;
            drop(context);
            built
        }))
    }

    /// What is wrong before the first byte is an error; later the connection breaks off.
    async fn save(&self, images: Vec<String>) -> Answer {
        for image in &images {
            if self.runtime.image_status(image).await?.is_none() {
                return Err(skiff_runtime::Error::ImageNotFound(image.clone()).into());
            }
        }
        let mut pieces = self.runtime.save_images(images);
        let first = pieces.recv().await.transpose()?;
        let rest = futures::stream::unfold(pieces, |mut pieces| async move {
            let piece = pieces.recv().await?;
            Some((piece.map_err(std::io::Error::other), pieces))
        });
        let all = futures::stream::iter(first.map(Ok)).chain(rest);
        Ok(Response::new(StreamBody::new(all.map(|piece| piece.map(Frame::data))).boxed_unsync()))
    }
}

/// Starts work and answers with its progress, line by line.
fn long<T, F>(
    step: fn(T) -> Progress,
    work: impl FnOnce(mpsc::UnboundedSender<T>) -> F,
) -> Response<Body>
where
    T: Send + 'static,
    F: Future<Output = skiff_runtime::Result<String>> + Send + 'static,
{
    let (sender, receiver) = mpsc::unbounded_channel();
    let done = work(sender);
    let steps = futures::stream::unfold(receiver, move |mut receiver| async move {
        Some((step(receiver.recv().await?), receiver))
    });
    let end = futures::stream::once(async move {
        match done.await {
            Ok(id) => Progress::Done(id),
            Err(error) => Progress::Failed(with_causes(&error)),
        }
    });
    // Both at once: the work sends while it is waited for.
    let lines = futures::stream::select(steps, end).map(|line| {
        let mut line = serde_json::to_vec(&line).expect("progress is plain data");
        line.push(b'\n');
        Ok::<_, std::io::Error>(Frame::data(Bytes::from(line)))
    });
    Response::new(StreamBody::new(lines).boxed_unsync())
}

/// Takes the parts of a build apart.
fn unpack(sent: &Path, dir: &Path) -> Result<BuildOptions, Error> {
    let broken = |error: std::io::Error| Error::Receive(error.into());
    let mut sent = BufReader::new(std::fs::File::open(sent).map_err(broken)?);
    let mut options = String::new();
    sent.read_line(&mut options).map_err(broken)?;
    unpack_context(sent, dir).map_err(broken)?;
    serde_json::from_str(&options).map_err(|error| Error::Request(error.to_string()))
}

async fn read<T: serde::de::DeserializeOwned>(body: Incoming) -> Result<T, Error> {
    let bytes = body.collect().await.map_err(|error| Error::Receive(error.into()))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| Error::Request(error.to_string()))
}

fn rows(images: &[Image]) -> Answer {
    Ok(json(StatusCode::OK, &images.iter().flat_map(rows_of).collect::<Vec<_>>()))
}

fn rows_of(image: &Image) -> Vec<ImageRow> {
    let row =
        |name: &String| ImageRow { name: name.clone(), id: image.id.clone(), bytes: image.size };
    match (image.repo_tags.is_empty(), image.repo_digests.is_empty()) {
        (false, _) => image.repo_tags.iter().map(row).collect(),
        (true, false) => image.repo_digests.iter().map(row).collect(),
        (true, true) => vec![row(&"<none>".to_owned())],
    }
}

// === Query ===

struct Query(Vec<(String, String)>);

impl Query {
    fn of(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Query(pairs.map(|(key, value)| (key.to_owned(), unescape(value))).collect())
    }

    fn has(&self, key: &str) -> bool {
        self.0.iter().any(|(name, _)| name == key)
    }

    fn all(&self, key: &str) -> Vec<String> {
        self.0.iter().filter(|(name, _)| name == key).map(|(_, value)| value.clone()).collect()
    }

    fn one(&self, key: &str) -> Result<&str, Error> {
        let found = self.0.iter().find(|(name, _)| name == key);
        found.map(|(_, value)| value.as_str()).ok_or_else(|| Error::Request(format!("no {key}")))
    }
}

/// A file or directory that is gone when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    async fn receive(
        dir: &Path,
        mut body: Incoming,
    ) -> Result<Scratch, Box<dyn std::error::Error + Send + Sync>> {
        tokio::fs::create_dir_all(dir).await?;
        let scratch = Scratch::named(dir, "archive");
        let mut file = tokio::fs::File::create(&scratch.0).await?;
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                file.write_all(&data).await?;
            }
        }
        file.flush().await?;
        Ok(scratch)
    }

    fn directory(dir: &Path) -> std::io::Result<Scratch> {
        let scratch = Scratch::named(dir, "context");
        std::fs::create_dir_all(&scratch.0)?;
        Ok(scratch)
    }

    fn named(dir: &Path, what: &str) -> Scratch {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Scratch(dir.join(format!("{what}-{}-{number}", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let removed = match self.0.is_dir() {
            true => std::fs::remove_dir_all(&self.0),
            false => std::fs::remove_file(&self.0),
        };
        if let Err(error) = removed {
            tracing::warn!(path = %self.0.display(), %error, "cannot remove what was received");
        }
    }
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
