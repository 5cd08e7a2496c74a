//! Who a request is from: anonymous users, certificates, tokens, front proxies.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args};
use skiff_apiserver::{
    Anonymous, ApiServerConfig, AuthenticationFile, JwtIssuer, OidcFlags, TokenWebhookConfig,
};

use super::super::Result;

#[derive(Debug, Args)]
#[command(next_help_heading = "Authentication")]
pub struct AuthenticationArgs {
    /// Let requests without credentials reach what RBAC grants system:anonymous
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    anonymous_auth: bool,
    /// Further authorities of client certificates
    #[arg(long, value_name = "FILE")]
    client_ca_file: Option<PathBuf>,
    /// Static tokens: token,user,uid,"group1,group2" a line
    #[arg(long, value_name = "FILE")]
    token_auth_file: Option<PathBuf>,
    /// An AuthenticationConfiguration: issuers of JSON web tokens, and what is open to anonymous requests
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc_issuer_url"])]
    authentication_config: Option<PathBuf>,
    /// Kubeconfig of a service that is asked who a token is from
    #[arg(long, value_name = "FILE")]
    authentication_token_webhook_config_file: Option<PathBuf>,
    /// Version of the TokenReview that it is sent
    #[arg(long, value_name = "VERSION", default_value = "v1beta1", value_parser = ["v1", "v1beta1"])]
    authentication_token_webhook_version: String,
    /// Seconds for which its answers hold
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    authentication_token_webhook_cache_ttl: u64,
    #[command(flatten)]
    service_accounts: ServiceAccountArgs,
    #[command(flatten)]
    oidc: OidcArgs,
    #[command(flatten)]
    front_proxy: FrontProxyArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Service account tokens")]
struct ServiceAccountArgs {
    /// Issuer of service account tokens
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    service_account_issuer: String,
    /// Audiences of this server, for tokens [default: the issuer]
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Keys that service account tokens may be signed with
    #[arg(long, value_name = "FILE")]
    service_account_key_file: Vec<PathBuf>,
    /// The key that signs service account tokens [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    service_account_signing_key_file: Option<PathBuf>,
    /// Let the tokens of pods live for a year while clients learn to read them anew
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    service_account_extend_token_expiration: bool,
    /// Longest life, in seconds, that a token can be asked for
    #[arg(long, value_name = "SECONDS")]
    service_account_max_token_expiration: Option<i64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "OpenID Connect")]
struct OidcArgs {
    /// Issuer of OpenID Connect tokens
    #[arg(long, value_name = "URL", requires = "oidc_client_id")]
    oidc_issuer_url: Option<String>,
    /// The audience that their tokens are for
    #[arg(long, value_name = "ID")]
    oidc_client_id: Option<String>,
    /// Authority of the issuer's certificate [default: the system's]
    #[arg(long, value_name = "FILE")]
    oidc_ca_file: Option<PathBuf>,
    /// Claim that names the user
    #[arg(long, value_name = "CLAIM", default_value = "sub")]
    oidc_username_claim: String,
    /// What goes before the user's name; - for nothing [default: the issuer, unless the claim is email]
    #[arg(long, value_name = "PREFIX", allow_hyphen_values = true)]
    oidc_username_prefix: Option<String>,
    /// Claim that lists the groups
    #[arg(long, value_name = "CLAIM")]
    oidc_groups_claim: Option<String>,
    /// What goes before the name of a group
    #[arg(long, value_name = "PREFIX", default_value = "")]
    oidc_groups_prefix: String,
    /// A claim that must have a value
    #[arg(long, value_name = "CLAIM=VALUE")]
    oidc_required_claim: Vec<String>,
    /// Algorithms that tokens may be signed with
    #[arg(long, value_name = "NAME", default_value = "RS256", value_delimiter = ',')]
    oidc_signing_algs: Vec<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Authenticating proxies")]
struct FrontProxyArgs {
    /// Authority of proxies that authenticate users themselves [default: the cluster's own]
    #[arg(long, value_name = "FILE")]
    requestheader_client_ca_file: Option<PathBuf>,
    /// Common names of such proxies; any if empty
    #[arg(long, value_name = "NAME", default_value = "front-proxy-client", value_delimiter = ',')]
    requestheader_allowed_names: Vec<String>,
    #[arg(long, value_name = "NAME", default_value = "X-Remote-User", value_delimiter = ',')]
    requestheader_username_headers: Vec<String>,
    #[arg(long, value_name = "NAME", default_value = "X-Remote-Uid", value_delimiter = ',')]
    requestheader_uid_headers: Vec<String>,
    #[arg(long, value_name = "NAME", default_value = "X-Remote-Group", value_delimiter = ',')]
    requestheader_group_headers: Vec<String>,
    #[arg(long, value_name = "PREFIX", default_value = "X-Remote-Extra-", value_delimiter = ',')]
    requestheader_extra_headers_prefix: Vec<String>,
}

// === impl AuthenticationArgs ===

impl AuthenticationArgs {
    /// Writes into the configuration what the flags say.
    pub fn apply(&self, api: &mut ApiServerConfig) -> Result<()> {
        if !self.anonymous_auth {
            api.anonymous = Anonymous::Refused;
        }
        api.token_file = self.token_auth_file.clone();
        api.authentication.client_ca_file = self.client_ca_file.clone();
        api.authentication.token_webhook = self.token_webhook();
        self.service_accounts.apply(api);
        self.front_proxy.apply(api);
        api.authentication.jwt = self.oidc.issuer()?.into_iter().collect();
        if let Some(path) = &self.authentication_config {
            let file = AuthenticationFile::read(path)?;
            api.authentication.jwt = file.jwt;
            if let Some((enabled, paths)) = file.anonymous {
                api.anonymous = if enabled { Anonymous::Allowed } else { Anonymous::Refused };
                api.authentication.anonymous_paths = paths;
            }
        }
        Ok(())
    }

