//! The keys an issuer publishes.
//!
//! Discovery document -> JSON web key set -> a token's claims, if one of the keys signed it. Fetched when first
//! needed, and again when a token names a key that is not known, but not at every such token. Counterpart: go-oidc's
//! `RemoteKeySet`. Invariant: only asymmetric algorithms that were configured are accepted.

use std::time::{Duration, Instant};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde_json::Value;
use tokio::sync::Mutex;

use super::JwtIssuer;
use crate::webhook::{ClientConfig, Endpoint, Trust, WebhookClient};

const TIMEOUT: Duration = Duration::from_secs(30);
/// How long a key set is not asked for again, whatever tokens name.
const PAUSE: Duration = Duration::from_secs(10);
const DISCOVERY: &str = "/.well-known/openid-configuration";

pub struct PublishedKeys {
    issuer: String,
    discovery: String,
    trust: Trust,
    fetched: Mutex<Option<(Instant, JwkSet)>>,
}

impl PublishedKeys {
    pub fn new(config: &JwtIssuer) -> PublishedKeys {
        let usual = || format!("{}{DISCOVERY}", config.issuer.trim_end_matches('/'));
        let trust = config.authority.clone();
        PublishedKeys {
            issuer: config.issuer.clone(),
            discovery: config.discovery_url.clone().unwrap_or_else(usual),
            trust: trust.map_or(Trust::System, |pem| Trust::Bundle(pem.into_bytes().into())),
            fetched: Mutex::default(),
        }
    }

    /// The claims of a token that one of the keys signed.
    pub async fn verify(
        &self,
        client: &WebhookClient,
        token: &str,
        algorithms: &[Algorithm],
    ) -> Result<Value, String> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| error.to_string())?;
        if !algorithms.contains(&header.alg) {
            return Err(format!("id token signed with unsupported algorithm {:?}", header.alg));
        }
        let mut fetched = self.fetched.lock().await;
        let fits = |keys: &JwkSet| match &header.kid {
            Some(kid) => keys.find(kid).is_some(),
            None => !keys.keys.is_empty(),
        };
        let fresh = fetched.as_ref().is_some_and(|(at, _)| at.elapsed() < PAUSE);
        if !fresh && !fetched.as_ref().is_some_and(|(_, keys)| fits(keys)) {
            *fetched = Some((Instant::now(), self.fetch(client).await?));
        }
        let (_, keys) = fetched.as_ref().expect("fetched a moment ago, or before");
        let named = |key: &&Jwk| header.kid.is_none() || key.common.key_id == header.kid;
        let candidates = keys.keys.iter().filter(named);
        let good = candidates.filter_map(|key| decode(token, key, header.alg)).next();
        good.ok_or_else(|| {
            "failed to verify signature: failed to verify id token signature".to_owned()
        })
    }

    async fn fetch(&self, client: &WebhookClient) -> Result<JwkSet, String> {
        let provider = self.get(client, &self.discovery).await?;
        if provider["issuer"] != self.issuer {
            let found = &provider["issuer"];
            return Err(format!("expected issuer {:?}, the provider says {found}", self.issuer));
        }
        let url = provider["jwks_uri"].as_str().ok_or("provider did not return JWKS URL")?;
        let keys = self.get(client, url).await?;
        serde_json::from_value(keys).map_err(|error| format!("failed to decode keys: {error}"))
    }

    async fn get(&self, client: &WebhookClient, url: &str) -> Result<Value, String> {
        let config = ClientConfig {
            endpoint: Endpoint::Url(url.to_owned()),
            trust: self.trust.clone(),
            identity: None,
        };
        client.get(&config, TIMEOUT).await.map_err(|error| error.to_string())
    }
}

/// Times and audience are looked at by who knows what is wanted.
fn decode(token: &str, key: &Jwk, algorithm: Algorithm) -> Option<Value> {
    let key = DecodingKey::from_jwk(key).ok()?;
    let mut rules = Validation::new(algorithm);
    (rules.validate_aud, rules.validate_exp) = (false, false);
    rules.required_spec_claims.clear();
    Some(jsonwebtoken::decode::<Value>(token, &key, &rules).ok()?.claims)
}
