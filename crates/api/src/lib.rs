//! Kubernetes kinds as data: schema, codecs, defaulting, validation, patch, apply, Tables, OpenAPI.
//!
//! An object travels as a `serde_json::Value`; what it means is said by a [`KindDef`]. A built-in
//! kind and a CustomResourceDefinition produce the same value, so there is one path, not two.
//! Invariant: nothing here does I/O or knows of HTTP or the store.

pub mod age;
mod alike;
pub mod apply;
pub mod codec;
pub mod cron;
pub mod csi;
pub mod custom;
pub mod default;
mod diff;
pub mod discovery;
pub mod field;
pub mod internal;
pub mod intstr;
pub mod kind;
pub mod kinds;
pub mod meta;
#[cfg(test)]
mod mutation;
pub mod openapi;
pub mod patch;
pub mod quantity;
pub mod quota;
pub mod scheduling;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod time;
pub mod validation;

pub use skiff_cel::duration;

pub use kind::{GroupKind, GroupResource, GroupVersion, KindDef, Kinds, Strategy, Subresource};
pub use schema::Schema;
pub use serde_json::{Map, Value};
pub use status::{Reason, Status};
