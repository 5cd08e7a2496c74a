//! Fetches one image: manifest, config and layers, each verified, then all of it made known.
//!
//! Consumes a reference and credentials, decides endpoint, platform and which blobs are missing,
//! emits an [`ImageRecord`]. Counterpart: containerd's `client.Pull` with its unpacker.
//! Invariant: nothing of an image is visible before all of it is there; what has come of a blob is
//! kept for the next try.

use std::{collections::BTreeSet, sync::Arc};

use futures::{StreamExt, TryStreamExt, stream};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc::UnboundedSender;

use super::{
    config::RegistryConfig,
    error::RegistryError,
    repository::{Access, Document, Repository, next_chunk},
};
use crate::{
    cri::{LayerProgress, LayerState, PullImage},
    image::{
        ImageRecord, ImageStore, Reference,
        config::{
            ConfigFile, Descriptor, Index, Manifest, Platform, for_this_platform, media_type,
        },
        reference::Version,
        store::{Arrival, Incoming, LayerBlob, Stack},
    },
};

/// Layers of one image on their way at once, as containerd.
const PARALLEL_LAYERS: usize = 3;
const MAX_INDEX_DEPTH: u32 = 4;
/// How often a blob may break off without a byte of progress.
const FRUITLESS_TRIES: u32 = 4;
/// Bytes between two words of progress.
const PROGRESS_STEP: u64 = 256 << 10;

pub(super) struct Pull {
    pub store: Arc<ImageStore>,
    pub config: Arc<RegistryConfig>,
    pub reference: Reference,
    pub request: PullImage,
}

// === impl Pull ===

impl Pull {
    /// Asks one endpoint after the other.
    pub async fn run(self) -> Result<ImageRecord, RegistryError> {
        let arrival = self.store.arrival().await;
        let endpoints = self.config.endpoints(&self.reference, self.request.auth.as_ref());
        let mut failures = Vec::new();
        for endpoint in endpoints {
            let base = endpoint.base.clone();
            let repository = Repository::new(endpoint, Access::Pull, self.config.clone());
            match self.from(Arc::new(repository), &arrival).await {
                Ok(record) => return Ok(record),
                Err(error) => {
                    tracing::debug!(image = %self.reference, base, %error, "endpoint failed");
                    failures.push(error);
                }
            }
        }
        let last = failures.pop().expect("the registry itself was asked");
        if failures.is_empty() {
            return Err(last);
        }
        let mirrors = failures.iter().map(|error| format!("mirror: {error}"));
        Err(RegistryError::Every(format!("{last} ({})", mirrors.collect::<Vec<_>>().join("; "))))
    }

    async fn from(
        &self,
        repository: Arc<Repository>,
        arrival: &Arc<Arrival>,
    ) -> Result<ImageRecord, RegistryError> {
        if let Some(present) = self.unchanged(&repository).await? {
            return Ok(present);
        }
        let version = match &self.reference.version {
            Version::Tag(tag) => tag,
            Version::Digest(digest) => digest,
        };
        let top = repository.document(version).await.map_err(|error| self.named(error))?;
        let target = top.digest.clone();
        let document = self.for_platform(&repository, top).await?;
        let manifest: Manifest = parse(&document)?;
        let config = self.config_file(&repository, &manifest).await?;
        let layers = pair(&manifest, &config, &document)?;
        let stack = self.layers(&repository, &manifest.layers, &layers, arrival).await?;
        let incoming = Incoming {
            names: BTreeSet::from([self.reference.clone()]),
            target: Some(target),
            manifest: self.store.content.put(&document.content)?,
            config: manifest.config.digest,
            config_file: config,
            layers,
            stack,
        };
        let store = self.store.clone();
        let adopted = blocking(move || Ok(store.adopt(vec![incoming])?)).await?;
        Ok(adopted.into_iter().next().expect("one image was adopted"))
    }

    /// What is here already, if the registry still means the same by this name.
    async fn unchanged(
        &self,
        repository: &Repository,
    ) -> Result<Option<ImageRecord>, RegistryError> {
        let Some(present) = self.store.find(&self.reference.to_string()) else { return Ok(None) };
        match &self.reference.version {
            Version::Digest(digest) => {
                // Asking tells whether these credentials may have it.
                repository.resolve(digest).await.map_err(|error| self.named(error))?;
                Ok(Some(present))
            }
            Version::Tag(tag) => {
                let now = repository.resolve(tag).await.map_err(|error| self.named(error))?;
                let named = now.map(|digest| format!("{}@{digest}", self.reference.name));
                Ok(named.is_some_and(|name| present.digests.contains(&name)).then_some(present))
            }
        }
    }

