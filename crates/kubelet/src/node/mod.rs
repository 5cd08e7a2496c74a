//! This machine as a Node object: registration, status, heartbeat.

pub mod agent;
pub mod lease;
pub mod machine;
pub mod status;
