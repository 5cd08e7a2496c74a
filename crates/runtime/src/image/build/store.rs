//! What a build asks of the image store.
//!
//! Invariant: a caller holds an [`Arrival`](crate::image::Arrival), so that nothing it is given is collected.

use std::{
    collections::BTreeSet,
    fs, io,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use serde_json::Value;

use super::{cache::Entry, layer_writer::LayerWriter};
use crate::{
    error::{Error, Result},
    image::{
        ImageRecord, ImageStore, LayerBlob, Reference, Stack,
        config::{ConfigFile, Manifest},
        layer::{Workspace, view, within},
        store::Incoming,
    },
};

impl ImageStore {
    /// The layers of an image, lowest first, and where they are unpacked.
    pub fn layers_of(&self, image: &ImageRecord) -> Result<(Vec<LayerBlob>, Stack)> {
        let missing = || Error::ContentMissing(image.image_ref());
        let manifest = image.manifest.as_ref().ok_or_else(missing)?;
        let manifest: Manifest = self.document(manifest)?;
        let config: ConfigFile = self.document(&image.id)?;
        if manifest.layers.len() != config.rootfs.diff_ids.len() {
            return Err(missing());
        }
        let mut stack = Stack::default();
        let mut layers = Vec::new();
        for (layer, diff_id) in manifest.layers.into_iter().zip(config.rootfs.diff_ids) {
            let blob = LayerBlob { digest: layer.digest, diff_id };
            self.put_upon(&mut stack, &blob)?;
            layers.push(blob);
        }
        Ok((layers, stack))
    }

    /// Unpacks a layer of the store upon others.
    pub fn put_upon(&self, stack: &mut Stack, blob: &LayerBlob) -> Result<()> {
        self.unpack_onto(stack, blob).map_err(|error| Error::Io {
            what: "unpack a layer into",
            path: self.layers_dir(),
            source: io::Error::other(error),
        })
    }

    pub fn layer_writer(&self) -> Result<LayerWriter> {
        LayerWriter::new(&self.content)
    }

    pub fn keep_layer(&self, written: super::layer_writer::WrittenLayer) -> Result<LayerBlob> {
        written.keep(&self.content)
    }

    /// What an earlier build made of this step.
    pub fn built(&self, step: &str) -> Option<Entry> {
        self.builds.find(step, |digest| self.content.has(digest))
    }

    /// Runs `look` with the layers as its root.
    pub fn view<T: Send>(
        &self,
        stack: &Stack,
        look: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let scratch =
            format!("tmp-view-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let layers_dir = self.layers_dir();
        let workspace =
            Workspace { layers_dir: &layers_dir, lowers: &stack.names, scratch: &scratch };
        let seen = view(&workspace, look);
        // What cannot be removed is swept.
        let _ = fs::remove_dir_all(layers_dir.join(&scratch));
        seen
    }

    /// Runs `look` with a directory of the machine as its root.
    pub fn view_dir<T: Send>(
        &self,
        dir: &Path,
        look: impl FnOnce() -> io::Result<T> + Send,
    ) -> io::Result<T> {
        within(dir, look)
    }

    /// Makes an image of what was built.
    pub fn assemble(
        &self,
        names: BTreeSet<Reference>,
        document: &Value,
        layers: Vec<LayerBlob>,
        stack: Stack,
    ) -> Result<ImageRecord> {
        let invalid = |error: serde_json::Error| Error::InvalidConfig {
            what: "image config",
            reason: error.to_string(),
        };
        let config_file = serde_json::from_value(document.clone()).map_err(invalid)?;
        let config = self.content.put(&serde_json::to_vec(document).map_err(invalid)?)?;
        let manifest = self.put_manifest(&config, &layers)?;
        let incoming =
            Incoming { names, target: None, manifest, config, config_file, layers, stack };
        Ok(self.adopt(vec![incoming])?.pop().expect("one image was adopted"))
    }

    fn document<T: serde::de::DeserializeOwned>(&self, digest: &str) -> Result<T> {
        let content = self.content.read(digest)?;
        serde_json::from_slice(&content)
            .map_err(|source| Error::State { path: self.content.path(digest), source })
    }
}
