//! Image archives: finds the images a tar file holds, without unpacking it.
//!
//! Consumes an OCI layout or `docker save` tar (plain, gzip or zstd), decides which manifest fits
//! this platform, emits [`Candidate`]s whose small blobs are read and verified and whose layers are
//! positions in the file.
//! Counterpart: containerd's `images/archive` importer.
//! Invariant: a blob named by digest is never handed out unverified; layers are verified where they
//! are unpacked.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    path::{Component, Path, PathBuf},
};

use serde::de::DeserializeOwned;

use super::{
    config::{
        ConfigFile, Descriptor, DockerManifest, Index, Manifest, Platform, for_this_platform,
    },
    content::digest_of,
    reference::{Reference, is_digest},
};
use crate::error::{Error, IoContext, Result};

/// Documents larger than this are not documents.
const MAX_DOCUMENT: u64 = 8 << 20;
const MAX_INDEX_DEPTH: u32 = 4;

pub(super) struct Archive {
    path: PathBuf,
    file: File,
    entries: HashMap<String, Entry>,
}

enum Entry {
    Data {
        offset: u64,
        size: u64,
    },
    /// `docker save` of old writes a layer shared by two images as a link.
    Link(String),
}

/// An image that could be imported.
#[derive(Debug)]
pub(super) struct Candidate {
    pub names: BTreeSet<Reference>,
    /// The digest the archive knows the image by: of its index if it has one. `None` from `docker
    /// save`.
    pub target: Option<String>,
    pub manifest: Option<Blob>,
    pub config: Blob,
    pub config_file: ConfigFile,
    pub layers: Vec<LayerSource>,
}

#[derive(Debug)]
pub(super) struct Blob {
    pub digest: String,
    pub content: Vec<u8>,
}

/// Where a layer lies in the archive, and what its bytes must hash to.
#[derive(Debug, Clone)]
pub(super) struct LayerSource {
    pub offset: u64,
    pub size: u64,
    /// Of the bytes as stored; `docker save` does not say.
    pub digest: Option<String>,
    /// Of the uncompressed tar.
    pub diff_id: String,
}

// === impl Archive ===

impl Archive {
    /// Indexes the archive. A compressed one is first written out flat to `scratch`.
    pub fn open(path: &Path, scratch: &Path) -> Result<Self> {
        let mut file = File::open(path).at("open image archive", path)?;
        let mut magic = [0; 4];
        let read = file.read(&mut magic).at("read image archive", path)?;
        file.rewind().at("read image archive", path)?;
        if Compression::detect(&magic[..read]) != Compression::None {
            file = flatten(file, path, scratch)?;
        }
        let mut archive = Archive { path: path.to_owned(), file, entries: HashMap::new() };
        archive.entries = archive.scan()?;
        Ok(archive)
    }

    pub fn candidates(&self) -> Result<Vec<Candidate>> {
        let mut candidates = match self.entries.contains_key("index.json") {
            true => self.oci_candidates()?,
            false => Vec::new(),
        };
        if self.entries.contains_key("manifest.json") {
            self.add_docker_candidates(&mut candidates)?;
        }
        if candidates.is_empty() {
            return Err(
                self.bad("it holds neither an index.json nor a manifest.json with an image")
            );
        }
        Ok(candidates)
    }

    /// The stored bytes of a layer. The position is shared: read one layer to its end before asking
    /// for the next.
    pub fn layer(&self, source: &LayerSource) -> Result<io::Take<File>> {
        let mut file = self.file.try_clone().at("reopen image archive", &self.path)?;
        file.seek(SeekFrom::Start(source.offset)).at("seek in image archive", &self.path)?;
        Ok(file.take(source.size))
    }

    pub fn bad(&self, reason: impl Into<String>) -> Error {
        Error::BadArchive { archive: self.path.clone(), reason: reason.into() }
    }

    pub fn mismatch(&self, digest: &str) -> Error {
        Error::DigestMismatch { archive: self.path.clone(), digest: digest.to_owned() }
    }

