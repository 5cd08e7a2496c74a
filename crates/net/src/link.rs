//! Interfaces, addresses and routes of one network namespace.
//!
//! A [`Namespace`] is an open handle; its methods are single netlink requests, each safe to repeat: what is already
//! there is left alone, what is already gone counts as deleted. Counterpart: the vishvananda/netlink calls that CNI
//! plugins make.
//!
//! Invariant: a handle keeps its namespace alive but never moves the calling thread into it.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use ipnet::IpNet;
use nlink::netlink::link::{BridgeLink, BridgePortConfig, LinkCreateExt, VethLink};
use nlink::netlink::namespace::Netns;
use nlink::netlink::{Connection, Netfilter, Nftables, Route, construction};
use nlink::{Ipv4Address, Ipv4Route, Ipv6Address, Ipv6Route};

/// Why an operation on a namespace failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open network namespace {namespace}")]
    Open {
        namespace: String,
        #[source]
        source: nlink::Error,
    },
    #[error("{action} in network namespace {namespace}")]
    Request {
        action: String,
        namespace: String,
        #[source]
        source: nlink::Error,
    },
    #[error("no interface {name} in network namespace {namespace}")]
    NoSuchLink { name: String, namespace: String },
    #[error("interface {name} in network namespace {namespace} is a {found}, not a {wanted}")]
    WrongKind { name: String, namespace: String, found: String, wanted: &'static str },
}

pub type Result<T> = std::result::Result<T, Error>;

/// A link-layer address.
pub type Mac = [u8; 6];

/// An interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    pub up: bool,
    pub kind: Option<String>,
    /// Index of the bridge it is a port of.
    pub master: Option<u32>,
}

/// One end of a veth pair.
#[derive(Debug, Clone)]
pub struct VethEnd<'a> {
    pub namespace: &'a Namespace,
    pub name: &'a str,
    /// Chosen by the kernel when absent.
    pub mac: Option<Mac>,
}

/// A handle to a network namespace. Cloning is cheap and shares the netlink socket.
#[derive(Clone)]
pub struct Namespace(Arc<Inner>);

struct Inner {
    netns: Netns,
    route: Connection<Route>,
}

// === impl Namespace ===

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Namespace").field(&self.label()).finish()
    }
}

impl Namespace {
    /// The namespace of the calling thread.
    pub fn current() -> Result<Self> {
        Self::from_netns(Netns::current(), "of this process")
    }

    /// The namespace at `path`: `/proc/<pid>/ns/net`, `/run/netns/<name>` or any other bind mount of one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        Self::from_netns(Netns::from_path(path), &path.display().to_string())
    }

    fn from_netns(netns: nlink::Result<Netns>, label: &str) -> Result<Self> {
        let failed = |source| Error::Open { namespace: label.to_string(), source };
        let netns = netns.map_err(failed)?;
        let route = connect(&netns).map_err(failed)?;
        Ok(Self(Arc::new(Inner { netns, route })))
    }

    /// What it was opened as, for messages.
    pub fn label(&self) -> &str {
        self.0.netns.label()
    }

    /// Runs `f` on a thread inside the namespace; sockets made there stay there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.0.netns.run(f).map_err(|source| self.failed("running a task", source))
    }

    /// Sets a sysctl such as `net.ipv4.ip_forward`. One that has the value already is not written: inside some
    /// containers `/proc/sys` is read-only, and whoever made it so has set what is needed.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        use nlink::netlink::sysctl;
        let write = || match sysctl::get(key) {
            Ok(current) if current.trim() == value => Ok(()),
            _ => sysctl::set(key, value),
        };
        let written = self.0.netns.run(write).and_then(|written| written);
        written.map_err(|source| self.failed(format!("setting {key} to {value}"), source))
    }

    pub(crate) fn nftables(&self) -> Result<Connection<Nftables>> {
        connect(&self.0.netns).map_err(|source| self.failed("opening an nftables socket", source))
    }

    pub(crate) fn conntrack(&self) -> Result<Connection<Netfilter>> {
        connect(&self.0.netns).map_err(|source| self.failed("opening a conntrack socket", source))
    }

    fn failed(&self, action: impl Into<String>, source: nlink::Error) -> Error {
        Error::Request { action: action.into(), namespace: self.label().to_string(), source }
    }
}

