//! The metrics API: what nodes and pods use, for `kubectl top` and autoscalers.
//!
//! A request for `metrics.k8s.io/v1beta1` -> the nodes' statistics, at most a few seconds old -> metrics, lists or Tables.
//! Counterpart: metrics-server. Differs from upstream: nodes are asked when somebody wants to know, not all the time.
//! Invariant: an ordinary client; a node that does not answer is left out and delays nobody for long.

mod api;
mod scrape;
mod table;

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use kube::Client;

use scrape::Scraper;

pub const GROUP: &str = "metrics.k8s.io";
pub const VERSION: &str = "v1beta1";

/// Answers requests; one per process, so that all of them share what was read from the nodes.
pub struct MetricsServer {
    scraper: Scraper,
}

// === impl MetricsServer ===

impl MetricsServer {
    pub fn new(client: Client) -> Arc<MetricsServer> {
        Arc::new(MetricsServer { scraper: Scraper::new(client) })
    }

    pub async fn handle(&self, request: Request<()>) -> Response<Bytes> {
        api::answer(&self.scraper, &request).await
    }
}
