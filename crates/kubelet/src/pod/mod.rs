//! Pods: what is wanted, what is, what to do, what to report.
//!
//! The pure parts are [`plan`] and [`status`]; [`worker`] feeds them, and [`manager`] keeps one worker per pod.

pub mod backoff;
pub mod desired;
pub mod ending;
pub mod manager;
pub mod observed;
pub mod plan;
pub mod resize;
pub mod status;
pub mod status_writer;
pub mod worker;