    /// A missing manifest is a missing image.
    fn named(&self, error: RegistryError) -> RegistryError {
        match error {
            RegistryError::NotFound { .. } => {
                let name = &self.reference;
                let what = format!("failed to resolve reference \"{name}\": {name}");
                RegistryError::NotFound { what }
            }
            other => other,
        }
    }

    async fn for_platform(
        &self,
        repository: &Repository,
        mut document: Document,
    ) -> Result<Document, RegistryError> {
        for _ in 0..MAX_INDEX_DEPTH {
            match document.media_type.as_str() {
                media_type::OCI_INDEX | media_type::DOCKER_INDEX => {
                    let index: Index = parse(&document)?;
                    let found = for_this_platform(&index.manifests).ok_or_else(no_platform)?;
                    // Kept so that the name by digest stays good for saving and pushing.
                    self.store.content.put(&document.content)?;
                    document = repository.document(&found.digest).await?;
                }
                media_type::OCI_MANIFEST | media_type::DOCKER_MANIFEST => return Ok(document),
                other => {
                    let reason = format!("documents of type {other:?} are not supported");
                    return Err(RegistryError::Invalid { url: document.digest, reason });
                }
            }
        }
        let reason = "its indexes are nested too deeply".to_owned();
        Err(RegistryError::Invalid { url: document.digest, reason })
    }

    async fn config_file(
        &self,
        repository: &Repository,
        manifest: &Manifest,
    ) -> Result<ConfigFile, RegistryError> {
        self.fetch(repository, &manifest.config, None).await?;
        let content = self.store.content.read(&manifest.config.digest)?;
        let invalid =
            |reason| RegistryError::Invalid { url: manifest.config.digest.clone(), reason };
        let config: ConfigFile =
            serde_json::from_slice(&content).map_err(|error| invalid(error.to_string()))?;
        let host = Platform::host();
        let other = |field: &str, ours: &str| !field.is_empty() && field != ours;
        match other(&config.architecture, &host.architecture) || other(&config.os, &host.os) {
            true => Err(no_platform()),
            false => Ok(config),
        }
    }

    /// Layers are unpacked in order while the next ones are still on their way.
    async fn layers(
        &self,
        repository: &Arc<Repository>,
        described: &[Descriptor],
        layers: &[LayerBlob],
        arrival: &Arc<Arrival>,
    ) -> Result<Stack, RegistryError> {
        let progress = self.request.progress.as_ref();
        for layer in described {
            Report::new(progress, layer).say(LayerState::Waiting, 0);
        }
        let downloads = stream::iter(described.iter().cloned().map(|layer| {
            let repository = repository.clone();
            async move { self.fetch(&repository, &layer, progress).await.map(|()| layer) }
        }));
        let mut arrived = std::pin::pin!(downloads.buffered(PARALLEL_LAYERS));
        let mut stack = Stack::default();
        let mut blobs = layers.iter().cloned();
        while let Some(layer) = arrived.try_next().await? {
            let blob = blobs.next().expect("there is one for each layer");
            let report = Report::new(progress, &layer);
            report.say(LayerState::Unpacking, layer.size);
            let (store, arrival) = (self.store.clone(), arrival.clone());
            stack = blocking(move || {
                let _unpacking = arrival;
                let digest = blob.digest.clone();
                store
                    .unpack_onto(&mut stack, &blob)
                    .map_err(|error| RegistryError::Layer { digest, reason: error.to_string() })?;
                Ok(stack)
            })
            .await?;
            report.say(LayerState::Complete, layer.size);
        }
        Ok(stack)
    }

