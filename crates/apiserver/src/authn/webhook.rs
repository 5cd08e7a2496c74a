//! The webhook token authenticator: asks a remote service by TokenReview.
//!
//! Token -> the user it says, remembered for a while. Counterpart: `plugin/pkg/authenticator/token/webhook` behind the token
//! cache. Invariant: failures to ask are never remembered.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Authenticated;
use super::cache::TokenCache;
use crate::user::UserInfo;
use crate::webhook::{KubeconfigError, Patience, Reviewer, Target, WebhookClient};

const GROUP: &str = "authentication.k8s.io";

/// `--authentication-token-webhook-*`.
#[derive(Clone, Debug)]
pub struct TokenWebhookConfig {
    pub kubeconfig: PathBuf,
    /// Of the TokenReview that is sent.
    pub version: String,
    pub cache_ttl: Duration,
}

pub struct TokenWebhook {
    reviewer: Reviewer,
    cache_ttl: Duration,
    /// The status that was answered, until when it holds, and the audiences it was asked for.
    known: TokenCache<(Instant, Vec<String>, Value)>,
}

impl TokenWebhook {
    pub fn new(config: &TokenWebhookConfig) -> Result<TokenWebhook, KubeconfigError> {
        Ok(TokenWebhook {
            reviewer: Reviewer {
                target: Target::read(&config.kubeconfig)?,
                api_version: format!("{GROUP}/{}", config.version),
                kind: "TokenReview",
                patience: Patience { timeout: Duration::from_secs(10), ..Patience::default() },
            },
            cache_ttl: config.cache_ttl,
            known: TokenCache::default(),
        })
    }

    /// `None` if the service does not know the token. `own` are this server's audiences.
    pub async fn authenticate(
        &self,
        client: &WebhookClient,
        token: &str,
        wanted: &[String],
        own: &[String],
    ) -> Result<Option<Authenticated>, String> {
        let known = self.known.get(token).filter(|(until, audiences, _)| {
            *until > Instant::now() && audiences.as_slice() == wanted
        });
        let status = match known {
            Some((.., status)) => status,
            None => self.ask(client, token, wanted).await?,
        };
        read(&status, wanted, own)
    }

    async fn ask(
        &self,
        client: &WebhookClient,
        token: &str,
        wanted: &[String],
    ) -> Result<Value, String> {
        let spec = json!({ "token": token, "audiences": wanted });
        let status = self.reviewer.ask(client, &spec).await.map_err(|error| {
            tracing::error!(%error, "the token webhook cannot be asked");
            error.to_string()
        })?;
        if !self.cache_ttl.is_zero() {
            let until = Instant::now() + self.cache_ttl;
            self.known.put(token, (until, wanted.to_vec(), status.clone()));
        }
        Ok(status)
    }
}

fn read(
    status: &Value,
    wanted: &[String],
    own: &[String],
) -> Result<Option<Authenticated>, String> {
    let texts = |list: &Value| -> Vec<String> {
        let items = list.as_array().into_iter().flatten();
        items.filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let told = texts(&status["audiences"]);
    let good = if told.is_empty() { own } else { &told };
    let audiences: Vec<String> = wanted.iter().filter(|one| good.contains(one)).cloned().collect();
    if audiences.is_empty() {
        return Ok(None);
    }
    if status["authenticated"] != true {
        return match status["error"].as_str() {
            Some(error) if !error.is_empty() => Err(error.to_owned()),
            _ => Ok(None),
        };
    }
    let user = &status["user"];
    let text = |field: &str| user[field].as_str().unwrap_or("").to_owned();
    let extra = user["extra"].as_object().into_iter().flatten();
    Ok(Some(Authenticated {
        user: UserInfo {
            name: text("username"),
            uid: text("uid"),
            groups: texts(&user["groups"]),
            extra: extra.map(|(key, values)| (key.clone(), texts(values))).collect(),
        },
        audiences,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn audiences_that_are_not_told_are_the_servers_own() {
        let good =
            json!({ "authenticated": true, "user": { "username": "jane", "groups": ["g"] } });
        let told = read(&good, &own(&["api", "other"]), &own(&["api"])).expect("no error");
        let told = told.expect("known");
        assert_eq!((told.user.name.as_str(), told.audiences), ("jane", own(&["api"])));
        assert!(read(&good, &own(&["other"]), &own(&["api"])).expect("no error").is_none());
        let mut narrow = good;
        narrow["audiences"] = json!(["other"]);
        let told = read(&narrow, &own(&["other"]), &own(&["api"])).expect("no error");
        assert_eq!(told.expect("known").audiences, own(&["other"]));
    }

    #[test]
    fn a_refusal_may_say_why() {
        let refused = json!({ "authenticated": false, "error": "expired" });
        assert_eq!(read(&refused, &own(&["a"]), &own(&["a"])).expect_err("refused"), "expired");
        let unknown = json!({ "authenticated": false });
        assert!(read(&unknown, &own(&["a"]), &own(&["a"])).expect("no error").is_none());
    }
}
