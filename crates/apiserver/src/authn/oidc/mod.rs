//! JSON web tokens of other issuers: OpenID Connect.
//!
//! A token whose issuer is configured -> its signature checked with the issuer's published keys, then its claims -> the user
//! that the mappings make of them. Counterpart: `plugin/pkg/authenticator/token/oidc`. Differs from upstream: keys are
//! fetched with the first token, and distributed claims are not followed.
//! Invariant: a claim is believed only after signature, issuer, audience and times are.

mod claims;
mod config;
mod keys;

use serde_json::Value;

use super::Authenticated;
use super::cache::TokenCache;
use super::service_account::issuer_of;
use crate::webhook::WebhookClient;

pub use config::{AuthenticationFile, JwtConfigError, JwtIssuer, OidcFlags};
use keys::PublishedKeys;

/// Everyone whose tokens are accepted beside the server's own.
pub struct JwtIssuers {
    issuers: Vec<(JwtIssuer, PublishedKeys)>,
    /// Claims of tokens whose signature was good.
    known: TokenCache<std::sync::Arc<Value>>,
}

impl JwtIssuers {
    pub fn new(configs: Vec<JwtIssuer>) -> JwtIssuers {
        let with_keys = |config: JwtIssuer| {
            let keys = PublishedKeys::new(&config);
            (config, keys)
        };
        JwtIssuers {
            issuers: configs.into_iter().map(with_keys).collect(),
            known: TokenCache::default(),
        }
    }

    /// `None` for a token of an issuer that is not configured. `own` are this server's audiences.
    pub async fn authenticate(
        &self,
        client: &WebhookClient,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Option<Result<Authenticated, String>> {
        if self.issuers.is_empty() {
            return None;
        }
        let issuer = issuer_of(token)?;
        let (config, keys) = self.issuers.iter().find(|(config, _)| config.issuer == issuer)?;
        let audiences: Vec<String> =
            own.iter().filter(|one| wanted.contains(one)).cloned().collect();
        if audiences.is_empty() {
            return None;
        }
        let claims = match self.known.get(token) {
            Some(claims) => claims,
            None => match keys.verify(client, token, &config.algorithms).await {
                Ok(claims) => {
                    let claims = std::sync::Arc::new(claims);
                    self.known.put(token, claims.clone());
                    claims
                }
                Err(fault) => return Some(Err(format!("oidc: verify token: {fault}"))),
            },
        };
        let user = claims::check(config, &claims, skiff_api::time::now())
            .and_then(|()| claims::user(config, &claims));
        Some(user.map(|user| Authenticated { user, audiences }))
    }
}
