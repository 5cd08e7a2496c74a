//! The controllers against the real API server in one process: one binary, for each would link all of it again.

mod access;
mod batch;
mod chaos;
mod cluster;
mod convergence;
mod devices;
mod garbage;
mod metrics;
mod storage;
