//! The image store: names, records and layers under one directory.
//!
//! Consumes archives, pulls, builds and removals, decides what is new and what nobody uses any
//! more, emits [`ImageRecord`]s.
//! Layout: `images.json` (the records; replaced whole, by rename), `builds.json` ([`BuildCache`]), `content/` (see
//! [`ContentStore`]), `layers/<name>/` (unpacked, shared), `layers/tmp-*` (being unpacked).
//! Counterpart: containerd's metadata database and garbage collector.
//! Invariant: `images.json` names only layers and blobs that are complete; anything it does not
//! name, nor a container uses, is garbage and may be collected while nothing is on its way in.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use serde::{Deserialize, Serialize};

use super::{
    archive::{Archive, Candidate, LayerSource},
    build::cache::BuildCache,
    config::{ConfigFile, Descriptor, ImageConfig, Manifest, media_type},
    content::{ContentStore, KeyedLocks, sweep},
    layer::{self, LayerError, Workspace, chain_id},
    reference::{Reference, Version, is_hex},
};
use crate::{
    cri::Image,
    error::{Error, Result},
    files,
};

/// Layer names are this much of a chain id: short enough for 127 of them in one page of mount data.
const LAYER_NAME_DIGITS: usize = 24;

/// Everything known about an image; enough to make a container from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// Digest of the config.
    pub id: String,
    /// Full names with a tag.
    pub tags: BTreeSet<String>,
    /// Full names by digest.
    pub digests: BTreeSet<String>,
    /// Directory names below `layers`, topmost first as overlayfs wants them.
    pub layers: Vec<String>,
    /// Digest of the manifest, by which the image can be saved and pushed.
    #[serde(default)]
    pub manifest: Option<String>,
    /// Content blobs that go when the image goes.
    pub blobs: Vec<String>,
    pub size: u64,
    pub config: ImageConfig,
}

pub(crate) struct ImageStore {
    root: PathBuf,
    pub(super) content: ContentStore,
    /// What steps of builds made.
    pub builds: BuildCache,
    records: Mutex<BTreeMap<String, ImageRecord>>,
    /// Read while blobs and layers come in, written while unused ones are deleted.
    arrivals: Arc<tokio::sync::RwLock<()>>,
    /// One writer per layer.
    unpacking: KeyedLocks,
    /// Bytes and inodes of layers, which never change: each is measured once.
    measured: Mutex<HashMap<String, (u64, u64)>>,
}

/// Keeps what is on its way in from being collected. Work that goes on when its asker has gone holds
/// one of its own.
pub(crate) type Arrival = tokio::sync::OwnedRwLockReadGuard<()>;

/// A layer whose blob is in the content store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerBlob {
    /// Of the bytes as stored.
    pub digest: String,
    /// Of the uncompressed tar.
    pub diff_id: String,
}

/// An image whose blobs are all in the content store.
pub(super) struct Incoming {
    pub names: BTreeSet<Reference>,
    /// The digest it is known by: of its index if it has one.
    pub target: Option<String>,
    pub manifest: String,
    /// Digest of the config.
    pub config: String,
    pub config_file: ConfigFile,
    pub layers: Vec<LayerBlob>,
    pub stack: Stack,
}

/// Unpacked layers, one upon the other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stack {
    /// Directory names, topmost first.
    pub names: Vec<String>,
    chain: Option<String>,
}

// === impl ImageStore ===

impl ImageStore {
    pub fn open(root: &Path) -> Result<Self> {
        files::create_private_dir(&root.join("layers"))?;
        let records: Vec<ImageRecord> =
            files::read_json(&root.join("images.json"))?.unwrap_or_default();
        let records = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        Ok(ImageStore {
            root: root.to_owned(),
            content: ContentStore::open(root.join("content"))?,
            builds: BuildCache::open(root.join("builds.json"))?,
            records: Mutex::new(records),
            arrivals: Arc::default(),
            unpacking: KeyedLocks::default(),
            measured: Mutex::default(),
        })
    }

    /// Announces that something comes in.
    pub async fn arrival(&self) -> Arc<Arrival> {
        Arc::new(self.arrivals.clone().read_owned().await)
    }

    /// Keeps what is read from being collected, for threads that may wait.
    pub fn blocking_arrival(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.arrivals.blocking_read()
    }