    fn scan(&self) -> Result<HashMap<String, Entry>> {
        let unreadable = |error: io::Error| self.bad(format!("not a readable tar file: {error}"));
        let mut tar = tar::Archive::new(&self.file);
        let mut entries = HashMap::new();
        for entry in tar.entries_with_seek().map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let Some(name) = clean(&entry.path().map_err(unreadable)?) else {
                continue;
            };
            let kind = entry.header().entry_type();
            if kind.is_file() {
                entries.insert(
                    name,
                    Entry::Data { offset: entry.raw_file_position(), size: entry.size() },
                );
            } else if let (true, Some(target)) =
                (kind.is_symlink() || kind.is_hard_link(), entry.link_name().map_err(unreadable)?)
            {
                let base = if kind.is_symlink() { Path::new(&name).parent() } else { None };
                entries.extend(
                    clean(&base.unwrap_or(Path::new("")).join(target))
                        .map(|t| (name, Entry::Link(t))),
                );
            }
        }
        Ok(entries)
    }

    // --- OCI layout ---

    fn oci_candidates(&self) -> Result<Vec<Candidate>> {
        let index: Index = self.document(&self.read_named("index.json")?, "index.json")?;
        let mut candidates = Vec::new();
        for descriptor in &index.manifests {
            if let Some(manifest) = self.resolve(descriptor, 0)? {
                candidates.push(self.oci_candidate(descriptor, &manifest)?);
            }
        }
        if candidates.is_empty() && !index.manifests.is_empty() {
            return Err(self.no_platform());
        }
        Ok(candidates)
    }

    /// Follows indexes down to the manifest for this platform; `None` if the descriptor is for
    /// another.
    fn resolve(&self, descriptor: &Descriptor, depth: u32) -> Result<Option<Descriptor>> {
        let Some(descriptor) = for_this_platform(std::slice::from_ref(descriptor)) else {
            return Ok(None);
        };
        if !descriptor.is_index() {
            return Ok(Some(descriptor.clone()));
        }
        if depth == MAX_INDEX_DEPTH {
            return Err(self.bad("its indexes are nested too deeply"));
        }
        let index: Index =
            self.document(&self.read_blob(&descriptor.digest)?, &descriptor.digest)?;
        match for_this_platform(&index.manifests) {
            Some(inner) => self.resolve(inner, depth + 1),
            None => Ok(None),
        }
    }

    fn oci_candidate(&self, top: &Descriptor, manifest: &Descriptor) -> Result<Candidate> {
        let content = self.read_blob(&manifest.digest)?;
        let parsed: Manifest = self.document(&content, &manifest.digest)?;
        let config =
            Blob { content: self.read_blob(&parsed.config.digest)?, digest: parsed.config.digest };
        let config_file = self.config_file(&config)?;
        let places = parsed.layers.iter().map(|layer| self.locate(&blob_path(&layer.digest)));
        let layers = self.pair_layers(places.collect::<Result<_>>()?, &config_file, |i| {
            Some(parsed.layers[i].digest.clone())
        })?;
        Ok(Candidate {
            names: names_of(top),
            target: Some(top.digest.clone()),
            manifest: Some(Blob { digest: manifest.digest.clone(), content }),
            config,
            config_file,
            layers,
        })
    }

    // --- docker save ---

    /// Adds the names `manifest.json` gives to images already found, and the images only it knows.
    fn add_docker_candidates(&self, candidates: &mut Vec<Candidate>) -> Result<()> {
        let manifests: Vec<DockerManifest> =
            self.document(&self.read_named("manifest.json")?, "manifest.json")?;
        for manifest in manifests {
            let content = self.read_named(&manifest.config)?;
            let config = Blob { digest: digest_of(&content), content };
            let names = self.docker_names(&manifest)?;
            match candidates.iter_mut().find(|candidate| candidate.config.digest == config.digest) {
                Some(known) => known.names.extend(names),
                None => candidates.push(self.docker_candidate(&manifest, config, names)?),
            }
        }
        Ok(())
    }

    fn docker_names(&self, manifest: &DockerManifest) -> Result<BTreeSet<Reference>> {
        manifest.repo_tags.iter().flatten().map(|tag| Reference::parse(tag)).collect()
    }

    fn docker_candidate(
        &self,
        manifest: &DockerManifest,
        config: Blob,
        names: BTreeSet<Reference>,
    ) -> Result<Candidate> {
        let config_file = self.config_file(&config)?;
        let places = manifest.layers.iter().map(|name| self.locate(name));
        let layers = self.pair_layers(places.collect::<Result<_>>()?, &config_file, |_| None)?;
        Ok(Candidate { names, target: None, manifest: None, config, config_file, layers })
    }

    // --- shared ---

    fn config_file(&self, config: &Blob) -> Result<ConfigFile> {
        let file: ConfigFile = self.document(&config.content, &config.digest)?;
        let host = Platform::host();
        let other = |field: &str, ours: &str| !field.is_empty() && field != ours;
        match other(&file.architecture, &host.architecture) || other(&file.os, &host.os) {
            true => Err(self.no_platform()),
            false => Ok(file),
        }
    }

    fn pair_layers(
        &self,
        places: Vec<(u64, u64)>,
        config: &ConfigFile,
        digest: impl Fn(usize) -> Option<String>,
    ) -> Result<Vec<LayerSource>> {
        let diff_ids = &config.rootfs.diff_ids;
        if places.len() != diff_ids.len() {
            let (layers, ids) = (places.len(), diff_ids.len());
            return Err(
                self.bad(format!("an image has {layers} layers but its config names {ids}"))
            );
        }
        if let Some(odd) = diff_ids.iter().find(|id| !is_digest(id)) {
            return Err(self.bad(format!("{odd:?} is not a sha256 digest")));
        }
        let pairs = places.into_iter().zip(diff_ids).enumerate();
        Ok(pairs
            .map(|(i, ((offset, size), diff_id))| LayerSource {
                offset,
                size,
                digest: digest(i),
                diff_id: diff_id.clone(),
            })
            .collect())
    }

    fn locate(&self, name: &str) -> Result<(u64, u64)> {
        let mut name = clean(Path::new(name)).unwrap_or_default();
        // A link may lead to a link, but not forever.
        for _ in 0..8 {
            match self.entries.get(&name) {
                Some(Entry::Data { offset, size }) => return Ok((*offset, *size)),
                Some(Entry::Link(target)) => name = target.clone(),
                None => break,
            }
        }
        Err(self.bad(format!("{name} is missing")))
    }

    fn read_named(&self, name: &str) -> Result<Vec<u8>> {
        let (offset, size) = self.locate(name)?;
        if size > MAX_DOCUMENT {
            return Err(self.bad(format!("{name} is too large to be a document")));
        }
        let mut content = vec![0; size as usize];
        std::os::unix::fs::FileExt::read_exact_at(&self.file, &mut content, offset)
            .map_err(|error| self.bad(format!("{name} is cut short: {error}")))?;
        Ok(content)
    }

    fn read_blob(&self, digest: &str) -> Result<Vec<u8>> {
        if !is_digest(digest) {
            return Err(self.bad(format!("{digest:?} is not a sha256 digest")));
        }
        let content = self.read_named(&blob_path(digest))?;
        match digest_of(&content) == digest {
            true => Ok(content),
            false => Err(self.mismatch(digest)),
        }
    }

    fn document<T: DeserializeOwned>(&self, content: &[u8], name: &str) -> Result<T> {
        serde_json::from_slice(content).map_err(|error| self.bad(format!("{name}: {error}")))
    }

    fn no_platform(&self) -> Error {
        let reference = self.path.display().to_string();
        Error::NoMatchingPlatform { reference, platform: Platform::host().to_string() }
    }
}

