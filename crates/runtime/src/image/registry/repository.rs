//! One repository at one endpoint: the requests of the distribution API.
//!
//! Consumes digests and tags, emits documents, streams of blobs, and uploads. Authorizes as it is
//! challenged, and follows redirects without showing credentials to another host. Counterpart:
//! `docker.Fetcher` and `docker.Pusher` of containerd's remotes.
//! Invariant: a document that was asked for by digest is handed out only if it has that digest.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;

use super::{
    auth::{Challenge, TokenAnswer, refresh_form, token_query},
    config::{Endpoint, RegistryConfig},
    error::RegistryError,
    transport::{Body, Transport},
};
use crate::image::{config::media_type, content::digest_of};

/// Documents larger than this are not documents.
const MAX_DOCUMENT: usize = 8 << 20;
const MAX_REDIRECTS: usize = 5;
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";
const DOCKER_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

/// What may be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Pull,
    Push,
}

pub(super) struct Repository {
    pub endpoint: Endpoint,
    access: Access,
    config: Arc<RegistryConfig>,
    /// By host: a redirect may lead to another.
    transports: Mutex<HashMap<String, Transport>>,
    /// The `Authorization` the registry accepts.
    authorization: Mutex<Option<HeaderValue>>,
}

/// A manifest or an index.
pub(super) struct Document {
    pub digest: String,
    pub media_type: String,
    pub content: Vec<u8>,
}

/// A request that can be made again.
pub(super) struct Ask {
    pub method: Method,
    pub url: String,
    pub headers: HeaderMap,
    pub body: Box<dyn Fn() -> Body + Send + Sync>,
    /// Whether it shows what the registry accepts; a token server wants other credentials.
    authorized: bool,
}

// === impl Ask ===

impl Ask {
    pub fn new(method: Method, url: String) -> Self {
        let body = Box::new(|| full(Bytes::new()));
        Ask { method, url, headers: HeaderMap::new(), body, authorized: true }
    }

    fn to_token_server(method: Method, url: String) -> Self {
        Ask { authorized: false, ..Ask::new(method, url) }
    }

    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
        self
    }

    pub fn body(mut self, body: impl Fn() -> Body + Send + Sync + 'static) -> Self {
        self.body = Box::new(body);
        self
    }
}

pub(super) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

// === impl Repository ===

impl Repository {
    pub fn new(endpoint: Endpoint, access: Access, config: Arc<RegistryConfig>) -> Self {
        let (transports, authorization) = Default::default();
        Repository { endpoint, access, config, transports, authorization }
    }

    /// A URL below the repository: `manifests/latest`.
    pub fn url(&self, rest: &str) -> String {
        let Endpoint { base, repository, .. } = &self.endpoint;
        format!("{base}/v2/{repository}/{rest}")
    }

    /// The digest a tag has now, if the registry says so without sending the document.
    pub async fn resolve(&self, tag: &str) -> Result<Option<String>, RegistryError> {
        let ask = Ask::new(Method::HEAD, self.url(&format!("manifests/{tag}")))
            .header(header::ACCEPT, MANIFESTS);
        let response = self.send(&ask).await?;
        Ok(header_text(response.headers(), &DOCKER_DIGEST))
    }

    /// A manifest or index by tag or digest.
    pub async fn document(&self, version: &str) -> Result<Document, RegistryError> {
        let url = self.url(&format!("manifests/{version}"));
        let ask = Ask::new(Method::GET, url.clone()).header(header::ACCEPT, MANIFESTS);
        let response = self.send(&ask).await?;
        let said = header_text(response.headers(), &DOCKER_DIGEST);
        let kind = header_text(response.headers(), &header::CONTENT_TYPE).unwrap_or_default();
        let content = read(&url, response.into_body(), MAX_DOCUMENT).await?;
        let digest = digest_of(&content);
        let promised = if version.starts_with("sha256:") { Some(version.to_owned()) } else { said };
        if let Some(promised) = promised.filter(|it| it.starts_with("sha256:") && *it != digest) {
            return Err(RegistryError::Mismatch { digest: promised });
        }
        Ok(Document { media_type: media_type_of(&kind, &content), digest, content })
    }

    /// A blob from `offset` on; the answer says whether it begins there.
    pub async fn blob(
        &self,
        digest: &str,
        offset: u64,
    ) -> Result<(bool, Response<Incoming>), RegistryError> {
        let mut ask = Ask::new(Method::GET, self.url(&format!("blobs/{digest}")));
        if offset > 0 {
            ask = ask.header(header::RANGE, &format!("bytes={offset}-"));
        }
        let response = self.send_once(&ask).await?;
        Ok((response.status() == StatusCode::PARTIAL_CONTENT, response))
    }