    pub fn config_document(&self, record: &ImageRecord) -> Result<serde_json::Value> {
        let content = self.content.read(&record.id)?;
        serde_json::from_slice(&content)
            .map_err(|source| Error::State { path: self.content.path(&record.id), source })
    }

    pub fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub fn list(&self) -> Vec<ImageRecord> {
        self.records().values().cloned().collect()
    }

    /// Bytes and inodes all layers take together.
    pub fn usage(&self) -> (u64, u64) {
        let layers: BTreeSet<String> =
            self.list().into_iter().flat_map(|record| record.layers).collect();
        let mut measured = self.measured.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        measured.retain(|name, _| layers.contains(name));
        layers.into_iter().fold((0, 0), |total, name| {
            let dir = self.layers_dir().join(&name);
            let one = measured.entry(name).or_insert_with(|| files::disk_usage(&dir));
            (total.0 + one.0, total.1 + one.1)
        })
    }

    /// By name, by digest, by id, or by an unambiguous beginning of an id.
    pub fn find(&self, reference: &str) -> Option<ImageRecord> {
        let records = self.records();
        by_name(&records, reference).or_else(|| by_id(&records, reference)).cloned()
    }

    /// Imports every image in the archive, or none. Layers of a failed import wait for the next
    /// [`Self::collect`].
    pub fn load(&self, archive: &Path) -> Result<Vec<ImageRecord>> {
        let _arrival = self.blocking_arrival();
        let archive = Archive::open(archive, &self.layers_dir())?;
        let mut incoming = Vec::new();
        for candidate in archive.candidates()? {
            incoming.push(self.import(&archive, candidate)?);
        }
        self.adopt(incoming)
    }

    /// Unpacks a layer on top of others, unless it is there already.
    pub(super) fn unpack_onto(
        &self,
        stack: &mut Stack,
        blob: &LayerBlob,
    ) -> Result<(), LayerError> {
        let chain = chain_id(stack.chain.as_deref(), &blob.diff_id);
        let name = layer_name(&chain);
        let lock = self.unpacking.of(&name);
        let _only_one = lock.blocking_lock();
        if !self.layers_dir().join(&name).exists() {
            self.unpack(&name, &stack.names, blob)?;
        }
        stack.names.insert(0, name);
        stack.chain = Some(chain);
        Ok(())
    }

    /// Makes complete images known, all at once.
    pub(super) fn adopt(&self, incoming: Vec<Incoming>) -> Result<Vec<ImageRecord>> {
        let made = incoming.into_iter().map(|one| self.record_of(one));
        let made = made.collect::<Result<Vec<_>>>()?;
        // Layers must be on disk before the record that promises them.
        files::sync_filesystem(&self.root)?;
        let mut records = self.records();
        let mut next = records.clone();
        let ids: BTreeSet<String> = made.iter().map(|record| record.id.clone()).collect();
        made.into_iter().for_each(|record| adopt(&mut next, record));
        let adopted = ids.iter().filter_map(|id| next.get(id).cloned()).collect();
        self.commit(&mut records, next)?;
        Ok(adopted)
    }

    /// Gives an image another name.
    pub fn tag(&self, image: &str, name: &Reference) -> Result<()> {
        let mut records = self.records();
        let found = by_name(&records, image).or_else(|| by_id(&records, image));
        let id = found.ok_or_else(|| Error::ImageNotFound(image.to_owned()))?.id.clone();
        let mut next = records.clone();
        let full = name.to_string();
        next.values_mut().for_each(|record| record.tags.retain(|tag| *tag != full));
        next.get_mut(&id).expect("the id was just found").tags.insert(full);
        self.commit(&mut records, next)
    }

    /// Forgets a name, or for an id the whole image. Its layers wait for the next
    /// [`Self::collect`].
    pub fn remove(&self, reference: &str) -> Result<()> {
        let mut records = self.records();
        let named = by_name(&records, reference).map(|record| record.id.clone());
        let whole = by_id(&records, reference).map(|record| record.id.clone());
        let Some(id) = named.clone().or(whole) else {
            return Ok(());
        };
        let mut next = records.clone();
        let record = next.get_mut(&id).expect("the id was just found");
        if named.is_some() {
            let full = Reference::parse(reference)?.to_string();
            record.tags.remove(&full);
            record.digests.remove(&full);
        }
        let by_tag = named.is_some() && !reference.contains('@');
        let nameless = record.tags.is_empty() && (by_tag || record.digests.is_empty());
        if named.is_none() || nameless {
            next.remove(&id);
        }
        self.commit(&mut records, next)
    }

