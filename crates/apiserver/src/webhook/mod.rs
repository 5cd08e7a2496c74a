//! The way out: how this server reaches webhooks and aggregated API servers over HTTPS.
//!
//! [`ClientConfig`] (a URL or a Service, and whom to trust there) -> a pooled connection -> a JSON answer, or a
//! [`CallError`] that speaks upstream's words. Admission, CRD conversion, authentication, authorisation and aggregation share it;
//! [`dial`] alone serves those who splice streams. Counterpart: `k8s.io/apiserver/pkg/util/webhook` and `util/proxy`.
//! Invariant: a call ends by its timeout, an answer is never larger than `client::MAX_ANSWER`, and nothing here reads credentials of a
//! request.

mod client;
mod config;
mod dial;
mod kubeconfig;
mod review;
mod service;
mod tls;

pub use client::{CallError, Connector, Post, WebhookClient, meaning_of};
pub use config::{ClientConfig, ConfigError, Endpoint};
pub use dial::{Destination, Io, dial};
pub use kubeconfig::{KubeconfigError, Target};
pub use review::{Patience, Reviewer};
pub use service::{ResolveError, resolve};
pub use tls::{Trust, client_tls};