    /// Sends until it is answered well, patient with a registry that has a bad moment.
    pub async fn send(&self, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match self.send_once(ask).await {
                Err(error) if error.is_transient() => tokio::time::sleep(pause).await,
                done => return done,
            }
            pause *= 2;
        }
        self.send_once(ask).await
    }

    /// Sends, answers a challenge, follows redirects; anything but a success is an error.
    pub async fn send_once(&self, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let mut response = self.follow(ask).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let challenge = Challenge::of(response.headers());
            let Some(challenge) = challenge else {
                return Err(self.failure(ask, response).await);
            };
            self.authorize(&challenge).await?;
            response = self.follow(ask).await?;
        }
        match response.status().is_success() {
            true => Ok(response),
            false => Err(self.failure(ask, response).await),
        }
    }

    async fn follow(&self, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let mut url = ask.url.clone();
        for _ in 0..MAX_REDIRECTS {
            let response = self.send_to(&url, ask).await?;
            let redirects = response.status().is_redirection()
                && matches!(ask.method, Method::GET | Method::HEAD);
            let location = header_text(response.headers(), &header::LOCATION);
            match location.filter(|_| redirects) {
                Some(location) => url = absolute(&url, &location),
                None => return Ok(response),
            }
        }
        Err(RegistryError::Invalid { url, reason: "too many redirects".to_owned() })
    }

    async fn send_to(&self, url: &str, ask: &Ask) -> Result<Response<Incoming>, RegistryError> {
        let invalid = |reason: String| RegistryError::Invalid { url: url.to_owned(), reason };
        let uri: Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| invalid(error.to_string()))?;
        let mut request = Request::builder().method(ask.method.clone()).uri(uri.clone());
        let headers = request.headers_mut().expect("method and address are valid");
        headers.extend(ask.headers.clone());
        headers.insert(header::USER_AGENT, HeaderValue::from_static("skiff"));
        if ask.authorized
            && same_host(url, &self.endpoint.base)
            && let Some(value) = self.authorization().clone()
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        let request = request.body((ask.body)()).map_err(|error| invalid(error.to_string()))?;
        self.transport(&uri)?.send(request).await
    }

    fn transport(&self, uri: &Uri) -> Result<Transport, RegistryError> {
        let host = uri.authority().map(|authority| authority.as_str()).unwrap_or_default();
        let mut transports = self.transports.lock().unwrap_or_else(|p| p.into_inner());
        if let Some(known) = transports.get(host) {
            return Ok(known.clone());
        }
        let new = Transport::new(&self.config.tls(host))?;
        transports.insert(host.to_owned(), new.clone());
        Ok(new)
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<HeaderValue>> {
        self.authorization.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn authorize(&self, challenge: &Challenge) -> Result<(), RegistryError> {
        let auth = self.endpoint.auth.clone().unwrap_or_default();
        let value = match challenge {
            _ if !auth.registry_token.is_empty() => Some(format!("Bearer {}", auth.registry_token)),
            Challenge::Basic => auth.basic(),
            Challenge::Bearer { realm, service, scope } => {
                Some(self.token(realm, service.as_deref(), scope.as_deref()).await?)
            }
        };
        let value = value.ok_or_else(|| self.denied("no basic auth credentials".to_owned()))?;
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| self.denied("credentials hold characters a header may not".to_owned()))?;
        value.set_sensitive(true);
        *self.authorization() = Some(value);
        Ok(())
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: Option<&str>,
    ) -> Result<String, RegistryError> {
        let actions = if self.access == Access::Push { "pull,push" } else { "pull" };
        let own_scope = format!("repository:{}:{actions}", self.endpoint.repository);
        let scope = scope.unwrap_or(&own_scope);
        let auth = self.endpoint.auth.clone().unwrap_or_default();
        // Credentials for a registry spoken to in secret are not told in the clear.
        let may_tell = realm.starts_with("https:") || self.endpoint.base.starts_with("http:");
        let mut ask = match auth.identity_token.is_empty() || !may_tell {
            true => {
                let join = if realm.contains('?') { '&' } else { '?' };
                Ask::to_token_server(
                    Method::GET,
                    format!("{realm}{join}{}", token_query(service, scope)),
                )
            }
            false => {
                let form = refresh_form(service, scope, &auth);
                Ask::to_token_server(Method::POST, realm.to_owned())
                    .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(move || full(form.clone()))
            }
        };
        if let (Some(basic), true, true) = (auth.basic(), ask.method == Method::GET, may_tell) {
            ask = ask.header(header::AUTHORIZATION, &basic);
        }
        let token = self.fetch_token(&ask).await?;
        token.map(|token| format!("Bearer {token}")).ok_or_else(|| RegistryError::Invalid {
            url: realm.to_owned(),
            reason: "the answer holds no token".to_owned(),
        })
    }

    async fn fetch_token(&self, ask: &Ask) -> Result<Option<String>, RegistryError> {
        let response = self.send_to(&ask.url, ask).await?;
        if !response.status().is_success() {
            return Err(self.failure(ask, response).await);
        }
        let content = read(&ask.url, response.into_body(), MAX_DOCUMENT).await?;
        let answer: TokenAnswer = serde_json::from_slice(&content).map_err(|error| {
            RegistryError::Invalid { url: ask.url.clone(), reason: error.to_string() }
        })?;
        Ok(answer.token())
    }

    async fn failure(&self, ask: &Ask, response: Response<Incoming>) -> RegistryError {
        let (status, url) = (response.status(), ask.url.clone());
        let content = read(&url, response.into_body(), 64 << 10).await.unwrap_or_default();
        let told = told(&content);
        match status {
            StatusCode::NOT_FOUND => RegistryError::NotFound { what: url },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                self.denied(match told.is_empty() {
                    true => format!("authorization failed: {status}"),
                    false => format!("authorization failed: {told}"),
                })
            }
            _ => {
                let detail = if told.is_empty() { told } else { format!(": {told}") };
                RegistryError::Status { url, status, detail }
            }
        }
    }

    fn denied(&self, reason: String) -> RegistryError {
        let action = if self.access == Access::Push { "push" } else { "pull" };
        RegistryError::Denied { action, registry: self.endpoint.base.clone(), reason }
    }
}

