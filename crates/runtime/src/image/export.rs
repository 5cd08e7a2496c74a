//! Writes images to one archive that every tool reads.
//!
//! Consumes image names, emits a tar that is an OCI layout and, by its `manifest.json`, what
//! `docker load` knows. Counterpart: containerd's `images/archive` exporter.
//! Invariant: blobs go out as they are stored, so what is loaded elsewhere has the same digests.

use std::{collections::BTreeSet, io, io::Write};

use super::{
    ImageStore, Reference,
    config::{Descriptor, DockerManifest, Index, Manifest, media_type},
    reference::Version,
    store::ImageRecord,
};
use crate::error::{Error, IoContext, Result};

struct Export<'a, W: Write> {
    store: &'a ImageStore,
    tar: tar::Builder<W>,
    written: BTreeSet<String>,
    index: Vec<Descriptor>,
    docker: Vec<DockerManifest>,
}

impl ImageStore {
    /// Writes the named images; a name that is an id saves the image under all its names.
    pub fn save(&self, images: &[String], output: impl Write) -> Result<()> {
        let mut export = Export {
            store: self,
            tar: tar::Builder::new(output),
            written: BTreeSet::new(),
            index: Vec::new(),
            docker: Vec::new(),
        };
        for image in images {
            let found = self.find(image).ok_or_else(|| Error::ImageNotFound(image.clone()))?;
            export.image(image, &found)?;
        }
        export.finish()
    }
}

// === impl Export ===

impl<W: Write> Export<'_, W> {
    fn image(&mut self, asked: &str, record: &ImageRecord) -> Result<()> {
        let missing = || Error::ContentMissing(asked.to_owned());
        let digest = record.manifest.clone().ok_or_else(missing)?;
        let content = self.store.content.read(&digest)?;
        let manifest: Manifest = serde_json::from_slice(&content).map_err(|_| missing())?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if !self.store.content.has(&blob.digest) {
                return Err(missing());
            }
            self.blob(&blob.digest)?;
        }
        self.blob(&digest)?;
        let tags: Vec<String> = match Reference::parse(asked).map(|name| name.to_string()) {
            Ok(name) if record.tags.contains(&name) => vec![name],
            _ => record.tags.iter().cloned().collect(),
        };
        let media_type = match manifest.media_type.as_str() {
            "" => media_type::OCI_MANIFEST,
            own => own,
        };
        let plain = Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size: content.len() as u64,
            ..Descriptor::default()
        };
        let described = tags.iter().map(|tag| named(plain.clone(), tag));
        self.index.extend(described);
        if tags.is_empty() {
            self.index.push(plain);
        }
        self.docker.push(DockerManifest {
            config: blob_path(&manifest.config.digest),
            repo_tags: Some(tags),
            layers: manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect(),
        });
        Ok(())
    }

    fn blob(&mut self, digest: &str) -> Result<()> {
        if !self.written.insert(digest.to_owned()) {
            return Ok(());
        }
        let mut header = header(self.store.content.size(digest)?);
        let file = self.store.content.file(digest)?;
        let path = blob_path(digest);
        self.tar.append_data(&mut header, &path, file).at("save", path)
    }

    fn document(&mut self, name: &str, content: &[u8]) -> Result<()> {
        let mut header = header(content.len() as u64);
        self.tar.append_data(&mut header, name, content).at("save", name)
    }

    fn finish(mut self) -> Result<()> {
        let index = Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests: std::mem::take(&mut self.index),
        };
        let docker = std::mem::take(&mut self.docker);
        let plain = "documents are plain data";
        self.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        self.document("index.json", &serde_json::to_vec(&index).expect(plain))?;
        self.document("manifest.json", &serde_json::to_vec(&docker).expect(plain))?;
        let flushed = self.tar.into_inner().and_then(|mut output| output.flush());
        flushed.at("save", "archive")
    }
}

fn named(mut descriptor: Descriptor, tag: &str) -> Descriptor {
    let mut note = |key: &str, value: &str| {
        descriptor.annotations.insert(key.to_owned(), value.to_owned());
    };
    note("io.containerd.image.name", tag);
    if let Ok(Reference { version: Version::Tag(tag), .. }) = Reference::parse(tag) {
        note("org.opencontainers.image.ref.name", &tag);
    }
    descriptor
}

/// Without times and owners, so that the same images make the same archive.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size);
    header
}

fn blob_path(digest: &str) -> String {
    format!("blobs/{}", digest.replacen(':', "/", 1))
}

/// Hands what is written to an async reader, piece by piece.
pub(crate) struct ChunkWriter(pub tokio::sync::mpsc::Sender<Result<bytes::Bytes>>);

impl Write for ChunkWriter {
    fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Ok(bytes::Bytes::copy_from_slice(chunk)));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
