//! One function per verb, for every kind.
//!
//! Counterpart: `endpoints/handlers` and `registry/generic/registry/store.go`. Kinds differ by their
//! [`KindDef`](skiff_api::KindDef) and [`Strategy`](skiff_api::Strategy) only.

pub mod create;
pub mod delete;
pub mod get;
pub mod list;
pub mod patch;
pub mod selection;
pub mod update;
pub mod watch;
pub mod write;
