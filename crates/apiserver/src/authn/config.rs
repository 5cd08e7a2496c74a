//! How callers prove who they are: the part of the configuration that authentication reads.
//!
//! Counterpart: the authentication flags of kube-apiserver, as a struct.

use std::path::PathBuf;

use super::{FrontProxyConfig, JwtIssuer, TokenWebhookConfig};

#[derive(Clone, Debug)]
pub struct AuthenticationConfig {
    /// What a service-account token must be for; empty means the issuer.
    pub api_audiences: Vec<String>,
    /// Issuers whose tokens are accepted though none are issued in their name any more.
    pub former_issuers: Vec<String>,
    /// Keys that service-account tokens may be signed with; empty means the cluster's own.
    pub service_account_keys: Vec<PathBuf>,
    /// The key that signs them; the cluster's own if there is none.
    pub service_account_signing_key: Option<PathBuf>,
    /// Whether a pod's token lives a year, though its client is told an hour, until all clients read it anew.
    pub extend_token_expiration: bool,
    pub token_webhook: Option<TokenWebhookConfig>,
    /// Issuers whose JSON web tokens are accepted beside the server's own.
    pub jwt: Vec<JwtIssuer>,
    /// Further authorities of client certificates, in a PEM file.
    pub client_ca_file: Option<PathBuf>,
    pub front_proxy: FrontProxyConfig,
    /// The only paths on which nobody need be somebody; empty means all, as far as that is allowed at all.
    pub anonymous_paths: Vec<String>,
    /// The longest life, in seconds, that a token can be asked for.
    pub max_token_expiration: Option<i64>,
}

impl Default for AuthenticationConfig {
    fn default() -> AuthenticationConfig {
        AuthenticationConfig {
            api_audiences: Vec::new(),
            former_issuers: Vec::new(),
            service_account_keys: Vec::new(),
            service_account_signing_key: None,
            extend_token_expiration: true,
            token_webhook: None,
            jwt: Vec::new(),
            client_ca_file: None,
            front_proxy: FrontProxyConfig::default(),
            anonymous_paths: Vec::new(),
            max_token_expiration: None,
        }
    }
}
