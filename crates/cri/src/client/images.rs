//! The image service's verbs as calls of CRI.
//!
//! Counterpart: `k8s.io/cri-client/pkg`. Differs from upstream: what space the file system of images has is measured here, since CRI
//! tells only what of it is used.

use std::path::Path;

use async_trait::async_trait;
use skiff_runtime::{Error, FilesystemUsage, Image, ImageService, PullImage, Result};

use super::{
    RemoteRuntime, TIMEOUT,
    verbs::{gone_is_fine, if_there},
};
use crate::{api, error::error_of};

#[async_trait]
impl ImageService for RemoteRuntime {
    async fn list_images(&self) -> Result<Vec<Image>> {
        let request = api::ListImagesRequest { filter: None };
        let answer = self.image_call(Some(TIMEOUT), "ListImages", &request).await;
        let answer: api::ListImagesResponse =
            answer.map_err(|status| error_of(status, "image", ""))?;
        Ok(answer.images.into_iter().map(Into::into).collect())
    }

    async fn image_status(&self, reference: &str) -> Result<Option<Image>> {
        let image = Some(api::ImageSpec::named(reference));
        let request = api::ImageStatusRequest { image, verbose: false };
        let answer = self.image_call(Some(TIMEOUT), "ImageStatus", &request).await;
        let answer: Result<api::ImageStatusResponse> =
            answer.map_err(|status| error_of(status, "image", reference));
        Ok(if_there(answer)?.and_then(|answer| answer.image).map(Into::into))
    }

    async fn pull_image(&self, request: PullImage) -> Result<String> {
        let message = api::PullImageRequest {
            image: Some(api::ImageSpec::named(&request.reference)),
            auth: request.auth.map(Into::into),
        };
        let answer = self.image_call(None, "PullImage", &message).await;
        let answer: api::PullImageResponse =
            answer.map_err(|status| Error::Remote(Box::new(status)))?;
        Ok(answer.image_ref)
    }

    async fn remove_image(&self, reference: &str) -> Result<()> {
        let request = api::ImageSpecRequest { image: Some(api::ImageSpec::named(reference)) };
        let removed = self.image_call(Some(TIMEOUT), "RemoveImage", &request).await;
        gone_is_fine(removed.map_err(|status| error_of(status, "image", reference)))
    }

    /// CRI has no verb for it.
    async fn load_image(&self, _archive: &Path) -> Result<Vec<Image>> {
        Err(Error::NotOffered { what: "loading an archive of images" })
    }

    async fn image_fs_info(&self) -> Result<FilesystemUsage> {
        let answer = self.image_call(Some(TIMEOUT), "ImageFsInfo", &()).await;
        let answer: api::ImageFsInfoResponse =
            answer.map_err(|status| error_of(status, "image file system", ""))?;
        let unknown = || Error::NotFound { kind: "image file system", id: String::new() };
        let usage = answer.image_filesystems.into_iter().next().ok_or_else(unknown)?;
        let mountpoint = usage.fs_id.unwrap_or_default().mountpoint;
        let space = nix::sys::statvfs::statvfs(Path::new(&mountpoint));
        let space = space.map_err(|error| Error::Io {
            what: "measure",
            path: mountpoint.clone().into(),
            source: error.into(),
        })?;
        Ok(FilesystemUsage {
            mountpoint: mountpoint.into(),
            used_bytes: usage.used_bytes.unwrap_or_default().value,
            inodes_used: usage.inodes_used.unwrap_or_default().value,
            capacity_bytes: space.blocks() * space.fragment_size(),
            available_bytes: space.blocks_available() * space.fragment_size(),
            inodes: space.files(),
            inodes_free: space.files_available(),
        })
    }
}