    fn token_webhook(&self) -> Option<TokenWebhookConfig> {
        Some(TokenWebhookConfig {
            kubeconfig: self.authentication_token_webhook_config_file.clone()?,
            version: self.authentication_token_webhook_version.clone(),
            cache_ttl: Duration::from_secs(self.authentication_token_webhook_cache_ttl),
        })
    }
}

// === impl ServiceAccountArgs ===

impl ServiceAccountArgs {
    fn apply(&self, api: &mut ApiServerConfig) {
        api.issuer = self.service_account_issuer.clone();
        let authentication = &mut api.authentication;
        authentication.api_audiences = self.api_audiences.clone();
        authentication.service_account_keys = self.service_account_key_file.clone();
        authentication.service_account_signing_key = self.service_account_signing_key_file.clone();
        authentication.extend_token_expiration = self.service_account_extend_token_expiration;
        authentication.max_token_expiration = self.service_account_max_token_expiration;
    }
}

// === impl OidcArgs ===

impl OidcArgs {
    fn issuer(&self) -> Result<Option<JwtIssuer>> {
        let Some(issuer_url) = self.oidc_issuer_url.clone() else { return Ok(None) };
        let flags = OidcFlags {
            issuer_url,
            client_id: self.oidc_client_id.clone().unwrap_or_default(),
            ca_file: self.oidc_ca_file.clone(),
            username_claim: self.oidc_username_claim.clone(),
            username_prefix: self.oidc_username_prefix.clone(),
            groups_claim: self.oidc_groups_claim.clone(),
            groups_prefix: self.oidc_groups_prefix.clone(),
            required_claims: self.oidc_required_claim.clone(),
            signing_algs: self.oidc_signing_algs.clone(),
        };
        Ok(Some(JwtIssuer::of_flags(flags)?))
    }
}

// === impl FrontProxyArgs ===

impl FrontProxyArgs {
    fn apply(&self, api: &mut ApiServerConfig) {
        let proxy = &mut api.authentication.front_proxy;
        proxy.ca_file = self.requestheader_client_ca_file.clone();
        proxy.allowed_names = self.requestheader_allowed_names.clone();
        proxy.username_headers = self.requestheader_username_headers.clone();
        proxy.uid_headers = self.requestheader_uid_headers.clone();
        proxy.group_headers = self.requestheader_group_headers.clone();
        proxy.extra_prefixes = self.requestheader_extra_headers_prefix.clone();
    }
}
