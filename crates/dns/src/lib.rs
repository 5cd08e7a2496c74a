//! Cluster DNS answered from Services and EndpointSlices.
//!
//! [`DnsServer`] listens; watch events keep a [`zone::Zone`] of ready-made records; a query is one look-up in it, and
//! names of other zones go to the upstream servers of a resolv.conf. Counterpart: CoreDNS with the kubernetes, forward
//! and loadbalance plugins; specification: Kubernetes DNS-Based Service Discovery, version 1.1.0.
//!
//! Knows nothing of pods, nodes or how packets reach it.
//! Invariant: no input, from a client or an upstream server, makes it panic or answer for another name.

mod forward;
mod metrics;
mod records;
mod server;
#[cfg(test)]
mod tests;
pub mod zone;

pub use metrics::Metrics;
pub use server::{DnsConfig, DnsServer, Error, Status};
