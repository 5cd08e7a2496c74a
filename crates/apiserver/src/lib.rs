//! The request path: the only hub of a cluster.
//!
//! A request (from a socket or from this process) goes in, a revision of the store or an answer comes out. Everything
//! else in Skiff is a client of this crate. The modules are listed in the order a request meets them. Counterpart: kube-apiserver.
//! Invariant: controllers, scheduler and kubelet are not known here, and nobody else opens the store.

mod config;
mod configuration;
mod server;

mod admission;
mod audit;
mod authn;
mod authz;
mod call;
mod component_statuses;
mod connection;
mod deadline;
mod dispatch;
mod encode;
mod encryption;
mod expression;
mod flow_control;
mod follow;
mod health;
mod list_body;
mod message_socket;
mod metrics;
mod negotiate;
mod network;
mod nonresource;
mod objects;
mod openapi;
mod ownership;
mod path;
mod query;
mod recent;
mod remainder;
mod reply;
mod request_info;
mod reviews;
mod stalled;
mod storage;
mod subresources;
mod typed;
mod unread;
mod user;
mod verbs;
mod warnings;
mod webhook;
mod zpages;

mod aggregate;
mod bootstrap;
mod custom;
mod identity_lease;
mod pki;

pub use aggregate::Backend;
pub use audit::AuditConfig;
pub use audit::log::LogTerms as AuditLogTerms;
pub use authn::{
    AuthenticationConfig, AuthenticationFile, FrontProxyConfig, JwtConfigError, JwtIssuer,
    OidcFlags, TokenWebhookConfig,
};
pub use authz::{AuthorizationModeError, AuthorizerConfig};
pub use component_statuses::Component;
pub use config::{Anonymous, ApiServerConfig, Cidr, CidrError};
pub use configuration::FileError;
pub use encryption::EncryptionConfig;
pub use pki::{Identity, Leaf, Pki, PkiError};
pub use reply::{Body, BoxError};
pub use server::{ApiServer, BuildError, LocalService};
pub use typed::TypedService;
pub use user::UserInfo;