/// Registries send the kind of document as content type, files served as they are do not.
fn media_type_of(content_type: &str, content: &[u8]) -> String {
    #[derive(Default, serde::Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Probe {
        media_type: String,
        manifests: Option<serde::de::IgnoredAny>,
        schema_version: u32,
    }
    let probe: Probe = serde_json::from_slice(content).unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    match (probe.media_type.as_str(), probe.schema_version) {
        ("", 1) => "application/vnd.docker.distribution.manifest.v1+json".to_owned(),
        ("", _) if kind.starts_with("application/vnd.") => kind.to_owned(),
        ("", _) if probe.manifests.is_some() => media_type::OCI_INDEX.to_owned(),
        ("", _) => media_type::OCI_MANIFEST.to_owned(),
        (own, _) => own.to_owned(),
    }
}

async fn read(url: &str, body: Incoming, limit: usize) -> Result<Vec<u8>, RegistryError> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes().to_vec()),
        Err(error) => Err(RegistryError::Broken { url: url.to_owned(), reason: error.to_string() }),
    }
}

/// What the body of an error says, in one line.
fn told(content: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let Ok(found) = serde_json::from_slice::<Errors>(content) else { return String::new() };
    let lines = found.errors.into_iter().map(|one| match one.message.is_empty() {
        true => one.code,
        false => one.message,
    });
    lines.collect::<Vec<_>>().join(", ")
}

pub(super) fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned)
}

/// A location as it is, or on the host it came from.
pub(super) fn absolute(base: &str, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    match base.parse::<Uri>() {
        Ok(uri) => format!(
            "{}://{}{location}",
            uri.scheme_str().unwrap_or("https"),
            uri.authority().map(|a| a.as_str()).unwrap_or_default()
        ),
        Err(_) => location.to_owned(),
    }
}

fn same_host(a: &str, b: &str) -> bool {
    let place = |text: &str| {
        text.parse::<Uri>().ok().and_then(|u| Some((u.scheme()?.clone(), u.authority()?.clone())))
    };
    place(a).is_some() && place(a) == place(b)
}

/// A frame of a body, unless it takes too long.
pub(super) async fn next_chunk(body: &mut Incoming) -> io::Result<Option<Bytes>> {
    const PATIENCE: Duration = Duration::from_secs(30);
    loop {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await;
        match frame.map_err(|_| io::Error::other("nothing came for 30 seconds"))? {
            None => return Ok(None),
            Some(Err(error)) => return Err(io::Error::other(error)),
            Some(Ok(frame)) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_may_be_relative() {
        assert_eq!(absolute("http://h:5/v2/a", "/v2/b?x=1"), "http://h:5/v2/b?x=1");
        assert_eq!(absolute("http://h:5/v2/a", "https://o/b"), "https://o/b");
    }

    #[test]
    fn credentials_go_to_the_same_host_only() {
        assert!(same_host("https://r:5000/v2/x", "https://r:5000"));
        assert!(!same_host("http://r:5000/v2/x", "https://r:5000"));
        assert!(!same_host("https://cdn/v2/x", "https://r:5000"));
    }

    #[test]
    fn a_document_says_what_it_is_before_its_header_does() {
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert_eq!(media_type_of("text/plain", index), media_type::OCI_INDEX);
        assert_eq!(media_type_of("", b"{}"), media_type::OCI_MANIFEST);
        let named = br#"{"mediaType":"application/x"}"#;
        assert_eq!(media_type_of("application/vnd.y", named), "application/x");
        assert!(media_type_of("", br#"{"schemaVersion":1}"#).contains("manifest.v1"));
    }
}