// === Compression ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
}

impl Compression {
    /// By magic number: media types in the wild are not to be trusted.
    pub fn detect(magic: &[u8]) -> Self {
        match magic {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }

    pub fn decoder<'a>(self, input: impl io::BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Compression::None => Box::new(input),
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
            Compression::Zstd => Box::new(zstd::Decoder::with_buffer(input)?),
        })
    }
}

/// Wraps `input` in the decoder its first bytes ask for.
pub(super) fn decompress<'a>(mut input: impl io::BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let compression = Compression::detect(input.fill_buf()?);
    compression.decoder(input)
}

fn flatten(file: File, path: &Path, scratch: &Path) -> Result<File> {
    let mut flat = tempfile_in(scratch)?;
    let unreadable = |error: io::Error| Error::BadArchive {
        archive: path.to_owned(),
        reason: format!("cannot be decompressed: {error}"),
    };
    let mut decoder = decompress(io::BufReader::new(file)).map_err(unreadable)?;
    io::copy(&mut decoder, &mut flat).map_err(unreadable)?;
    flat.rewind().at("rewind", scratch)?;
    Ok(flat)
}

/// A file without a name: gone with its last descriptor, whatever happens.
fn tempfile_in(dir: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(nix::libc::O_TMPFILE)
        .mode(0o600)
        .open(dir)
        .at("create a temporary file in", dir)
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// A full name comes from containerd's annotation; OCI's own may be a full name or a mere tag.
fn names_of(descriptor: &Descriptor) -> BTreeSet<Reference> {
    let note = |key: &str| descriptor.annotations.get(key);
    let name = note("io.containerd.image.name").or_else(|| {
        note("org.opencontainers.image.ref.name").filter(|name| name.contains([':', '/']))
    });
    name.and_then(|name| Reference::parse(name).ok()).into_iter().collect()
}

/// `./a/b` -> `a/b`; `None` for the root itself and for paths that climb out.
fn clean(path: &Path) -> Option<String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::ParentDir => drop(parts.pop()?),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}
