//! Authentication: the credentials of a request -> who asks.
//!
//! Methods are tried in the order listed in [`Authenticators::identify`]; the first that recognises
//! its kind of credential decides. Impersonation comes after, in [`impersonation`], as it needs authorisation.
//! Counterpart: `k8s.io/apiserver/pkg/authentication/request/union`.
//! Invariant: a credential that is present and wrong is refused, never treated as absent.

pub mod bootstrap_token;
pub mod impersonation;
pub mod service_account;
pub mod token_file;
pub mod x509;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use skiff_api::Status;

use crate::server::Server;
use crate::user::{ALL_AUTHENTICATED, UserInfo};

pub use service_account::ServiceAccountTokens;
pub use token_file::TokenFile;

/// Who the caller is: a certificate, else a bearer token, else nobody.
pub async fn identify(
    server: &Server,
    certificate: Option<&UserInfo>,
    headers: &HeaderMap,
) -> Result<UserInfo, Status> {
    if let Some(user) = certificate {
        return Ok(authenticated(user.clone()));
    }
    match bearer_token(headers)? {
        Some(token) => {
            let (user, _) =
                token_user(server, &token, &[]).await.map_err(|_| Status::unauthorized())?;
            Ok(user)
        }
        None => Ok(UserInfo::anonymous()),
    }
}

/// The user of a bearer token, and the audiences it was accepted for. `audiences` empty means the API server's own.
/// The error says why, for TokenReview; a client is only told "Unauthorized".
pub async fn token_user(
    server: &Server,
    token: &str,
    audiences: &[String],
) -> Result<(UserInfo, Vec<String>), String> {
    let own = server.tokens.audiences();
    let wanted = if audiences.is_empty() { own } else { audiences };
    if server.tokens.is_ours(token) {
        let (user, audiences) = server.tokens.verify(server, token, wanted).await?;
        return Ok((authenticated(user), audiences));
    }
    if let Some(user) = server.token_file.as_ref().and_then(|file| file.user(token)) {
        return Ok((authenticated(user), own.to_vec()));
    }
    let user = bootstrap_token::user(server, token).await?;
    Ok((authenticated(user), own.to_vec()))
}

fn authenticated(mut user: UserInfo) -> UserInfo {
    if !user.is_in(ALL_AUTHENTICATED) {
        user.groups.push(ALL_AUTHENTICATED.to_owned());
    }
    user
}

/// `Authorization: Bearer x`, or the token that a browser's WebSocket smuggles in as a subprotocol.
fn bearer_token(headers: &HeaderMap) -> Result<Option<String>, Status> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(websocket_token(headers)) };
    let text = value.to_str().map_err(|_| Status::unauthorized())?;
    let (scheme, token) = text.split_once(' ').unwrap_or((text, ""));
    match scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
        true => Ok(Some(token.trim().to_owned())),
        false => Err(Status::unauthorized()),
    }
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
