//! Subresources that are more than a part of their object.
//!
//! Status and the other parts (`ephemeralcontainers`, `resize`, `approval`, `finalize`) go through the ordinary verbs. Here are those
//! with objects of their own, and those that connect to something else.

pub mod binding;
pub mod connect;
mod connect_options;
pub mod eviction;
mod links;
mod pages;
pub mod part;
mod proxy;
pub mod scale;
mod scale_owners;
mod targets;
pub mod token;
