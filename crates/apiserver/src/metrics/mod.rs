//! `/metrics`: what the server counts about itself, under upstream's names, as Prometheus text.
//!
//! Counterpart: `component-base/metrics` and the families that dashboards read. Metrics of upstream's runtime (`go_*`) and of
//! its cache have no counterpart here. Invariant: asking costs; recording does not.

pub mod access;
pub mod exposition;
pub mod process;
pub mod requests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use skiff_store::RangeRequest;

use crate::aggregate;
use crate::server::Server;
use access::Access;
use exposition::{Exposition, escaped};
use requests::Requests;

#[derive(Default)]
pub struct Metrics {
    pub requests: Requests,
    pub access: Access,
    pub tls_handshake_errors: AtomicU64,
    pub panics: AtomicU64,
}

/// The body of `/metrics`.
pub async fn text(server: &Server) -> String {
    let mut out = Exposition::default();
    server.metrics.requests.expose(&mut out);
    server.metrics.access.expose(&mut out);
    server.flow_control.expose(&mut out);
    out.single(
        "apiserver_tls_handshake_errors_total",
        "counter",
        "[ALPHA] Number of requests dropped with 'TLS handshake error from' error",
        server.metrics.tls_handshake_errors.load(Relaxed),
    );
    out.single(
        "apiserver_panics_total",
        "counter",
        "[ALPHA] Number of requests whose handling panicked",
        server.metrics.panics.load(Relaxed),
    );
    if let Some(audit) = &server.audit {
        audit.expose(&mut out);
    }
    aggregate::availability::expose(server, &mut out);
    stored_objects(server, &mut out).await;
    process::expose(&mut out);
    out.into_text()
}

/// Counted when asked for: a step per stored key, and none per write.
async fn stored_objects(server: &Server, out: &mut Exposition) {
    let kinds = server.kinds();
    let prefixes: BTreeMap<&str, (&str, &str)> = kinds
        .iter()
        .filter(|kind| kind.has_verb("list"))
        .map(|kind| {
            (
                kind.key_prefix.as_str(),
                (kind.storage_version.group.as_str(), kind.resource.as_str()),
            )
        })
        .collect();
    let name = "apiserver_resource_objects";
    out.family(name, "gauge", "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.");
    let mut counted = Vec::new();
    for (prefix, (group, resource)) in prefixes {
        let found = server.store.range(RangeRequest::prefix(prefix).limit(0)).await;
        let count = found.map_or(-1, |found| i64::try_from(found.remaining).unwrap_or(i64::MAX));
        out.sample(name, &format!("group=\"{group}\",resource=\"{}\"", escaped(resource)), count);
        let qualified =
            if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") };
        counted.push((qualified, count));
    }
    let name = "apiserver_storage_objects";
    out.family(name, "gauge", "[STABLE] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.");
    for (resource, count) in counted {
        out.sample(name, &format!("resource=\"{}\"", escaped(&resource)), count);
    }
}