/// A connection in `netns`, made without a helper thread where the caller is already inside.
fn connect<P>(netns: &Netns) -> nlink::Result<Connection<P>>
where
    P: construction::SyncConstructible + Default,
{
    if Netns::current()?.id() == netns.id() {
        Connection::<P>::new()
    } else {
        Connection::new_in(netns)
    }
}

// === links ===

impl Namespace {
    /// The interface called `name`, if there is one.
    pub async fn link(&self, name: &str) -> Result<Option<Link>> {
        let found = self.0.route.get_link_by_name(name).await;
        let found =
            found.map_err(|source| self.failed(format!("looking up interface {name}"), source))?;
        Ok(found.map(|message| Link {
            index: message.ifindex(),
            name: name.to_string(),
            up: message.is_up(),
            kind: message.kind().map(str::to_string),
            master: message.master(),
        }))
    }

    /// The interface called `name`, which must exist.
    pub async fn require_link(&self, name: &str) -> Result<Link> {
        let missing =
            || Error::NoSuchLink { name: name.to_string(), namespace: self.label().to_string() };
        self.link(name).await?.ok_or_else(missing)
    }

    /// Every interface of the namespace.
    pub async fn links(&self) -> Result<Vec<Link>> {
        let all = self
            .0
            .route
            .get_links()
            .await
            .map_err(|source| self.failed("listing interfaces", source))?;
        let links = all.iter().map(|message| Link {
            index: message.ifindex(),
            name: message.name_or("").to_string(),
            up: message.is_up(),
            kind: message.kind().map(str::to_string),
            master: message.master(),
        });
        Ok(links.collect())
    }

    /// A bridge called `name`, up: the existing one, or a new one.
    pub async fn ensure_bridge(&self, name: &str, mac: Option<Mac>, mtu: u32) -> Result<Link> {
        let mut bridge = BridgeLink::new(name).mtu(mtu).stp(false).forward_delay_ms(0);
        if let Some(mac) = mac {
            bridge = bridge.address(mac);
        }
        match self.0.route.add_link(bridge.up()).await {
            Ok(()) => {}
            Err(error) if error.is_already_exists() => {}
            Err(source) => return Err(self.failed(format!("creating bridge {name}"), source)),
        }
        let link = self.require_link(name).await?;
        self.require_kind(&link, "bridge")?;
        self.set_up(link.index).await?;
        Ok(link)
    }

    fn require_kind(&self, link: &Link, wanted: &'static str) -> Result<()> {
        if link.kind.as_deref() == Some(wanted) {
            return Ok(());
        }
        Err(Error::WrongKind {
            name: link.name.clone(),
            namespace: self.label().to_string(),
            found: link.kind.clone().unwrap_or_else(|| "device".to_string()),
            wanted,
        })
    }

    pub async fn set_up(&self, index: u32) -> Result<()> {
        let done = self.0.route.set_link_up_by_index(index).await;
        done.map_err(|source| self.failed(format!("bringing up interface {index}"), source))
    }

    /// Makes interface `index` a port of bridge `master`.
    pub async fn set_master(&self, index: u32, master: u32) -> Result<()> {
        let done = self.0.route.set_link_master_by_index(index, master).await;
        done.map_err(|source| {
            self.failed(format!("attaching interface {index} to bridge {master}"), source)
        })
    }