    /// Deletes layers, blobs and scratch nobody names. Skipped while something comes in, whose
    /// end collects.
    pub fn collect(&self, in_use: &HashSet<String>) {
        let Ok(_nothing_comes_in) = self.arrivals.try_write() else {
            return;
        };
        let records = self.records();
        let layers: HashSet<&str> = records
            .values()
            .flat_map(|record| record.layers.iter())
            .chain(in_use)
            .map(String::as_str)
            .collect();
        let built = self.builds.blobs();
        let blobs: HashSet<&str> = records
            .values()
            .flat_map(|r| r.blobs.iter())
            .chain(&built)
            .filter_map(|blob| blob.strip_prefix("sha256:"))
            .collect();
        sweep(&self.layers_dir(), |name, _| layers.contains(name));
        self.content.sweep(&blobs);
    }

    fn import(&self, archive: &Archive, candidate: Candidate) -> Result<Incoming> {
        let mut layers = Vec::new();
        let mut stack = Stack::default();
        for source in &candidate.layers {
            let blob = self.import_blob(archive, source)?;
            self.unpack_onto(&mut stack, &blob).map_err(|error| match error {
                LayerError::Mismatch(digest) => archive.mismatch(&digest),
                LayerError::Content { .. } => archive.bad(error.to_string()),
                LayerError::Machine(source) => {
                    Error::Io { what: "unpack a layer into", path: self.layers_dir(), source }
                }
            })?;
            layers.push(blob);
        }
        let config = self.content.put(&candidate.config.content)?;
        let manifest = match &candidate.manifest {
            Some(manifest) => self.content.put(&manifest.content)?,
            None => self.put_manifest(&config, &layers)?,
        };
        Ok(Incoming {
            names: candidate.names,
            target: candidate.target,
            manifest,
            config,
            config_file: candidate.config_file,
            layers,
            stack,
        })
    }

    /// A blob that is here already, from whatever image, is not read again.
    fn import_blob(&self, archive: &Archive, source: &LayerSource) -> Result<LayerBlob> {
        let diff_id = source.diff_id.clone();
        let known = source.digest.as_ref().unwrap_or(&diff_id);
        if self.content.has(known) {
            return Ok(LayerBlob { digest: known.clone(), diff_id });
        }
        let digest = self.content.put_stream(archive.layer(source)?)?;
        match source.digest.as_ref().filter(|wanted| **wanted != digest) {
            Some(wanted) => Err(archive.mismatch(wanted)),
            None => Ok(LayerBlob { digest, diff_id }),
        }
    }

