//! The image store: names, records and layers under one directory.
//!
//! Consumes archives and removals, decides what is new and what nobody uses any more, emits
//! [`ImageRecord`]s.
//! Layout: `images.json` (the records; replaced whole, by rename), `content/blobs/sha256/`
//! (manifests, configs), `layers/<name>/` (unpacked, shared), `layers/tmp-*` (being unpacked).
//! Counterpart: containerd's metadata database and garbage collector.
//! Invariant: `images.json` names only layers that are complete; anything it does not name, nor a
//! container uses, is garbage and may be collected at any time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs,
    path::{Path, PathBuf},
    sync::Mutex,
};

use serde::{Deserialize, Serialize};

use super::{
    archive::{Archive, Blob, Candidate, LayerSource},
    config::ImageConfig,
    layer::{self, Expected, LayerError, Workspace, chain_id},
    reference::{Reference, Version, is_hex},
};
use crate::{
    cri::Image,
    error::{Error, IoContext, Result},
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
    /// Content blobs that go when the image goes.
    pub blobs: Vec<String>,
    pub size: u64,
    pub config: ImageConfig,
}

pub(crate) struct ImageStore {
    root: PathBuf,
    records: Mutex<BTreeMap<String, ImageRecord>>,
    /// Held while layers are added or collected.
    layers_lock: Mutex<()>,
    /// Bytes and inodes of layers, which never change: each is measured once.
    measured: Mutex<HashMap<String, (u64, u64)>>,
}

// === impl ImageStore ===

impl ImageStore {
    pub fn open(root: &Path) -> Result<Self> {
        for dir in ["content/blobs/sha256", "layers"] {
            files::create_private_dir(&root.join(dir))?;
        }
        let records: Vec<ImageRecord> =
            files::read_json(&root.join("images.json"))?.unwrap_or_default();
        let records = records.into_iter().map(|record| (record.id.clone(), record)).collect();
        Ok(ImageStore {
            root: root.to_owned(),
            records: Mutex::new(records),
            layers_lock: Mutex::default(),
            measured: Mutex::default(),
        })
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
        let _one_at_a_time =
            self.layers_lock.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        self.import(archive)
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
        if named.is_none() || record.tags.is_empty() {
            next.remove(&id);
        }
        self.commit(&mut records, next)
    }

    /// Deletes layers, blobs and scratch nobody names. Skipped while a load is under way, which
    /// collects at its end.
    pub fn collect(&self, in_use: &HashSet<String>) {
        let Ok(_lock) = self.layers_lock.try_lock() else {
            return;
        };
        let records = self.records();
        let layers: HashSet<&str> = records
            .values()
            .flat_map(|record| record.layers.iter())
            .chain(in_use)
            .map(String::as_str)
            .collect();
        let blobs: HashSet<&str> = records
            .values()
            .flat_map(|r| r.blobs.iter())
            .filter_map(|blob| blob.strip_prefix("sha256:"))
            .collect();
        sweep(&self.layers_dir(), |name| layers.contains(name));
        sweep(&self.blobs_dir(), |name| blobs.contains(name));
    }

    fn import(&self, path: &Path) -> Result<Vec<ImageRecord>> {
        let archive = Archive::open(path, &self.layers_dir())?;
        let mut imported = Vec::new();
        for candidate in archive.candidates()? {
            imported.push(self.import_one(&archive, candidate)?);
        }
        // Layers must be on disk before the record that promises them.
        files::sync_filesystem(&self.root)?;
        let mut records = self.records();
        let mut next = records.clone();
        let ids: BTreeSet<String> = imported.iter().map(|record| record.id.clone()).collect();
        imported.into_iter().for_each(|record| adopt(&mut next, record));
        let loaded = ids.iter().filter_map(|id| next.get(id).cloned()).collect();
        self.commit(&mut records, next)?;
        Ok(loaded)
    }

    fn import_one(&self, archive: &Archive, candidate: Candidate) -> Result<ImageRecord> {
        let mut layers: Vec<String> = Vec::new();
        let mut chain: Option<String> = None;
        for source in &candidate.layers {
            let id = chain_id(chain.as_deref(), &source.diff_id);
            let name = layer_name(&id);
            self.import_layer(archive, source, &name, &layers)?;
            layers.insert(0, name);
            chain = Some(id);
        }
        let stored = candidate.manifest.iter().chain([&candidate.config]);
        let blobs = stored.map(|blob| self.put_blob(blob)).collect::<Result<Vec<_>>>()?;
        Ok(record_of(candidate, layers, blobs))
    }

    fn import_layer(
        &self,
        archive: &Archive,
        source: &LayerSource,
        name: &str,
        lowers: &[String],
    ) -> Result<()> {
        let dir = self.layers_dir();
        if dir.join(name).exists() {
            return Ok(());
        }
        let scratch = format!("tmp-{name}");
        let _ = fs::remove_dir_all(dir.join(&scratch));
        let workspace = Workspace { layers_dir: &dir, lowers, scratch: &scratch };
        let expected = Expected { digest: source.digest.as_deref(), diff_id: &source.diff_id };
        layer::unpack(&workspace, archive.layer(source)?, &expected).map_err(
            |error| match error {
                LayerError::Mismatch(digest) => archive.mismatch(&digest),
                LayerError::Content { .. } => archive.bad(error.to_string()),
                LayerError::Machine(source) => {
                    Error::Io { what: "unpack a layer into", path: dir.clone(), source }
                }
            },
        )?;
        fs::rename(dir.join(&scratch).join("fs"), dir.join(name))
            .at("move a layer to", dir.join(name))?;
        fs::remove_dir_all(dir.join(&scratch)).at("remove", dir.join(&scratch))
    }

    fn put_blob(&self, blob: &Blob) -> Result<String> {
        let name = blob.digest.trim_start_matches("sha256:");
        files::write_atomic(&self.blobs_dir().join(name), &blob.content)?;
        Ok(blob.digest.clone())
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

    fn blobs_dir(&self) -> PathBuf {
        self.root.join("content/blobs/sha256")
    }

    fn records(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, ImageRecord>> {
        self.records.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
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

fn record_of(candidate: Candidate, layers: Vec<String>, blobs: Vec<String>) -> ImageRecord {
    let documents = candidate.manifest.iter().chain([&candidate.config]);
    let size = documents.map(|blob| blob.content.len() as u64).sum::<u64>()
        + candidate.layers.iter().map(|layer| layer.size).sum::<u64>();
    let by_digest = |digest: &String| -> BTreeSet<String> {
        candidate.names.iter().map(|name| format!("{}@{digest}", name.name)).collect()
    };
    let tags = candidate.names.iter().filter(|name| matches!(name.version, Version::Tag(_)));
    ImageRecord {
        tags: tags.map(Reference::to_string).collect(),
        digests: candidate.target.as_ref().map(by_digest).unwrap_or_default(),
        id: candidate.config.digest,
        layers,
        blobs,
        size,
        config: candidate.config_file.config.unwrap_or_default(),
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

/// Deletes the entries of `dir` that are not kept. What cannot be deleted now is tried again next
/// time.
fn sweep(dir: &Path, keep: impl Fn(&str) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten().filter(|entry| !entry.file_name().to_str().is_some_and(&keep)) {
        let path = entry.path();
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove unused image content");
        }
    }
}
