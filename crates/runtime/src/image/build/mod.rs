//! What building images needs of the image store: reading Dockerfiles, writing layers, remembering
//! results.
//!
//! [`dockerfile`], [`sections`] and [`expand`] say what is wanted, [`layer_writer`] makes a layer of files,
//! [`copy`] finds those files, [`changes`] finds what a command changed, [`cache`] knows what was made
//! before. Who runs commands is [`crate::embedded`]. Counterpart: BuildKit.

pub(crate) mod cache;
pub(crate) mod changes;
pub(crate) mod context;
pub(crate) mod copy;
pub(crate) mod dockerfile;
pub(crate) mod expand;
mod ignore;
pub(crate) mod layer_writer;
pub(crate) mod sections;
pub(crate) mod stage;
mod store;
pub(crate) mod target;
