//! The verbs of images.

use std::sync::Arc;

use skiff_grpc::Status;
use skiff_runtime::{Image, PullImage};

use super::Served;
use crate::{api, error::status_of};

pub async fn list(
    served: Arc<Served>,
    request: api::ListImagesRequest,
) -> Result<api::ListImagesResponse, Status> {
    let wanted = reference(request.filter.unwrap_or_default().image);
    let images: Vec<Image> = match wanted.as_str() {
        "" => served.runtime.list_images().await.map_err(status_of)?,
        name => served.runtime.image_status(name).await.map_err(status_of)?.into_iter().collect(),
    };
    Ok(api::ListImagesResponse { images: images.into_iter().map(Into::into).collect() })
}

pub async fn status(
    served: Arc<Served>,
    request: api::ImageStatusRequest,
) -> Result<api::ImageStatusResponse, Status> {
    let found = served.runtime.image_status(&reference(request.image)).await.map_err(status_of)?;
    Ok(api::ImageStatusResponse { image: found.map(Into::into), info: Default::default() })
}

pub async fn pull(
    served: Arc<Served>,
    request: api::PullImageRequest,
) -> Result<api::PullImageResponse, Status> {
    let pull = PullImage {
        reference: reference(request.image),
        auth: request.auth.map(Into::into),
        progress: None,
    };
    let image_ref = served.runtime.pull_image(pull).await.map_err(status_of)?;
    Ok(api::PullImageResponse { image_ref })
}

pub async fn remove(served: Arc<Served>, request: api::ImageSpecRequest) -> Result<(), Status> {
    let removed = served.runtime.remove_image(&reference(request.image)).await;
    removed.map_err(status_of)
}

/// Images and the writable layers of containers share a file system here.
pub async fn fs_info(served: Arc<Served>, _: ()) -> Result<api::ImageFsInfoResponse, Status> {
    let usage: api::FilesystemUsage =
        served.runtime.image_fs_info().await.map_err(status_of)?.into();
    Ok(api::ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}

fn reference(image: Option<api::ImageSpec>) -> String {
    image.unwrap_or_default().image
}
