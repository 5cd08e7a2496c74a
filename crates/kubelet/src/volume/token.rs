//! Service account tokens bound to pods.
//!
//! Consumes who asks and for how long, emits tokens from the TokenRequest API. Counterpart: `pkg/kubelet/token`.
//! Invariant: a token is handed out again until four fifths of its life (or a day) have passed, so that writing a
//! volume twice asks the API server once.

use std::{collections::HashMap, sync::Mutex};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount,
};
use kube::{Api, Client, api::PostParams};

use crate::pod::desired::PodKey;

const MAX_AGE: SignedDuration = SignedDuration::from_hours(24);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TokenQuery {
    pub pod: PodKey,
    pub service_account: String,
    pub audience: Option<String>,
    pub lifetime_seconds: i64,
}

#[derive(Clone)]
pub struct Token {
    pub token: String,
    pub expires: Timestamp,
    pub refresh_at: Timestamp,
}

pub struct TokenSource {
    client: Client,
    issued: Mutex<HashMap<TokenQuery, Token>>,
}

// === impl TokenSource ===

impl TokenSource {
    pub fn new(client: Client) -> Self {
        TokenSource { client, issued: Mutex::default() }
    }

    pub async fn get(&self, query: TokenQuery) -> Result<Token, String> {
        let now = Timestamp::now();
        let cached = self.issued.lock().expect("no holder panics").get(&query).cloned();
        if let Some(token) = cached.filter(|t| t.refresh_at > now) {
            return Ok(token);
        }
        let token = self.request(&query, now).await.map_err(|e| e.to_string())?;
        let mut issued = self.issued.lock().expect("no holder panics");
        issued.retain(|_, t| t.refresh_at > now);
        issued.insert(query, token.clone());
        Ok(token)
    }

    async fn request(&self, query: &TokenQuery, now: Timestamp) -> kube::Result<Token> {
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &query.pod.namespace);
        let body = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(query.audience.iter().cloned().collect()),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".into()),
                    kind: Some("Pod".into()),
                    name: Some(query.pod.name.clone()),
                    uid: Some(query.pod.uid.clone()),
                }),
                expiration_seconds: Some(query.lifetime_seconds),
            }),
            ..TokenRequest::default()
        };
        let answer =
            api.create_token_request(&query.service_account, &PostParams::default(), &body).await?;
        let status = answer.status.unwrap_or_default();
        let expires = status.expiration_timestamp.map_or(now, |t| t.0);
        let refresh_at = now + (expires.duration_since(now) * 4 / 5).min(MAX_AGE);
        Ok(Token { token: status.token.unwrap_or_default(), expires, refresh_at })
    }
}
