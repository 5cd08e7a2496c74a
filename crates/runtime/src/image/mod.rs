//! Images on this machine: archives and registries in, names and shared layer directories out.
//!
//! Consumes OCI and `docker save` archives and what registries serve, decides which blobs and
//! layers are new, emits [`ImageRecord`]s a container can be made from. Counterpart: containerd's
//! content store, overlayfs snapshotter and image service.
//! Blobs stay beside their unpacked layers, as in containerd: so an image can be pushed and saved
//! exactly as it came, and a layer is not fetched again to be put upon other layers.

mod archive;
pub(crate) mod build;
mod config;
mod content;
mod export;
mod layer;
mod reference;
mod registry;
mod store;

pub use build::context::{pack_context, unpack_context};
pub(crate) use config::ImageConfig;
pub(crate) use export::ChunkWriter;
pub use reference::Reference;
pub(crate) use registry::Registries;
pub use registry::RegistryError;
pub(crate) use store::{Arrival, ImageRecord, ImageStore, LayerBlob, Stack};
