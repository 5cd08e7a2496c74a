//! Being let in: what a registry challenges with, and what is answered.
//!
//! Consumes `WWW-Authenticate` headers and credentials, emits an `Authorization` header. Counterpart:
//! the token authentication specification of the distribution project.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use serde::Deserialize;

use crate::cri::AuthConfig;

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

/// The answer of a token server; old ones call it `token`, OAuth 2 `access_token`.
#[derive(Debug, Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

// === impl TokenAnswer ===

impl TokenAnswer {
    pub fn token(self) -> Option<String> {
        [self.token, self.access_token].into_iter().find(|token| !token.is_empty())
    }
}

// === impl Challenge ===

impl Challenge {
    /// The strongest challenge that is understood.
    pub fn of(headers: &HeaderMap) -> Option<Challenge> {
        let values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok());
        let mut basic = None;
        for value in values {
            match parse(value) {
                Some(Challenge::Basic) => basic = Some(Challenge::Basic),
                Some(bearer) => return Some(bearer),
                None => {}
            }
        }
        basic
    }
}

fn parse(value: &str) -> Option<Challenge> {
    let (scheme, parameters) = value.trim().split_once(' ').unwrap_or((value.trim(), ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let parameters = parameters_of(parameters);
    let find = |name: &str| {
        let found = parameters.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.clone()).filter(|value| !value.is_empty())
    };
    Some(Challenge::Bearer {
        realm: find("realm")?,
        service: find("service"),
        scope: find("scope"),
    })
}

/// `a="b,c",d=e`: a quoted value may hold commas.
fn parameters_of(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_at(after.find(',').unwrap_or(after.len())),
        };
        found.push((key.trim().to_owned(), value.to_owned()));
        rest = next.trim_start_matches([',', ' ']);
    }
    found
}

/// The query of a token request.
pub(super) fn token_query(service: Option<&str>, scope: &str) -> String {
    let pairs = service.map(|service| ("service", service)).into_iter().chain([("scope", scope)]);
    form(pairs)
}

/// The form that trades an identity token for a token of a scope.
pub(super) fn refresh_form(service: Option<&str>, scope: &str, auth: &AuthConfig) -> String {
    form([
        ("grant_type", "refresh_token"),
        ("service", service.unwrap_or_default()),
        ("client_id", "skiff"),
        ("scope", scope),
        ("refresh_token", auth.identity_token.as_str()),
    ])
}

fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let pairs = pairs.into_iter().map(|(key, value)| format!("{key}={}", escape(value)));
    pairs.collect::<Vec<_>>().join("&")
}

fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/,".contains(&b);
    let escaped = text.bytes().map(|b| match plain(b) {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    });
    escaped.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_with_commas_inside_of_quotes() {
        let text = "Bearer realm=\"https://auth.example/token\",service=\"reg\", scope=\"repository:a/b:pull,push\"";
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".into(),
            service: Some("reg".into()),
            scope: Some("repository:a/b:pull,push".into()),
        };
        assert_eq!(parse(text), Some(expected));
        assert_eq!(parse("basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(parse("Digest realm=\"x\""), None);
        assert_eq!(parse("Bearer service=\"no realm\""), None);
    }

    #[test]
    fn a_bearer_challenge_is_preferred() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=x".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=https://t".parse().unwrap());
        assert!(matches!(Challenge::of(&headers), Some(Challenge::Bearer { .. })));
    }

    #[test]
    fn queries_are_escaped() {
        assert_eq!(
            token_query(Some("a b"), "repository:x/y:pull"),
            "service=a%20b&scope=repository:x/y:pull"
        );
    }
}
