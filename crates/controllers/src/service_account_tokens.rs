//! Secrets of type `kubernetes.io/service-account-token`: filled for their account, gone without it.
//!
//! Secrets and ServiceAccounts in; token, CA and namespace in the Secret's data, or its deletion, out. Counterpart:
//! `pkg/controller/serviceaccount/tokens_controller.go`. Invariant: a Secret that names an account by uid belongs to
//! that account and to no later one of its name.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use serde_json::{Value, json};

use crate::bootstrap_tokens::TYPED_SECRETS;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};

pub const NAME: &str = "tokens-controller";
const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// Signs the claims of a token.
pub type TokenIssuer = Arc<dyn Fn(&Value) -> Result<String, String> + Send + Sync>;

pub const DEF: ControllerDef = ControllerDef {
    name: NAME,
    workers: 2,
    watches: |edges| {
        edges.selected::<Secret>(TYPED_SECRETS, |_, delta| {
            let secret = delta.latest();
            let concerned = secret.type_.as_deref() == Some(TYPE);
            concerned.then(|| Key::of(secret.as_ref())).into_iter().collect()
        });
        edges.mapped::<ServiceAccount>(|caches, delta| {
            let account = &delta.latest().metadata;
            let namespace = account.namespace.clone().unwrap_or_default();
            let secrets = caches.store::<Secret>().in_namespace(&namespace);
            let named =
                |secret: &&Arc<Secret>| annotation(secret, ACCOUNT) == account.name.as_deref();
            secrets.iter().filter(named).map(|secret| Key::of(secret.as_ref())).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

#[derive(Debug, PartialEq)]
enum Op {
    Nothing,
    Delete,
    /// What is missing: the token, or what stands beside it.
    Fill {
        token: bool,
    },
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(secret) = ctx.lister::<Secret>().get(&key) else { return Ok(Action::Done) };
    let name = annotation(&secret, ACCOUNT).unwrap_or_default();
    let of = Key::new(&key.namespace, name);
    let mut account = ctx.lister::<ServiceAccount>().get(&of);
    let mut op = plan(&secret, account.as_deref(), &ctx.config.root_ca);
    if op != Op::Nothing {
        // Past the cache: filled for an account that was made anew since, the Secret would be taken for the old one's.
        account = ctx.get_live::<ServiceAccount>(&of).await?;
        op = plan(&secret, account.as_deref(), &ctx.config.root_ca);
    }
    match op {
        Op::Nothing => {}
        Op::Delete => ctx.delete(&*secret).await?,
        Op::Fill { token } => {
            let (Some(account), Some(issue)) = (account, &ctx.config.token_issuer) else {
                return Ok(Action::Done);
            };
            let token = match token {
                true => Some(issue(&claims(&secret, &account)).map_err(Error::Invalid)?),
                false => None,
            };
            ctx.update(&filled(&secret, &account, &ctx.config.root_ca, token)).await?;
        }
    }
    Ok(Action::Done)
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str) -> Op {
    if secret.type_.as_deref() != Some(TYPE) || secret.metadata.deletion_timestamp.is_some() {
        return Op::Nothing;
    }
    let claimed = annotation(secret, ACCOUNT_UID).filter(|uid| !uid.is_empty());
    let Some(account) = account else {
        // Without a uid the account may still come.
        return if claimed.is_some() { Op::Delete } else { Op::Nothing };
    };
    let uid = account.metadata.uid.as_deref();
    if claimed.is_some() && claimed != uid {
        return Op::Delete;
    }
    let holds = |key: &str, wanted: &str| data(secret, key) == Some(wanted.as_bytes());
    let token = data(secret, "token").is_none_or(<[u8]>::is_empty);
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let complete = !token
        && claimed.is_some()
        && holds("ca.crt", root_ca)
        && data(secret, "namespace").is_some_and(|held| held == namespace.as_bytes());
    if complete { Op::Nothing } else { Op::Fill { token } }
}

fn filled(
    secret: &Secret,
    account: &ServiceAccount,
    root_ca: &str,
    token: Option<String>,
) -> Secret {
    let mut secret = secret.clone();
    let namespace = secret.metadata.namespace.clone().unwrap_or_default();
    let uid = account.metadata.uid.clone().unwrap_or_default();
    secret.metadata.annotations.get_or_insert_default().insert(ACCOUNT_UID.to_owned(), uid);
    let held: &mut BTreeMap<String, ByteString> = secret.data.get_or_insert_default();
    let mut put = |key: &str, text: &str| {
        held.insert(key.to_owned(), ByteString(text.as_bytes().to_vec()));
    };
    put("ca.crt", root_ca);
    put("namespace", &namespace);
    if let Some(token) = token {
        put("token", &token);
    }
    secret
}

/// What such a token says; it has no end.
fn claims(secret: &Secret, account: &ServiceAccount) -> Value {
    let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
    let name = account.metadata.name.as_deref().unwrap_or_default();
    json!({
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.metadata.name,
        "kubernetes.io/serviceaccount/service-account.name": name,
        "kubernetes.io/serviceaccount/service-account.uid": account.metadata.uid,
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
    })
}

fn annotation<'a>(secret: &'a Secret, key: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn data<'a>(secret: &'a Secret, key: &str) -> Option<&'a [u8]> {
    Some(&secret.data.as_ref()?.get(key)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn a_secret_is_filled_once_and_belongs_to_one_account() {
        let secret: Secret = yaml(&format!(
            "{{metadata: {{name: s, namespace: n, annotations: {{{ACCOUNT}: a}}}}, type: {TYPE}}}"
        ));
        let account: ServiceAccount = yaml("{metadata: {name: a, namespace: n, uid: one}}");
        assert_eq!(plan(&secret, None, "CA"), Op::Nothing);
        assert_eq!(plan(&secret, Some(&account), "CA"), Op::Fill { token: true });
        let full = filled(&secret, &account, "CA", Some("t".to_owned()));
        assert_eq!(plan(&full, Some(&account), "CA"), Op::Nothing);
        assert_eq!(plan(&full, Some(&account), "NEW CA"), Op::Fill { token: false });
        let later: ServiceAccount = yaml("{metadata: {name: a, namespace: n, uid: two}}");
        assert_eq!(plan(&full, Some(&later), "CA"), Op::Delete);
        assert_eq!(plan(&full, None, "CA"), Op::Delete);
        let other = Secret { type_: Some("Opaque".to_owned()), ..full };
        assert_eq!(plan(&other, None, "CA"), Op::Nothing);
    }
}
