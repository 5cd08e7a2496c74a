//! Pod network and service dataplane over netlink.
//!
//! [`PodNetwork`] gives every pod sandbox an address and a way out; [`ServiceProxy`] turns Services and EndpointSlices
//! into one nftables table; [`link`] holds the few operations on interfaces that both, and local clusters, are made of.
//! Counterparts: the bridge, host-local and portmap CNI plugins; pkg/proxy/nftables.
//!
//! Knows nothing of HTTP, the store or the runtime: a sandbox is an id and a path to its network namespace.
//! Invariant: no other program is run; every change is a netlink request to a namespace named by the caller.

pub mod ipam;
pub mod link;
mod nft;
pub mod pod;
pub mod proxy;

pub use link::Namespace;
pub use pod::{HostPort, PodNetwork, PodNetworkConfig, Protocol};
pub use proxy::{ServiceProxy, ServiceProxyConfig};
