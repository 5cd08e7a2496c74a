//! Bootstrap tokens: `<id>.<secret>`, kept as Secrets in kube-system, used by joining nodes.
//!
//! Counterpart: `plugin/pkg/auth/authenticator/token/bootstrap`. Invariant: what is wrong with a token that has the right
//! form is told to the log and not to the caller, for whom it is simply unknown.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::Value;
use skiff_api::meta::meta;

use super::same;
use crate::objects;
use crate::server::Server;
use crate::user::UserInfo;

const GROUP: &str = "system:bootstrappers";
const TYPE: &str = "bootstrap.kubernetes.io/token";

pub async fn user(server: &Server, token: &str) -> Result<Option<UserInfo>, String> {
    let Some((id, secret)) = token.split_once('.') else { return Ok(None) };
    if !is_token_part(id, 6) || !is_token_part(secret, 16) {
        return Ok(None);
    }
    let name = format!("bootstrap-token-{id}");
    let found = objects::find(server, "secrets", "kube-system", &name).await;
    let Some(object) = found.map_err(|status| status.message)? else { return Ok(None) };
    match check(&object, id, secret).and_then(|()| identity(&object, id)) {
        Ok(user) => Ok(Some(user)),
        Err(why) => {
            tracing::info!(secret = name, why, "a bootstrap token is refused");
            Ok(None)
        }
    }
}

fn check(object: &Value, id: &str, secret: &str) -> Result<(), String> {
    let field = |name: &str| data(object, name).unwrap_or_default();
    let fault = if meta(object).deletion_timestamp().is_some() {
        "it is being deleted"
    } else if object["type"] != TYPE {
        "the secret has the wrong type"
    } else if field("token-id") != id || !same(field("token-secret").as_bytes(), secret.as_bytes())
    {
        "it does not match"
    } else if has_expired(&field("expiration")) {
        "it has expired"
    } else if field("usage-bootstrap-authentication") != "true" {
        "it is not for authentication"
    } else {
        return Ok(());
    };
    Err(fault.to_owned())
}

/// A time that cannot be read is one that has passed.
fn has_expired(text: &str) -> bool {
    let good = |at: jiff::Timestamp| at > jiff::Timestamp::now();
    !text.is_empty() && !text.parse().is_ok_and(good)
}

/// A group that is none for bootstrapping voids the whole token.
fn identity(object: &Value, id: &str) -> Result<UserInfo, String> {
    let listed = data(object, "auth-extra-groups").unwrap_or_default();
    let mut groups: Vec<&str> = listed.split(',').filter(|group| !group.is_empty()).collect();
    if let Some(bad) = groups.iter().find(|group| !is_extra_group(group)) {
        return Err(format!("{bad:?} is no group for bootstrapping"));
    }
    groups.push(GROUP);
    groups.sort_unstable();
    groups.dedup();
    Ok(UserInfo::new(format!("system:bootstrap:{id}"), &groups))
}

/// `system:bootstrappers:` and labels between colons.
fn is_extra_group(group: &str) -> bool {
    let Some(rest) = group.strip_prefix("system:bootstrappers:") else { return false };
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    rest.len() <= 256
        && rest.starts_with(inner)
        && rest.ends_with(inner)
        && rest.chars().all(|c| inner(c) || c == ':' || c == '-')
}

fn data(secret: &Value, key: &str) -> Option<String> {
    let bytes = BASE64_STANDARD.decode(secret["data"][key].as_str()?).ok()?;
    String::from_utf8(bytes).ok()
}

fn is_token_part(text: &str, length: usize) -> bool {
    text.len() == length
        && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn token(changes: &[(&str, &str)]) -> Value {
        let mut data = json!({ "token-id": "abcdef", "token-secret": "0123456789abcdef",
            "usage-bootstrap-authentication": "true" });
        for (key, value) in changes {
            data[*key] = (*value).into();
        }
        for value in data.as_object_mut().expect("a map").values_mut() {
            *value = BASE64_STANDARD.encode(value.as_str().expect("text")).into();
        }
        json!({ "metadata": {}, "type": TYPE, "data": data })
    }

    #[test]
    fn a_token_is_good_only_as_it_was_made() {
        let good =
            |changes: &[(&str, &str)]| check(&token(changes), "abcdef", "0123456789abcdef").is_ok();
        assert!(good(&[]) && good(&[("expiration", "2999-01-01T00:00:00Z")]));
        assert!(!good(&[("expiration", "2001-01-01T00:00:00Z")]));
        assert!(!good(&[("expiration", "soon")]));
        assert!(!good(&[("usage-bootstrap-authentication", "false")]));
        assert!(!good(&[("token-secret", "ffffffffffffffff")]));
        assert!(!good(&[("token-id", "ffffff")]));
    }

    #[test]
    fn extra_groups_are_bootstrappers_or_the_token_is_void() {
        let groups = |listed: &str| identity(&token(&[("auth-extra-groups", listed)]), "abcdef");
        let user = groups("system:bootstrappers:kubeadm:default-node-token").expect("a good group");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        assert_eq!(user.groups, [GROUP, "system:bootstrappers:kubeadm:default-node-token"]);
        for bad in ["system:masters", "system:bootstrappers:", "system:bootstrappers:UP"] {
            assert!(groups(bad).is_err(), "{bad}");
        }
    }
}
