//! The runtime on a real kernel: every test makes its own node out of a directory and a cgroup, and
//! removes it whole.
//!
//! Needs root and a static busybox (Debian: `busybox-static`). Without root each test says so and
//! passes: there is nothing it could look at.

mod archive;
mod build;
mod exec;
mod fixture;
mod images;
mod lifecycle;
mod network;
mod recovery;
mod registry;
mod resources;
mod security;
mod sharing;
mod socket;
mod speed;
mod users;
