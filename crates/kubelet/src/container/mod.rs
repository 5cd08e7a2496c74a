//! From a pod's spec to what the runtime is asked for. Everything here is pure.

pub mod config;
pub mod dns;
pub mod env;
pub mod expand;
pub mod hosts;
pub mod resources;
pub mod sandbox;
pub mod security;
