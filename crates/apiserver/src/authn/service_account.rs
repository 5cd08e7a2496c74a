//! Service-account tokens: signed claims, bound to objects that must still be there.
//!
//! `issue` is what the token subresource uses; `verify` runs on every request that carries such a token: the signature is
//! checked once and remembered, what the token is bound to is looked up each time. Counterpart: `pkg/serviceaccount`.
//! Invariant: a token stops working when its service account, or the pod, secret or node it is bound to, is deleted,
//! whatever its expiry says.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bound;
use super::cache::TokenCache;
use super::keys::{self, CheckingKey, SigningKey};
use super::legacy_token;
use super::{Authenticated, go_list};
use crate::server::Server;
use crate::user::UserInfo;

/// Signs and checks the tokens of one server.
pub struct ServiceAccountTokens {
    issuer: String,
    /// Whose tokens are accepted, the own one first.
    issuers: Vec<String>,
    audiences: Vec<String>,
    signing: SigningKey,
    checking: Vec<CheckingKey>,
    known: TokenCache<Arc<Value>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default)]
    pub aud: Audience,
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    pub iss: String,
    #[serde(default)]
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Binding,
    #[serde(default)]
    pub nbf: i64,
    pub sub: String,
}

/// One text or a list: both are legal in a token.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Audience {
    Many(Vec<String>),
    One(String),
}

/// What the token is for and bound to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Binding {
    pub namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectRef>,
    pub serviceaccount: ObjectRef,
    /// When a client should have fetched a new one, for tokens that live longer than asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ObjectRef {
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

/// Clocks of nodes differ a little.
const LEEWAY: i64 = 60;

// === impl ServiceAccountTokens ===

