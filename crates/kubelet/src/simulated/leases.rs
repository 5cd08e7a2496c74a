//! The heartbeats of simulated nodes, all kept by one timer.
//!
//! A lease says itself for how long it is good; an hour makes five thousand nodes cost three writes a second.
//! Invariant: a node's lease is renewed twice while it is good.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::future::join_all;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::node::lease;

const LEASE_SECONDS: i32 = 3600;
const RENEW_EVERY: Duration = Duration::from_secs(1500);
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// New nodes come by the thousand: their leases are made in turn, not all at once.
const RENEWALS_AT_A_TIME: usize = 32;

pub enum Change {
    Came(Box<Node>),
    Left(String),
}

/// Runs until nobody is left to tell of changes.
pub async fn keep(client: Client, mut changes: mpsc::UnboundedReceiver<Change>) {
    let api: Api<Lease> = Api::namespaced(client, lease::NAMESPACE);
    let mut wheel = Wheel::default();
    loop {
        let first = wheel.first();
        tokio::select! {
            change = changes.recv() => match change {
                Some(Change::Came(node)) => wheel.schedule(*node, Instant::now()),
                Some(Change::Left(name)) => wheel.remove(&name),
                None => return,
            },
            () = super::sleep_until(first) => renew(&api, &mut wheel).await,
        }
    }
}

async fn renew(api: &Api<Lease>, wheel: &mut Wheel) {
    let now = Instant::now();
    let due = wheel.take_due(now);
    let outcomes = join_all(due.iter().map(|node| lease::renew(api, node, LEASE_SECONDS))).await;
    for (node, outcome) in due.into_iter().zip(outcomes) {
        let after = match outcome {
            Ok(()) => RENEW_EVERY,
            Err(error) => {
                tracing::debug!(%error, "lease of a simulated node was not renewed");
                RETRY_AFTER
            }
        };
        wheel.schedule(node, now + after);
    }
}

/// Which node's lease is renewed when.
#[derive(Default)]
struct Wheel {
    due: BTreeMap<(Instant, u64), Node>,
    keys: HashMap<String, (Instant, u64)>,
    arrivals: u64,
}

// === impl Wheel ===

impl Wheel {
    fn first(&self) -> Option<Instant> {
        self.due.first_key_value().map(|((due, _), _)| *due)
    }

    fn schedule(&mut self, mut node: Node, at: Instant) {
        // Only the name and the uid are needed.
        (node.spec, node.status, node.metadata.managed_fields) = (None, None, None);
        let name = node.metadata.name.clone().unwrap_or_default();
        self.remove(&name);
        self.arrivals += 1;
        let key = (at, self.arrivals);
        self.keys.insert(name, key);
        self.due.insert(key, node);
    }

    fn remove(&mut self, name: &str) {
        if let Some(key) = self.keys.remove(name) {
            self.due.remove(&key);
        }
    }

    fn take_due(&mut self, now: Instant) -> Vec<Node> {
        let due = self.due.range(..=(now, u64::MAX)).take(RENEWALS_AT_A_TIME);
        let keys: Vec<_> = due.map(|(key, _)| *key).collect();
        keys.into_iter().filter_map(|key| self.due.remove(&key)).collect()
    }
}
