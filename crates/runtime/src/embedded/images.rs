//! What people do with images beyond the kubelet's needs: push, save, tag, inspect, prune.
//!
//! Counterpart: `nerdctl` and `ctr images` against containerd.
//! Invariant: an image a container uses is removed only by force.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Embedded;
use crate::{
    cri::{AuthConfig, Image, ImageService, LayerProgress},
    error::{Error, Result},
    image::{ChunkWriter, ImageRecord, Reference},
};

/// How many pieces of an archive wait for their reader.
const SAVE_BACKLOG: usize = 64;

impl Embedded {
    /// Sends an image to the registry its name says; answers the digest it has there.
    pub async fn push_image(
        &self,
        reference: &str,
        auth: Option<AuthConfig>,
        progress: Option<mpsc::UnboundedSender<LayerProgress>>,
    ) -> Result<String> {
        self.registries.push(reference, auth, progress).await
    }

    /// The images as one archive. What goes wrong on the way comes as the last piece.
    pub fn save_images(&self, images: Vec<String>) -> mpsc::Receiver<Result<Bytes>> {
        let (sender, receiver) = mpsc::channel(SAVE_BACKLOG);
        let store = self.images.clone();
        tokio::task::spawn_blocking(move || {
            let _reading = store.blocking_arrival();
            let output = std::io::BufWriter::with_capacity(256 << 10, ChunkWriter(sender.clone()));
            if let Err(error) = store.save(&images, output) {
                // A reader that has gone wants no reason.
                let _ = sender.blocking_send(Err(error));
            }
        });
        receiver
    }

    /// Gives an image one more name.
    pub fn tag_image(&self, image: &str, name: &str) -> Result<()> {
        self.images.tag(image, &Reference::parse(name)?)
    }

    /// The config document of an image, with what the store knows beside it.
    pub fn inspect_image(&self, image: &str) -> Result<serde_json::Value> {
        let found = self.found(image)?;
        let document = self.images.config_document(&found)?;
        let part = |key: &str| document.get(key).cloned().unwrap_or_default();
        Ok(serde_json::json!({
            "Id": found.id,
            "RepoTags": found.tags,
            "RepoDigests": found.digests,
            "Created": part("created"),
            "Architecture": part("architecture"),
            "Variant": part("variant"),
            "Os": part("os"),
            "Size": found.size,
            "Config": part("config"),
            "RootFS": part("rootfs"),
            "History": part("history"),
        }))
    }

    /// Removes a name, or for an id the image, unless a container still uses what would go.
    pub async fn delete_image(&self, image: &str, force: bool) -> Result<()> {
        let found = self.found(image)?;
        let user = self.user_of(&found);
        let last_name = found.tags.len() + found.digests.len() <= 1
            || found.tags.len() == 1 && !image.contains('@')
            || found.id.contains(image);
        match user.filter(|_| last_name && !force) {
            Some(container) => Err(Error::ImageInUse { image: image.to_owned(), container }),
            None => self.remove_image(image).await,
        }
    }

    /// Removes images no container uses: those without a tag, or all of them and what builds remember.
    pub async fn prune_images(&self, all: bool) -> Result<Vec<Image>> {
        let unused = self.images.list().into_iter().filter(|image| self.user_of(image).is_none());
        let chosen: Vec<ImageRecord> =
            unused.filter(|image| all || image.tags.is_empty()).collect();
        if all {
            self.images.builds.forget()?;
        }
        for image in &chosen {
            self.remove_image(&image.id).await?;
        }
        self.blocking(|this| {
            this.collect_layers();
            Ok(())
        })
        .await?;
        Ok(chosen.iter().map(ImageRecord::to_image).collect())
    }

    fn found(&self, image: &str) -> Result<ImageRecord> {
        self.images.find(image).ok_or_else(|| Error::ImageNotFound(image.to_owned()))
    }

    /// A container made from this image, or one that mounts it.
    fn user_of(&self, image: &ImageRecord) -> Option<String> {
        let containers = self.containers();
        let user = containers.values().find(|container| {
            let record = &container.record;
            let mounted = record.config.mounts.iter().filter_map(|mount| mount.image.as_ref());
            record.image_id == image.id || mounted.into_iter().any(|mount| mount.id == image.id)
        });
        user.map(|container| container.record.config.metadata.name.clone())
    }
}