    /// Lets a bridge port send a frame back out where it came in.
    pub async fn set_hairpin(&self, index: u32) -> Result<()> {
        let port = BridgePortConfig::new().hairpin(true);
        let done = self.0.route.set_bridge_port_by_index(index, port).await;
        done.map_err(|source| {
            self.failed(format!("setting hairpin on bridge port {index}"), source)
        })
    }

    /// Deletes an interface (for a veth, both ends). False when there was none.
    pub async fn delete_link(&self, name: &str) -> Result<bool> {
        let deleted = self.0.route.del_link_if_exists(name).await;
        deleted.map_err(|source| self.failed(format!("deleting interface {name}"), source))
    }
}

/// Creates a veth pair with an end in each namespace. The first end is up; it becomes a port of `master` when given.
///
/// The second end is left down, so that its addresses can be set before it says anything.
/// An existing interface of the first name is an error: only the caller knows whether it is the same pair.
pub async fn create_veth(
    near: VethEnd<'_>,
    far: VethEnd<'_>,
    master: Option<u32>,
    mtu: u32,
) -> Result<()> {
    let mut pair = VethLink::new(near.name, far.name)
        .mtu(mtu)
        .peer_mtu(mtu)
        .peer_netns_fd(far.namespace.0.netns.as_fd());
    if let Some(mac) = near.mac {
        pair = pair.address(mac);
    }
    if let Some(mac) = far.mac {
        pair = pair.peer_address(mac);
    }
    let route = &near.namespace.0.route;
    let created = match master {
        Some(master) => route.add_link(pair.up().master(master)).await,
        None => route.add_link(pair.up()).await,
    };
    created.map_err(|source| near.namespace.failed(format!("creating veth {}", near.name), source))
}

// === addresses and routes ===

impl Namespace {
    /// Gives interface `index` an address; its prefix becomes a connected route.
    pub async fn add_address(&self, index: u32, address: IpNet) -> Result<()> {
        let route = &self.0.route;
        let added = match address {
            IpNet::V4(net) => {
                route
                    .replace_address(Ipv4Address::with_index(index, net.addr(), net.prefix_len()))
                    .await
            }
            IpNet::V6(net) => {
                let address = Ipv6Address::with_index(index, net.addr(), net.prefix_len()).nodad();
                route.replace_address(address).await
            }
        };
        added.map_err(|source| {
            self.failed(format!("adding address {address} to interface {index}"), source)
        })
    }

    /// Every address of the namespace, with the index of its interface.
    pub async fn addresses(&self) -> Result<Vec<(u32, IpNet)>> {
        let all = self
            .0
            .route
            .get_addresses()
            .await
            .map_err(|source| self.failed("listing addresses", source))?;
        let addresses = all.iter().filter_map(|message| {
            let address = message.address().copied().or(message.local().copied())?;
            let net = IpNet::new(message.local().copied().unwrap_or(address), message.prefix_len())
                .ok()?;
            Some((message.ifindex(), net))
        });
        Ok(addresses.collect())
    }

    /// Routes `destination` out of interface `index`, directly or through `gateway`. Replaces an equal destination.
    pub async fn add_route(
        &self,
        destination: IpNet,
        gateway: Option<IpAddr>,
        index: u32,
    ) -> Result<()> {
        let route = &self.0.route;
        let added = match (destination, gateway) {
            (IpNet::V4(net), gateway) => {
                let mut config =
                    Ipv4Route::from_addr(net.network(), net.prefix_len()).dev_index(index);
                if let Some(IpAddr::V4(gateway)) = gateway {
                    config = config.gateway(gateway).onlink();
                }
                route.replace_route(config).await
            }
            (IpNet::V6(net), gateway) => {
                let mut config =
                    Ipv6Route::from_addr(net.network(), net.prefix_len()).dev_index(index);
                if let Some(IpAddr::V6(gateway)) = gateway {
                    config = config.gateway(gateway).onlink();
                }
                route.replace_route(config).await
            }
        };
        added.map_err(|source| self.failed(format!("adding a route to {destination}"), source))
    }
}