    /// Brings a blob into the content store, unless it is there.
    async fn fetch(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        progress: Option<&UnboundedSender<LayerProgress>>,
    ) -> Result<(), RegistryError> {
        let report = Report::new(progress, blob);
        let _only_one = self.store.content.lock(&blob.digest).await;
        if self.store.content.has(&blob.digest) {
            report.say(LayerState::Exists, blob.size);
            return Ok(());
        }
        let mut ingest = self.store.content.ingest(&blob.digest)?;
        let mut fruitless = 0;
        loop {
            let before = ingest.received;
            match receive(repository, &mut ingest, blob, &report).await {
                Ok(()) => break,
                Err(error) if error.is_transient() => {
                    fruitless = if ingest.received > before { 0 } else { fruitless + 1 };
                    if fruitless == FRUITLESS_TRIES {
                        return Err(error);
                    }
                    tracing::debug!(digest = blob.digest, %error, "resuming a download");
                    tokio::time::sleep(std::time::Duration::from_millis(200 << fruitless)).await;
                }
                Err(error) => return Err(error),
            }
        }
        match ingest.finish()? {
            true => Ok(()),
            false => Err(RegistryError::Mismatch { digest: blob.digest.clone() }),
        }
    }
}

/// Receives what is missing of a blob.
async fn receive(
    repository: &Repository,
    ingest: &mut crate::image::content::Ingest,
    blob: &Descriptor,
    report: &Report<'_>,
) -> Result<(), RegistryError> {
    if blob.size > 0 && ingest.received == blob.size {
        return Ok(());
    }
    let url = repository.url(&format!("blobs/{}", blob.digest));
    let broken = |reason: String| RegistryError::Broken { url: url.clone(), reason };
    let (resumed, response) = repository.blob(&blob.digest, ingest.received).await?;
    if !resumed {
        ingest.restart()?;
    }
    let mut body = response.into_body();
    let mut told = ingest.received;
    report.say(LayerState::Downloading, told);
    while let Some(bytes) = next_chunk(&mut body).await.map_err(|e| broken(e.to_string()))? {
        ingest.write(&bytes)?;
        if blob.size > 0 && ingest.received > blob.size {
            ingest.restart()?;
            let reason = "more bytes came than the manifest announces".to_owned();
            return Err(RegistryError::Invalid { url, reason });
        }
        if ingest.received - told >= PROGRESS_STEP {
            told = ingest.received;
            report.say(LayerState::Downloading, told);
        }
    }
    match ingest.received < blob.size {
        true => Err(broken(format!("{} of {} bytes came", ingest.received, blob.size))),
        false => Ok(()),
    }
}

/// Tells whoever listens how far one blob is.
pub(super) struct Report<'a> {
    listener: Option<&'a UnboundedSender<LayerProgress>>,
    blob: &'a Descriptor,
}

impl<'a> Report<'a> {
    pub fn new(listener: Option<&'a UnboundedSender<LayerProgress>>, blob: &'a Descriptor) -> Self {
        Report { listener, blob }
    }

    pub fn say(&self, state: LayerState, done: u64) {
        let Some(listener) = self.listener else { return };
        let (digest, total) = (self.blob.digest.clone(), self.blob.size);
        // A listener that has gone is no reason to stop.
        let _ = listener.send(LayerProgress { digest, state, done, total });
    }
}

fn pair(
    manifest: &Manifest,
    config: &ConfigFile,
    document: &Document,
) -> Result<Vec<LayerBlob>, RegistryError> {
    let diff_ids = &config.rootfs.diff_ids;
    let odd = diff_ids.iter().find(|id| !crate::image::reference::is_digest(id));
    let invalid = |reason| RegistryError::Invalid { url: document.digest.clone(), reason };
    if let Some(odd) = odd {
        return Err(invalid(format!("{odd:?} is not a sha256 digest")));
    }
    if diff_ids.len() != manifest.layers.len() {
        let (layers, ids) = (manifest.layers.len(), diff_ids.len());
        return Err(invalid(format!("it has {layers} layers but its config names {ids}")));
    }
    let pairs = manifest.layers.iter().zip(diff_ids);
    let blob = |(layer, diff_id): (&Descriptor, &String)| LayerBlob {
        digest: layer.digest.clone(),
        diff_id: diff_id.clone(),
    };
    Ok(pairs.map(blob).collect())
}

fn parse<T: DeserializeOwned>(document: &Document) -> Result<T, RegistryError> {
    serde_json::from_slice(&document.content).map_err(|error| RegistryError::Invalid {
        url: document.digest.clone(),
        reason: error.to_string(),
    })
}

fn no_platform() -> RegistryError {
    RegistryError::Platform { platform: Platform::host().to_string() }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RegistryError> + Send + 'static,
) -> Result<T, RegistryError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(crate::error::Error::Shutdown.into()),
    }
}
