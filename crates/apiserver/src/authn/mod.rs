//! Authentication: the credentials of a request -> who asks.
//!
//! A certificate decides first (or the proxy that shows it speaks for somebody), then a bearer token, then nobody is asking. A token is shown to the authenticators in the
//! order of [`token_user`]; the first that knows it decides. Impersonation comes after, in [`impersonation`], as it needs
//! authorisation. Counterpart: `pkg/kubeapiserver/authenticator`.
//! Invariant: a token or certificate that is present and wrong is refused, never treated as absent.

mod authentication;
mod bootstrap_token;
mod bound;
mod cache;
mod config;
mod front_proxy;
pub mod impersonation;
pub mod keys;
mod legacy_token;
mod oidc;
pub mod service_account;
mod token_file;
mod webhook;
pub mod x509;

use std::sync::Arc;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use skiff_api::Status;

use crate::authz::rbac::aggregate;
use crate::server::Server;
use crate::user::{ALL_AUTHENTICATED, ANONYMOUS, UserInfo};
use x509::Shown;

pub use authentication::{Authentication, AuthenticationError};
pub use config::AuthenticationConfig;
pub use front_proxy::FrontProxyConfig;
pub use oidc::{AuthenticationFile, JwtConfigError, JwtIssuer, OidcFlags};
pub use service_account::ServiceAccountTokens;
pub use token_file::TokenFile;
pub use webhook::TokenWebhookConfig;

/// Whose token it is, and for which of the audiences that were asked about.
#[derive(Clone, Debug)]
pub struct Authenticated {
    pub user: UserInfo,
    pub audiences: Vec<String>,
}

const NOT_KNOWN: &str = "invalid bearer token";

/// Who the caller is: a certificate, else a bearer token, else nobody.
pub async fn identify(
    server: &Arc<Server>,
    certificate: Option<&Shown>,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    match certificate {
        Some(Shown::User(user)) => return Ok(authenticated(user.clone())),
        Some(Shown::FrontProxy(name)) => {
            let spoken_for = server.config.authentication.front_proxy.user(name, headers);
            return spoken_for.map(authenticated).ok_or_else(Status::unauthorized);
        }
        Some(Shown::Nobody) | None => {}
    }
    match bearer_token(headers) {
        Some(token) => {
            let found = token_user(server, &token, &[]).await;
            Ok(found.map_err(|_| Status::unauthorized())?.user)
        }
        None => Ok(UserInfo::anonymous()),
    }
}

/// The user of a bearer token, and the audiences it was accepted for. `audiences` empty means the API server's own.
/// The error says why, for TokenReview; a client is only told "Unauthorized".
pub async fn token_user(
    server: &Arc<Server>,
    token: &str,
    audiences: &[String],
) -> Result<Authenticated, String> {
    let own = server.authn.tokens.audiences();
    let wanted = if audiences.is_empty() { own } else { audiences };
    let mut faults = vec![NOT_KNOWN.to_owned()];
    if let Some(user) = server.authn.token_file.as_ref().and_then(|file| file.user(token)) {
        return accepted(user, own, wanted);
    }
    match server.authn.tokens.authenticate(server, token, wanted).await {
        Some(Ok(found)) => return Ok(Authenticated { user: authenticated(found.user), ..found }),
        Some(Err(fault)) => faults.push(fault),
        None => {}
    }
    match bootstrap_token::user(server, token).await {
        Ok(Some(user)) => return accepted(user, own, wanted),
        Ok(None) => {}
        Err(fault) => faults.push(fault),
    }
    match server.authn.jwt.authenticate(&server.webhooks, token, wanted, own).await {
        Some(Ok(found)) => return Ok(Authenticated { user: authenticated(found.user), ..found }),
        Some(Err(fault)) => faults.push(fault),
        None => {}
    }
    if let Some(webhook) = &server.authn.webhook {
        match webhook.authenticate(&server.webhooks, token, wanted, own).await {
            Ok(Some(found)) => {
                return Ok(Authenticated { user: authenticated(found.user), ..found });
            }
            Ok(None) => {}
            Err(fault) => faults.push(fault),
        }
    }
    Err(aggregate(faults))
}

/// A user of a kind of token that knows nothing of audiences: it is for this server's.
fn accepted(user: UserInfo, own: &[String], wanted: &[String]) -> Result<Authenticated, String> {
    let audiences: Vec<String> = own.iter().filter(|one| wanted.contains(one)).cloned().collect();
    match audiences.is_empty() {
        true => Err(NOT_KNOWN.to_owned()),
        false => Ok(Authenticated { user: authenticated(user), audiences }),
    }
}

/// Everybody who is somebody is in a group of their own.
fn authenticated(mut user: UserInfo) -> UserInfo {
    if user.name != ANONYMOUS && !user.is_in(ALL_AUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.to_owned());
    }
    user
}

/// `Authorization: Bearer x`, or the token that a browser's WebSocket smuggles in as a subprotocol. Other schemes are
/// nobody's business here.
fn bearer_token(headers: &HeaderMap) -> Option<String> {
    let Some(value) = headers.get(AUTHORIZATION) else { return websocket_token(headers) };
    let mut words = value.to_str().ok()?.trim().split(' ');
    let is_bearer = words.next()?.eq_ignore_ascii_case("bearer");
    words.next().filter(|token| is_bearer && !token.is_empty()).map(str::to_owned)
}

fn websocket_token(headers: &HeaderMap) -> Option<String> {
    use base64::Engine;
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let protocols = headers.get_all("sec-websocket-protocol").iter();
    let encoded = protocols
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|protocol| protocol.trim().strip_prefix(PREFIX))?;
    let bytes = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(bytes).ok()
}

/// Compares without telling by its time how much was right.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}

/// Texts as Go prints a list of them.
fn go_list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_bearer_token_is_no_credential() {
        let token = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, value.parse().expect("a value"));
            bearer_token(&headers)
        };
        assert_eq!(token("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(token("bearer abc def").as_deref(), Some("abc"));
        for nothing in ["Basic Zm9v", "Bearer", "Bearer ", "abc", ""] {
            assert_eq!(token(nothing), None, "{nothing:?}");
        }
    }
}