impl ServiceAccountTokens {
    pub fn new(
        issuers: Vec<String>,
        audiences: Vec<String>,
        signing: SigningKey,
        checking: Vec<CheckingKey>,
    ) -> ServiceAccountTokens {
        let issuer = issuers.first().cloned().unwrap_or_default();
        let known = TokenCache::default();
        ServiceAccountTokens { issuer, issuers, audiences, signing, checking, known }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The body of `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        keys::key_set(&self.checking)
    }

    /// The body of `/.well-known/openid-configuration`, for a server at `address`.
    pub fn openid_configuration(&self, address: &str) -> Value {
        json!({
            "issuer": self.issuer,
            "jwks_uri": format!("https://{address}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": keys::algorithms(&self.checking),
        })
    }

    pub fn issue(&self, claims: &impl Serialize) -> Result<String, jsonwebtoken::errors::Error> {
        let kid = Some(self.signing.id.clone());
        let header = Header { typ: None, kid, ..Header::new(self.signing.algorithm) };
        jsonwebtoken::encode(&header, claims, &self.signing.key)
    }

    /// Who a token is from, if it is one of ours: `None` for any other kind of credential.
    pub async fn authenticate(
        &self,
        server: &Arc<Server>,
        token: &str,
        wanted: &[String],
    ) -> Option<Result<Authenticated, String>> {
        let claims = match self.known.get(token) {
            Some(claims) => claims,
            None => {
                let issuer = issuer_of(token)?;
                if issuer != legacy_token::ISSUER && !self.issuers.contains(&issuer) {
                    return None;
                }
                match self.check_signature(token) {
                    Ok(claims) => self.remember(token, claims),
                    Err(error) => return Some(Err(error)),
                }
            }
        };
        Some(match claims["iss"] == legacy_token::ISSUER {
            true => legacy_token::verify(server, token, &claims, wanted).await,
            false => self.verify(server, &claims, wanted).await,
        })
    }

    fn remember(&self, token: &str, claims: Value) -> Arc<Value> {
        let claims = Arc::new(claims);
        self.known.put(token, claims.clone());
        claims
    }

    /// By the key that the token names, or else by any.
    fn check_signature(&self, token: &str) -> Result<Value, String> {
        let named = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let by_name = self.checking.iter().find(|key| Some(&key.id) == named.as_ref());
        let candidates = match by_name {
            Some(key) => std::slice::from_ref(key),
            None => &self.checking,
        };
        let mut fault = "invalid signature, no keys found".to_owned();
        for key in candidates {
            let mut rules = Validation::new(key.algorithm);
            (rules.validate_aud, rules.validate_exp) = (false, false);
            rules.required_spec_claims.clear();
            match jsonwebtoken::decode::<Value>(token, &key.key, &rules) {
                Ok(token) => return Ok(token.claims),
                Err(error) => fault = error.to_string(),
            }
        }
        Err(fault)
    }

    async fn verify(
        &self,
        server: &Server,
        claims: &Value,
        wanted: &[String],
    ) -> Result<Authenticated, String> {
        let claims = Claims::deserialize(claims).map_err(|error| error.to_string())?;
        let audiences: Vec<String> =
            wanted.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if audiences.is_empty() {
            let (given, wanted) = (go_list(claims.aud.list()), go_list(wanted));
            return Err(format!(
                "token audiences {given} is invalid for the target audiences {wanted}"
            ));
        }
        let now = skiff_api::time::now();
        check_times(&claims, now)?;
        check_bindings(server, &claims.kubernetes, now).await?;
        Ok(Authenticated { user: user(&claims), audiences })
    }
}

/// Who claims to have issued a token; its signature is not looked at.
pub fn issuer_of(token: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Issuer {
        iss: String,
    }
    let payload = BASE64_URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    Some(serde_json::from_slice::<Issuer>(&payload).ok()?.iss)
}

fn check_times(claims: &Claims, now: i64) -> Result<(), String> {
    let fault = match () {
        () if claims.nbf > now + LEEWAY => "service account token is not valid yet",
        () if claims.exp < now - LEEWAY => "service account token has expired",
        () if claims.iat > now + LEEWAY => "service account token is issued in the future",
        () => return Ok(()),
    };
    Err(fault.to_owned())
}

async fn check_bindings(server: &Server, binding: &Binding, now: i64) -> Result<(), String> {
    let Binding { namespace, serviceaccount, .. } = binding;
    bound::account(server, namespace, serviceaccount, now - LEEWAY).await?;
    // The node of a pod is told for information: the pod's own life is what counts.
    let node = binding.node.as_ref().filter(|_| binding.pod.is_none());
    let others = [
        ("secrets", namespace.as_str(), "secret", binding.secret.as_ref()),
        ("pods", namespace.as_str(), "pod", binding.pod.as_ref()),
        ("minions", "", "node", node),
    ];
    for (resource, namespace, what, reference) in others {
        if let Some(reference) = reference {
            bound::object(server, resource, namespace, what, reference, now - LEEWAY).await?;
        }
    }
    Ok(())
}

fn user(claims: &Claims) -> UserInfo {
    let binding = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !claims.jti.is_empty() {
        add("credential-id", &format!("JTI={}", claims.jti));
    }
    for (key, reference) in [("node", &binding.node), ("pod", &binding.pod)] {
        if let Some(reference) = reference {
            add(&format!("{key}-name"), &reference.name);
            add(&format!("{key}-uid"), &reference.uid);
        }
    }
    let account = &binding.serviceaccount;
    UserInfo {
        uid: account.uid.clone(),
        extra,
        ..UserInfo::service_account(&binding.namespace, &account.name)
    }
}

// === impl Audience ===

impl Default for Audience {
    fn default() -> Audience {
        Audience::Many(Vec::new())
    }
}

impl Audience {
    fn list(&self) -> &[String] {
        match self {
            Audience::Many(list) => list,
            Audience::One(one) => std::slice::from_ref(one),
        }
    }

    fn contains(&self, audience: &str) -> bool {
        self.list().iter().any(|have| have == audience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_between_its_times_and_a_minute_around_them() {
        let claims = |exp, nbf, iat| Claims {
            aud: Audience::default(),
            exp,
            iat,
            iss: String::new(),
            jti: String::new(),
            kubernetes: Binding::default(),
            nbf,
            sub: String::new(),
        };
        for (exp, nbf, iat, fault) in [
            (1000, 900, 900, None),
            (945, 900, 900, None),
            (939, 900, 900, Some("service account token has expired")),
            (2000, 1061, 900, Some("service account token is not valid yet")),
            (2000, 900, 1061, Some("service account token is issued in the future")),
        ] {
            assert_eq!(check_times(&claims(exp, nbf, iat), 1000).err().as_deref(), fault);
        }
    }
}
