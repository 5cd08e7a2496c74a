//! Tokens kept in Secrets of type `kubernetes.io/service-account-token`: no expiry, void when the Secret goes.
//!
//! Claims of a checked signature -> the service account, if Secret and account are what they were. The day of the last use
//! is noted on the Secret, so that unused ones can be cleaned up. Counterpart: `pkg/serviceaccount/legacy.go`.
//! Invariant: only the token that the Secret holds is good, whatever else was signed.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use skiff_api::meta::meta;

use super::{Authenticated, go_list};
use crate::objects;
use crate::path::{self, Caller};
use crate::server::Server;
use crate::user::{UserInfo, split_service_account};

pub const ISSUER: &str = "kubernetes/serviceaccount";
const LAST_USED: &str = "kubernetes.io/legacy-token-last-used";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

pub async fn verify(
    server: &Arc<Server>,
    token: &str,
    claims: &Value,
    wanted: &[String],
) -> Result<Authenticated, String> {
    let own = server.authn.tokens.audiences();
    let audiences: Vec<String> =
        wanted.iter().filter(|audience| own.contains(audience)).cloned().collect();
    if audiences.is_empty() {
        let (own, wanted) = (go_list(own), go_list(wanted));
        return Err(format!("token audiences {own} is invalid for the target audiences {wanted}"));
    }
    let told = Told::read(claims)?;
    let secret = objects::find(server, "secrets", told.namespace, told.secret).await;
    let secret = secret.ok().flatten().filter(|secret| !is_going(secret));
    let secret = secret.ok_or("Token has been invalidated")?;
    if !holds(&secret, token) {
        return Err("Token does not match server's copy".to_owned());
    }
    let account = check_account(server, &told).await?;
    note_use(server, &secret);
    if meta(&secret).label(INVALID_SINCE).is_some_and(|since| !since.is_empty()) {
        return Err(format!(
            "the token in secret {0}/{1} for service account {0}/{2} has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '{INVALID_SINCE}' label from the secret to temporarily allow use of this token",
            told.namespace, told.secret, told.account
        ));
    }
    Ok(Authenticated { user: account, audiences })
}

/// What the claims say.
struct Told<'a> {
    namespace: &'a str,
    secret: &'a str,
    account: &'a str,
    uid: &'a str,
}

impl Told<'_> {
    fn read(claims: &Value) -> Result<Told<'_>, String> {
        let claim = |name: &str, shown: &str| match claims[name].as_str() {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(format!("{shown} claim is missing")),
        };
        let subject = claim("sub", "sub")?;
        let told = Told {
            namespace: claim("kubernetes.io/serviceaccount/namespace", "namespace")?,
            secret: claim("kubernetes.io/serviceaccount/secret.name", "secretName")?,
            account: claim(
                "kubernetes.io/serviceaccount/service-account.name",
                "serviceAccountName",
            )?,
            uid: claim("kubernetes.io/serviceaccount/service-account.uid", "serviceAccountUID")?,
        };
        match split_service_account(subject) == Some((told.namespace, told.account)) {
            true => Ok(told),
            false => Err("sub claim is invalid".to_owned()),
        }
    }
}

async fn check_account(server: &Server, told: &Told<'_>) -> Result<UserInfo, String> {
    let Told { namespace, account: name, uid, .. } = *told;
    let account = objects::find(server, "serviceaccounts", namespace, name).await;
    let account = account.map_err(|status| status.message)?;
    let account = account.ok_or_else(|| format!("serviceaccounts {name:?} not found"))?;
    if is_going(&account) {
        return Err(format!("ServiceAccount {namespace}/{name} has been deleted"));
    }
    let is = meta(&account).uid();
    match is == uid {
        true => Ok(UserInfo { uid: uid.to_owned(), ..UserInfo::service_account(namespace, name) }),
        false => Err(format!("ServiceAccount UID ({is}) does not match claim ({uid})")),
    }
}

fn is_going(object: &Value) -> bool {
    meta(object).deletion_timestamp().is_some()
}

fn holds(secret: &Value, token: &str) -> bool {
    let held = secret["data"]["token"].as_str().and_then(|text| BASE64_STANDARD.decode(text).ok());
    held.is_some_and(|held| super::same(&held, token.as_bytes()))
}

/// Once a day, and not in the way of the request.
fn note_use(server: &Arc<Server>, secret: &Value) {
    let (server, meta) = (server.clone(), meta(secret));
    let today = skiff_api::time::format(skiff_api::time::now())[..10].to_owned();
    if meta.label(LAST_USED) == Some(today.as_str()) {
        return;
    }
    let path = format!("/api/v1/namespaces/{}/secrets/{}", meta.namespace(), meta.name());
    let patch = json!({ "metadata": { "uid": meta.uid(), "labels": { LAST_USED: today } } });
    let request = http::Request::patch(path)
        .header("content-type", "application/merge-patch+json")
        .body(http_body_util::Full::new(bytes::Bytes::from(patch.to_string())));
    let caller = Caller::Known(UserInfo::system("system:apiserver"));
    if let Ok(request) = request {
        tokio::spawn(async move {
            let answer = path::handle(server, caller, request).await;
            if !answer.status().is_success() {
                tracing::warn!(code = %answer.status(), "the use of a token cannot be noted");
            }
        });
    }
}
