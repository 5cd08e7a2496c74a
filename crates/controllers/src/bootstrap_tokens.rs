//! Bootstrap tokens: `cluster-info` is signed for each, and each goes when its time has come.
//!
//! Secrets of type `bootstrap.kubernetes.io/token` in; signatures on the ConfigMap `kube-public/cluster-info`, and deletions,
//! out. The one ConfigMap is read when tokens change, and looked at now and then while there are any. A joining node that knows a token can so tell whether the CA it is shown is the cluster's. Counterpart:
//! `pkg/controller/bootstrap`. Invariant: a signature is of the kubeconfig that stands beside it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use serde_json::json;

use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};

const TYPE: &str = "bootstrap.kubernetes.io/token";
/// What a controller may watch of Secrets; all that do watch the same, as they share one cache.
pub const TYPED_SECRETS: &str = "type!=Opaque";
/// How often the ConfigMap is looked at while there are tokens.
const LOOK: Duration = Duration::from_secs(600);
const NAMESPACE: &str = "kube-system";
const PREFIX: &str = "jws-kubeconfig-";

pub const SIGNER: ControllerDef = ControllerDef {
    name: "bootstrap-signer",
    workers: 1,
    watches: |edges| {
        edges.selected::<Secret>(TYPED_SECRETS, |_, delta| {
            is_token(delta.latest()).then(cluster_info).into_iter().collect()
        });
    },
    reconcile: |ctx, _| sign(ctx).boxed(),
};

pub const CLEANER: ControllerDef = ControllerDef {
    name: "token-cleaner",
    workers: 1,
    watches: |edges| {
        edges.selected::<Secret>(TYPED_SECRETS, |_, delta| {
            let secret = delta.latest();
            is_token(secret).then(|| Key::of(secret.as_ref())).into_iter().collect()
        });
    },
    reconcile: |ctx, key| clean(ctx, key).boxed(),
};

fn is_token(secret: &Secret) -> bool {
    secret.type_.as_deref() == Some(TYPE)
}

fn cluster_info() -> Key {
    Key::new("kube-public", "cluster-info")
}

// === the signer ===

async fn sign(ctx: Arc<Ctx>) -> Result<Action> {
    let key = cluster_info();
    let maps: Api<ConfigMap> = Api::namespaced(ctx.client.clone(), &key.namespace);
    let unread = |source| Error::Read { what: format!("configmap {key}"), source };
    let Some(map) = maps.get_opt(&key.name).await.map_err(unread)? else {
        return Ok(Action::Done);
    };
    let tokens = ctx.lister::<Secret>().in_namespace(NAMESPACE);
    if let Some(data) = signed(&map, &tokens, ctx.now()) {
        ctx.update(&ConfigMap { data: Some(data), ..map }).await?;
    }
    Ok(match tokens.iter().any(|secret| is_token(secret)) {
        true => Action::After(LOOK),
        false => Action::Done,
    })
}

/// The data that the map should have, if it has other.
fn signed(
    map: &ConfigMap,
    tokens: &[Arc<Secret>],
    now: Timestamp,
) -> Option<BTreeMap<String, String>> {
    let data = map.data.clone().unwrap_or_default();
    let content = data.get("kubeconfig")?.clone();
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(key, _)| !key.starts_with(PREFIX)).map(owned).collect();
    for token in tokens.iter().filter_map(|secret| Token::read(secret, now)) {
        wanted.insert(format!("{PREFIX}{}", token.id), token.signature(&content));
    }
    (wanted != data).then_some(wanted)
}

fn owned((key, value): (&String, &String)) -> (String, String) {
    (key.clone(), value.clone())
}

/// A token that is good for signing.
struct Token {
    id: String,
    secret: String,
}

impl Token {
    fn read(secret: &Secret, now: Timestamp) -> Option<Token> {
        let field = |key: &str| text(secret, key);
        let (id, value) = (field("token-id")?, field("token-secret")?);
        let named = secret.metadata.name.as_deref() == Some(&format!("bootstrap-token-{id}"));
        let good = is_token(secret)
            && named
            && field("usage-bootstrap-signing").as_deref() == Some("true")
            && expiry(secret).is_none_or(|at| at > now);
        good.then_some(Token { id, secret: value })
    }

    /// A JSON web signature whose content is left out: it stands beside it.
    fn signature(&self, content: &str) -> String {
        let header = json!({ "alg": "HS256", "kid": self.id }).to_string();
        let [header, payload] = [&header, content].map(|text| BASE64_URL_SAFE_NO_PAD.encode(text));
        let key = hmac::Key::new(hmac::HMAC_SHA256, self.secret.as_bytes());
        let mac = hmac::sign(&key, format!("{header}.{payload}").as_bytes());
        format!("{header}..{}", BASE64_URL_SAFE_NO_PAD.encode(mac))
    }
}

// === the cleaner ===

async fn clean(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(secret) = ctx.lister::<Secret>().get(&key) else { return Ok(Action::Done) };
    let Some(at) = expiry(&secret).filter(|_| key.namespace == NAMESPACE && is_token(&secret))
    else {
        return Ok(Action::Done);
    };
    if at > ctx.now() {
        return Ok(Action::After(at.duration_since(ctx.now()).unsigned_abs()));
    }
    ctx.delete(&*secret).await?;
    Ok(Action::Done)
}

/// When the token ends: at once, if what it says cannot be read; never, if it says nothing.
fn expiry(secret: &Secret) -> Option<Timestamp> {
    let said = text(secret, "expiration")?;
    Some(said.parse().unwrap_or(Timestamp::MIN))
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    fn token(id: &str, usage: &str, expiration: &str) -> Arc<Secret> {
        let encode = |text: &str| base64::prelude::BASE64_STANDARD.encode(text);
        Arc::new(yaml(&format!(
            "{{metadata: {{name: bootstrap-token-{id}, namespace: kube-system}}, type: {TYPE}, data: {{token-id: {}, \
             token-secret: {}, {usage}: {}, expiration: {}}}}}",
            encode(id),
            encode("0123456789abcdef"),
            encode("true"),
            encode(expiration),
        )))
    }

    #[test]
    fn good_tokens_sign_once_and_the_signatures_of_others_go() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().expect("a time");
        let (later, before) = ("2026-01-02T00:00:00Z", "2025-01-02T00:00:00Z");
        let tokens = [
            token("abcdef", "usage-bootstrap-signing", later),
            token("unsign", "usage-bootstrap-authentication", later),
            token("ending", "usage-bootstrap-signing", before),
        ];
        let map: ConfigMap = yaml(
            "{metadata: {name: cluster-info}, data: {kubeconfig: text, jws-kubeconfig-gone00: x}}",
        );
        let data = signed(&map, &tokens, now).expect("other data");
        let keys: Vec<&str> = data.keys().map(String::as_str).collect();
        assert_eq!(keys, ["jws-kubeconfig-abcdef", "kubeconfig"]);
        let again = ConfigMap { data: Some(data), ..map };
        assert_eq!(signed(&again, &tokens, now), None);
    }

    /// Made with another implementation of JWS.
    #[test]
    fn a_signature_is_a_detached_jws() {
        let token = Token { id: "abcdef".to_owned(), secret: "key".to_owned() };
        let signature = token.signature("payload");
        assert_eq!(
            signature,
            "eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9..eU8pnTvQJlpG0gPcBCoRITTJvdWfxBszveKafXLxyGg"
        );
        assert_ne!(signature, token.signature("other"));
    }
}
