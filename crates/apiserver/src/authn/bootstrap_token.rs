//! Bootstrap tokens: `<id>.<secret>`, kept as Secrets in kube-system, used by joining nodes.
//!
//! Counterpart: `plugin/pkg/auth/authenticator/token/bootstrap`.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;

use crate::server::Server;
use crate::user::UserInfo;

const GROUP: &str = "system:bootstrappers";

/// The error tells an administrator why; it is never shown to the caller.
pub async fn user(server: &Server, token: &str) -> Result<UserInfo, String> {
    let (id, secret) = token.split_once('.').ok_or("invalid bearer token")?;
    if !is_token_part(id, 6) || !is_token_part(secret, 16) {
        return Err("invalid bearer token".to_owned());
    }
    let key = format!("/registry/secrets/kube-system/bootstrap-token-{id}");
    let entry = server.store.get(&key).await.map_err(|error| error.to_string())?;
    let object: Value = entry
        .and_then(|entry| serde_json::from_slice(&entry.value).ok())
        .ok_or("no such bootstrap token")?;
    check(&object, id, secret)?;
    Ok(identity(&object, id))
}

fn check(object: &Value, id: &str, secret: &str) -> Result<(), String> {
    let field = |name: &str| data(object, name).unwrap_or_default();
    if object["type"] != "bootstrap.kubernetes.io/token" {
        return Err("the secret has the wrong type".to_owned());
    }
    if field("token-id") != id || !same(&field("token-secret"), secret) {
        return Err("the token does not match".to_owned());
    }
    if field("usage-bootstrap-authentication") != "true" {
        return Err("the token is not for authentication".to_owned());
    }
    match field("expiration").as_str() {
        "" => Ok(()),
        text => match text.parse::<jiff::Timestamp>() {
            Ok(at) if at > jiff::Timestamp::now() => Ok(()),
            _ => Err("the token has expired".to_owned()),
        },
    }
}

fn identity(object: &Value, id: &str) -> UserInfo {
    let extra = data(object, "auth-extra-groups").unwrap_or_default();
    let extra =
        extra.split(',').map(str::trim).filter(|group| group.starts_with("system:bootstrappers:"));
    let groups: Vec<&str> = std::iter::once(GROUP).chain(extra).collect();
    UserInfo::new(format!("system:bootstrap:{id}"), &groups)
}

fn data(secret: &Value, key: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

fn is_token_part(text: &str, length: usize) -> bool {
    text.len() == length
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Compares without telling by its time how much was right.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}
