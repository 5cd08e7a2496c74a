//! Service networking: what kube-proxy does on a node.
//!
//! Services and EndpointSlices come in through a `kube::Client`; one nftables table comes out, in which every change is
//! one transaction of a few elements. Counterpart: pkg/proxy/nftables.
//! Path of a change: `skiff_services` (watch events) -> `plan` (what a Service asks for) -> `ruleset` (what differs)
//! -> `dataplane` (the transaction) -> `conntrack` (flows it left behind).
//!
//! Invariant: after an error the table is rewritten whole, after growing pauses; until then the old rules stand.

mod conntrack;
mod dataplane;
pub mod plan;
pub mod ruleset;

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use ipnet::{IpNet, Ipv4Net};
use kube::Client;
use nlink::netlink::{Connection, Netfilter};
use skiff_services::{Catalog, changes};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, error, info, warn};

use crate::link::{self, Namespace};
use dataplane::Dataplane;
use plan::Planner;
use ruleset::{Delta, Ruleset};

pub use dataplane::Ranges;

const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));
/// Of a bridge that nobody else has made: nothing but the way to Services goes over it.
const BRIDGE_MTU: u32 = 1500;

/// What a node's service proxy needs to know of its node.
#[derive(Debug, Clone)]
pub struct ServiceProxyConfig {
    /// Name of the Node object, to tell local endpoints.
    pub node_name: String,
    /// All nodes' pods.
    pub cluster_cidr: Ipv4Net,
    /// All Services' cluster addresses.
    pub service_cidr: Ipv4Net,
    /// The pod network's bridge: the node's own connections to Services start out there. Made if it is not there, for nodes whose
    /// pods have another network.
    pub bridge: String,
}

/// How the proxy is doing, for readiness and conditions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// Every Service seen so far is in the kernel.
    pub synced: bool,
    pub services: usize,
    /// Transactions applied so far.
    pub syncs: u64,
    /// How long the last one took, with its planning.
    pub last_sync: Duration,
    /// Why the last sync failed; it is being retried.
    pub failure: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Link(#[from] link::Error),
    #[error("cannot change the service table")]
    Nftables(#[source] nlink::Error),
}

/// The service proxy of one node.
pub struct ServiceProxy {
    catalog: Catalog<Planner>,
    ruleset: Ruleset,
    dataplane: Dataplane,
    conntrack: Connection<Netfilter>,
    /// The table's elements are not known: the next sync rewrites it.
    rewrite: bool,
    retry: Backoff,
    status: watch::Sender<Status>,
}

// === impl ServiceProxy ===

impl ServiceProxy {
    /// Prepares the calling thread's network namespace. Rules of an earlier run stay until the first sync replaces them.
    pub async fn open(config: ServiceProxyConfig) -> Result<Self, Error> {
        Self::open_in(Namespace::current()?, config).await
    }

    /// Prepares `node`, whose bridge is made if it is not there.
    pub async fn open_in(node: Namespace, config: ServiceProxyConfig) -> Result<Self, Error> {
        prepare_node(&node, &config).await?;
        let ranges = Ranges { pods: config.cluster_cidr, services: config.service_cidr };
        Ok(Self {
            catalog: Catalog::new(Planner { node: config.node_name }),
            ruleset: Ruleset::default(),
            dataplane: Dataplane::open(&node, ranges)?,
            conntrack: node.conntrack()?,
            rewrite: true,
            retry: Backoff::default(),
            status: watch::Sender::default(),
        })
    }

    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Follows the API server until the future is dropped. Its rules stay behind and keep working.
    pub async fn run(mut self, client: Client) {
        let mut changes = std::pin::pin!(changes(client));
        loop {
            let retry_at = self.retry.due.unwrap_or_else(Instant::now);
            let change = tokio::select! {
                change = changes.next() => change,
                () = sleep_until(retry_at), if self.retry.due.is_some() => None,
            };
            change.into_iter().for_each(|change| self.catalog.apply(change));
            // What has already arrived goes into the same transaction.
            while let Some(Some(change)) = changes.next().now_or_never() {
                self.catalog.apply(change);
            }
            if self.catalog.complete() && !self.retry.waiting() {
                self.sync().await;
            }
        }
    }

    /// Brings the kernel up to date, or plans a retry.
    async fn sync(&mut self) {
        let started = Instant::now();
        for (key, intent) in self.catalog.take_changes() {
            self.ruleset.set(&key, intent);
        }
        let rewrite = std::mem::replace(&mut self.rewrite, false);
        if rewrite {
            self.ruleset.forget_installed();
        }
        let delta = self.ruleset.take_delta();
        if delta.is_empty() && !rewrite {
            return;
        }
        let result = if rewrite {
            self.dataplane.rewrite(&delta).await
        } else {
            self.dataplane.apply(&delta).await
        };
        match result {
            Ok(()) => {
                let elapsed = started.elapsed();
                debug!(rewrite, ?elapsed, disturbed = delta.disturbed.len(), "services synced");
                self.clean_up(&delta).await;
                self.succeed(elapsed);
            }
            Err(source) => self.fail(Error::Nftables(source)),
        }
    }

    /// Flows that the new rules no longer describe. A failure leaves them to time out, as if there were no clean-up.
    async fn clean_up(&self, delta: &Delta) {
        match conntrack::flush(&self.conntrack, delta).await {
            Ok(0) => {}
            Ok(flushed) => info!(flushed, "flushed UDP flows of endpoints that are gone"),
            Err(error) => warn!(%error, "cannot flush UDP flows of endpoints that are gone"),
        }
        if let Err(error) = self.dataplane.forget_clients(delta).await {
            warn!(%error, "cannot release clients from endpoints that are gone");
        }
    }

    fn succeed(&mut self, last_sync: Duration) {
        self.retry = Backoff::default();
        let services = self.ruleset.services();
        self.status.send_modify(|status| {
            let syncs = status.syncs + 1;
            *status = Status { synced: true, services, syncs, last_sync, failure: None };
        });
    }

    fn fail(&mut self, failure: Error) {
        self.rewrite = true;
        self.retry.start();
        let failure = describe(&failure);
        error!(failure, retry_in = ?self.retry.pause, "cannot sync services");
        self.status.send_modify(|status| {
            status.synced = false;
            status.failure = Some(failure);
        });
    }
}

async fn prepare_node(node: &Namespace, config: &ServiceProxyConfig) -> Result<(), link::Error> {
    // Lets 127.0.0.1:<nodePort> on the node be translated; the table's guard keeps others off the node's loopback.
    node.set_sysctl("net.ipv4.conf.all.route_localnet", "1")?;
    // The kernel routes before it translates, and a node without a default route has none to a service address.
    let bridge = node.ensure_bridge(&config.bridge, None, BRIDGE_MTU).await?;
    node.add_route(IpNet::V4(config.service_cidr), None, bridge.index).await
}

fn describe(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

// === Backoff ===

/// Growing pauses between failed syncs.
#[derive(Debug, Default)]
struct Backoff {
    pause: Duration,
    due: Option<Instant>,
}

impl Backoff {
    fn start(&mut self) {
        self.pause = (self.pause * 2).clamp(RETRY.0, RETRY.1);
        self.due = Some(Instant::now() + self.pause);
    }

    fn waiting(&self) -> bool {
        self.due.is_some_and(|due| Instant::now() < due)
    }
}