    /// Writes the manifest of an image that came without one.
    pub(super) fn put_manifest(&self, config: &str, layers: &[LayerBlob]) -> Result<String> {
        let describe = |kind: String, digest: &str| -> Result<Descriptor> {
            let size = self.content.size(digest)?;
            Ok(Descriptor {
                media_type: kind,
                digest: digest.to_owned(),
                size,
                ..Default::default()
            })
        };
        let described = layers.iter().map(|layer| {
            let suffix = if layer.digest == layer.diff_id { "" } else { "+gzip" };
            describe(format!("{}{suffix}", media_type::OCI_LAYER), &layer.digest)
        });
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            config: describe(media_type::OCI_CONFIG.to_owned(), config)?,
            layers: described.collect::<Result<_>>()?,
        };
        self.content.put(&serde_json::to_vec(&manifest).expect("a manifest is plain data"))
    }

    fn unpack(&self, name: &str, lowers: &[String], blob: &LayerBlob) -> Result<(), LayerError> {
        let dir = self.layers_dir();
        let scratch = format!("tmp-{name}");
        let _ = fs::remove_dir_all(dir.join(&scratch));
        let workspace = Workspace { layers_dir: &dir, lowers, scratch: &scratch };
        let stored = fs::File::open(self.content.path(&blob.digest))?;
        layer::unpack(&workspace, stored, &blob.diff_id)?;
        fs::rename(dir.join(&scratch).join("fs"), dir.join(name))?;
        Ok(fs::remove_dir_all(dir.join(&scratch))?)
    }

    fn record_of(&self, new: Incoming) -> Result<ImageRecord> {
        let mut blobs = vec![new.manifest.clone(), new.config.clone()];
        let index = new.target.iter().filter(|target| self.content.has(target));
        blobs.extend(index.filter(|target| **target != new.manifest).cloned());
        blobs.extend(new.layers.into_iter().map(|layer| layer.digest));
        let sizes = blobs.iter().map(|blob| self.content.size(blob));
        let named = |digest: &String| -> BTreeSet<String> {
            new.names.iter().map(|name| format!("{}@{digest}", name.name)).collect()
        };
        let tags = new.names.iter().filter(|name| matches!(name.version, Version::Tag(_)));
        Ok(ImageRecord {
            tags: tags.map(Reference::to_string).collect(),
            digests: new.target.as_ref().map(named).unwrap_or_default(),
            size: sizes.sum::<Result<u64>>()?,
            id: new.config,
            layers: new.stack.names,
            manifest: Some(new.manifest),
            blobs,
            config: new.config_file.config.unwrap_or_default(),
        })
    }

    fn commit(
        &self,
        records: &mut BTreeMap<String, ImageRecord>,
        next: BTreeMap<String, ImageRecord>,
    ) -> Result<()> {
        let list: Vec<&ImageRecord> = next.values().collect();
        files::write_json(&self.root.join("images.json"), &list)?;
        *records = next;
        Ok(())
    }

    fn records(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ImageRecord>> {
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Stack {
    /// Names all the layers together; empty for none.
    pub fn chain(&self) -> &str {
        self.chain.as_deref().unwrap_or_default()
    }
}

impl ImageRecord {
    /// What `containerStatuses[].imageID` shows.
    pub fn image_ref(&self) -> String {
        self.digests.first().unwrap_or(&self.id).clone()
    }

    pub fn to_image(&self) -> Image {
        let user = self.config.user.clone().unwrap_or_default();
        let name = user.split(':').next().unwrap_or_default();
        let uid = name.parse::<i64>().ok();
        Image {
            id: self.id.clone(),
            repo_tags: self.tags.iter().cloned().collect(),
            repo_digests: self.digests.iter().cloned().collect(),
            size: self.size,
            uid,
            username: if uid.is_none() { name.to_owned() } else { String::new() },
            pinned: false,
            labels: self.config.labels.clone().unwrap_or_default(),
        }
    }
}

/// A tag moves to the image that was loaded last; one image loaded twice keeps all its names.
fn adopt(records: &mut BTreeMap<String, ImageRecord>, mut new: ImageRecord) {
    for record in records.values_mut().filter(|record| record.id != new.id) {
        record.tags.retain(|tag| !new.tags.contains(tag));
    }
    if let Some(old) = records.remove(&new.id) {
        new.tags.extend(old.tags);
        new.digests.extend(old.digests);
        new.blobs.extend(
            old.blobs.into_iter().filter(|blob| !new.blobs.contains(blob)).collect::<Vec<_>>(),
        );
    }
    records.insert(new.id.clone(), new);
}

fn by_name<'a>(
    records: &'a BTreeMap<String, ImageRecord>,
    reference: &str,
) -> Option<&'a ImageRecord> {
    let full = Reference::parse(reference).ok()?.to_string();
    records.values().find(|record| record.tags.contains(&full) || record.digests.contains(&full))
}

fn by_id<'a>(
    records: &'a BTreeMap<String, ImageRecord>,
    reference: &str,
) -> Option<&'a ImageRecord> {
    let prefix = reference.strip_prefix("sha256:").unwrap_or(reference);
    let matches =
        |record: &&ImageRecord| record.id.trim_start_matches("sha256:").starts_with(prefix);
    let mut found = records.values().filter(matches);
    match (is_hex(prefix), found.next(), found.next()) {
        (true, Some(only), None) => Some(only),
        _ => None,
    }
}

fn layer_name(chain_id: &str) -> String {
    chain_id.trim_start_matches("sha256:")[..LAYER_NAME_DIGITS].to_owned()
}
