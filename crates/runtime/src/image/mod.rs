//! Images on this machine: archives in, names and shared layer directories out.
//!
//! Consumes OCI and `docker save` archives, decides which blobs and layers are new, emits
//! [`ImageRecord`]s a container can be made from. Counterpart: containerd's content store,
//! overlayfs snapshotter and image service.
//! Differs from upstream: compressed layer blobs are verified while they are unpacked and then
//! dropped; only manifests and configs stay in the content store, so an image takes its unpacked
//! size once.

mod archive;
mod config;
mod layer;
mod reference;
mod store;

pub(crate) use config::ImageConfig;
pub use reference::Reference;
pub(crate) use store::{ImageRecord, ImageStore};
