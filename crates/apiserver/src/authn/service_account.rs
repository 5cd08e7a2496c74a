//! Service-account tokens: signed claims, bound to objects that must still be there.
//!
//! `issue` is what the token subresource and the kubelet's projected volumes use; `verify` runs on every request
//! that carries such a token. Counterpart: `pkg/serviceaccount`. Invariant: a token stops working when its
//! service account, or the pod, secret or node it is bound to, is deleted, whatever its expiry says.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skiff_api::meta::meta;

use crate::server::Server;
use crate::user::UserInfo;

/// Signs and checks the tokens of one issuer.
pub struct ServiceAccountTokens {
    issuer: String,
    audiences: Vec<String>,
    key_id: String,
    signing: EncodingKey,
    checking: DecodingKey,
    jwks: Value,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims {
    pub aud: Audience,
    pub exp: i64,
    pub iat: i64,
    pub iss: String,
    pub jti: String,
    #[serde(rename = "kubernetes.io")]
    pub kubernetes: Binding,
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
const LEEWAY: i64 = 10;

// === impl ServiceAccountTokens ===

impl ServiceAccountTokens {
    pub fn new(issuer: &str, audiences: Vec<String>, key: &KeyPair) -> ServiceAccountTokens {
        let key_id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(key.subject_public_key_info()));
        ServiceAccountTokens {
            issuer: issuer.to_owned(),
            audiences,
            signing: EncodingKey::from_ec_der(key.serialized_der()),
            checking: DecodingKey::from_ec_der(key.public_key_raw()),
            jwks: jwks(key, &key_id),
            key_id,
        }
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The body of `/openid/v1/jwks`.
    pub fn jwks(&self) -> &Value {
        &self.jwks
    }

    pub fn issue(&self, claims: &Claims) -> Result<String, jsonwebtoken::errors::Error> {
        let header =
            Header { typ: None, kid: Some(self.key_id.clone()), ..Header::new(Algorithm::ES256) };
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// Whether the token claims to be from this issuer; its signature is not looked at.
    pub fn is_ours(&self, token: &str) -> bool {
        let claims =
            token.split('.').nth(1).and_then(|part| BASE64_URL_SAFE_NO_PAD.decode(part).ok());
        let claims = claims.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
        claims.is_some_and(|claims| claims["iss"] == self.issuer.as_str())
    }

    /// The user of a good token, and which of `wanted` audiences it is for.
    pub async fn verify(
        &self,
        server: &Server,
        token: &str,
        wanted: &[String],
    ) -> Result<(UserInfo, Vec<String>), String> {
        let mut rules = Validation::new(Algorithm::ES256);
        rules.validate_aud = false;
        rules.validate_exp = false;
        rules.required_spec_claims.clear();
        let claims: Claims = jsonwebtoken::decode(token, &self.checking, &rules)
            .map_err(|error| error.to_string())?
            .claims;
        let audiences: Vec<String> =
            wanted.iter().filter(|audience| claims.aud.contains(audience)).cloned().collect();
        if audiences.is_empty() {
            return Err(format!(
                "[invalid bearer token, token audiences {} is invalid for the target audiences {}]",
                go_list(claims.aud.list()),
                go_list(wanted)
            ));
        }
        let now = jiff::Timestamp::now().as_second();
        if claims.exp + LEEWAY < now {
            return Err("[invalid bearer token, service account token has expired]".to_owned());
        }
        if claims.nbf - LEEWAY > now {
            return Err("[invalid bearer token, service account token is not valid yet]".to_owned());
        }
        self.check_bindings(server, &claims).await?;
        Ok((user(&claims), audiences))
    }

    async fn check_bindings(&self, server: &Server, claims: &Claims) -> Result<(), String> {
        let binding = &claims.kubernetes;
        let namespace = &binding.namespace;
        let account = &binding.serviceaccount;
        check_object(
            server,
            &format!("/registry/serviceaccounts/{namespace}/"),
            account,
            "service account",
        )
        .await?;
        let bound = [
            (&binding.pod, format!("/registry/pods/{namespace}/"), "pod"),
            (&binding.secret, format!("/registry/secrets/{namespace}/"), "secret"),
        ];
        for (reference, prefix, what) in bound {
            if let Some(reference) = reference {
                check_object(server, &prefix, reference, what).await?;
            }
        }
        match &binding.node {
            Some(node) if binding.pod.is_none() => {
                check_object(server, "/registry/minions/", node, "node").await
            }
            _ => Ok(()),
        }
    }
}

async fn check_object(
    server: &Server,
    prefix: &str,
    reference: &ObjectRef,
    what: &str,
) -> Result<(), String> {
    let entry = server
        .store
        .get(&format!("{prefix}{}", reference.name))
        .await
        .map_err(|error| error.to_string())?;
    let gone = || format!("[invalid bearer token, {what} {} has been invalidated]", reference.name);
    let object: Value =
        entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()).ok_or_else(gone)?;
    match meta(&object).uid() == reference.uid || reference.uid.is_empty() {
        true => Ok(()),
        false => Err(gone()),
    }
}

fn user(claims: &Claims) -> UserInfo {
    let binding = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
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

/// Texts as Go prints a list of them.
fn go_list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

/// The public key as a JSON web key set; an uncompressed P-256 point is 0x04, x, y.
fn jwks(key: &KeyPair, key_id: &str) -> Value {
    let point = key.public_key_raw();
    let [x, y] = [&point[1..33], &point[33..65]].map(|half| BASE64_URL_SAFE_NO_PAD.encode(half));
    json!({ "keys": [{
        "use": "sig", "kty": "EC", "kid": key_id, "crv": "P-256", "alg": "ES256", "x": x, "y": y,
    }] })
}
