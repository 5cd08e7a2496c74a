//! Sends one image to its registry: missing blobs first, the manifest last.
//!
//! Consumes an image of the store, decides which blobs the registry lacks, emits uploads.
//! Counterpart: containerd's `client.Push`.
//! Invariant: the tag moves only when everything it leads to is there.

use std::{io, path::PathBuf, sync::Arc};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{Method, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use tokio::{io::AsyncReadExt, sync::mpsc::UnboundedSender};

use super::{
    config::RegistryConfig,
    error::RegistryError,
    pull::Report,
    repository::{Access, Ask, Repository, absolute, full, header_text},
    transport::Body,
};
use crate::{
    cri::{AuthConfig, LayerProgress, LayerState},
    error::Error,
    image::{
        ImageStore, Reference,
        config::{Descriptor, Manifest, media_type},
        reference::Version,
    },
};

const PARALLEL_LAYERS: usize = 3;
const CHUNK: usize = 256 << 10;

pub(super) struct Push {
    pub store: Arc<ImageStore>,
    pub config: Arc<RegistryConfig>,
    pub reference: Reference,
    pub auth: Option<AuthConfig>,
    pub progress: Option<UnboundedSender<LayerProgress>>,
}

// === impl Push ===

impl Push {
    /// Answers the digest by which the registry knows the image now.
    pub async fn run(self) -> Result<String, RegistryError> {
        // Nothing is collected while it is being read.
        let _arrival = self.store.arrival().await;
        let name = self.reference.to_string();
        let Version::Tag(tag) = self.reference.version.clone() else {
            let reason = "an image is pushed by a tag, not by a digest";
            return Err(Error::InvalidReference { reference: name, reason }.into());
        };
        let record = self.store.find(&name).ok_or_else(|| Error::ImageNotFound(name.clone()))?;
        let missing = || Error::ContentMissing(name.clone());
        let digest = record.manifest.ok_or_else(missing)?;
        let content = self.store.content.read(&digest)?;
        let manifest: Manifest = serde_json::from_slice(&content).map_err(|_| missing())?;
        let endpoint = self.config.push_endpoint(&self.reference, self.auth.as_ref());
        let repository = Repository::new(endpoint, Access::Push, self.config.clone());
        let blobs: Vec<Descriptor> =
            manifest.layers.iter().chain([&manifest.config]).cloned().collect();
        let (push, target) = (&self, &repository);
        let uploads = blobs.into_iter().map(|blob| async move { push.send(target, &blob).await });
        stream::iter(uploads).buffer_unordered(PARALLEL_LAYERS).try_collect::<Vec<()>>().await?;
        let kind = match manifest.media_type.as_str() {
            "" => media_type::OCI_MANIFEST,
            own => own,
        };
        let ask = Ask::new(Method::PUT, repository.url(&format!("manifests/{tag}")))
            .header(header::CONTENT_TYPE, kind)
            .body(move || full(content.clone()));
        repository.send(&ask).await?;
        Ok(digest)
    }

    async fn send(&self, repository: &Repository, blob: &Descriptor) -> Result<(), RegistryError> {
        let report = Report::new(self.progress.as_ref(), blob);
        let url = repository.url(&format!("blobs/{}", blob.digest));
        match repository.send(&Ask::new(Method::HEAD, url)).await {
            Ok(_) => {
                report.say(LayerState::Exists, blob.size);
                return Ok(());
            }
            Err(RegistryError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        report.say(LayerState::Uploading, 0);
        if !self.store.content.has(&blob.digest) {
            return Err(Error::ContentMissing(self.reference.to_string()).into());
        }
        let begin = Ask::new(Method::POST, repository.url("blobs/uploads/"))
            .header(header::CONTENT_LENGTH, "0");
        let begun = repository.send(&begin).await?;
        let location = header_text(begun.headers(), &header::LOCATION)
            .filter(|_| begun.status() == StatusCode::ACCEPTED)
            .ok_or_else(|| RegistryError::Invalid {
                url: begin.url.clone(),
                reason: "the registry does not say where to upload".to_owned(),
            })?;
        let location = absolute(&begin.url, &location);
        let join = if location.contains('?') { '&' } else { '?' };
        let path = self.store.content.path(&blob.digest);
        let put = Ask::new(Method::PUT, format!("{location}{join}digest={}", blob.digest))
            .header(header::CONTENT_TYPE, "application/octet-stream")
            .header(header::CONTENT_LENGTH, &self.store.content.size(&blob.digest)?.to_string())
            .body(move || streamed(path.clone()));
        repository.send_once(&put).await?;
        report.say(LayerState::Complete, blob.size);
        Ok(())
    }
}

/// The file's bytes; opened when the first is wanted.
fn streamed(path: PathBuf) -> Body {
    enum At {
        Closed(PathBuf),
        Open(tokio::fs::File),
    }
    let chunks = stream::try_unfold(At::Closed(path), |at| async move {
        let mut file = match at {
            At::Closed(path) => tokio::fs::File::open(path).await?,
            At::Open(file) => file,
        };
        let mut chunk = Vec::with_capacity(CHUNK);
        match file.read_buf(&mut chunk).await? {
            0 => Ok::<_, io::Error>(None),
            _ => Ok(Some((Frame::data(Bytes::from(chunk)), At::Open(file)))),
        }
    });
    BodyExt::boxed_unsync(StreamBody::new(chunks))
}
