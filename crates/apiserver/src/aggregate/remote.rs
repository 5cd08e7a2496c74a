//! One aggregated API server: where it is, how it is trusted, what it last said it serves.
//!
//! An APIService that names a Service -> a pooled client that proves itself with the front-proxy certificate.
//! Invariant: connections live as long as the part of the spec they depend on.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures::future::{BoxFuture, ready};
use futures::{FutureExt, TryFutureExt};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use skiff_api::meta::meta;

use crate::pki::Leaf;
use crate::reply::{Body, BoxError, empty};
use crate::server::Server;
use crate::user::UserInfo;
use crate::webhook::{self, Connector, Destination, Endpoint, Io, Trust};

pub struct Remote {
    pub name: String,
    pub group: String,
    pub version: String,
    pub namespace: String,
    pub service: String,
    pub port: u16,
    /// Answers instead of the Service.
    backend: Option<Arc<dyn Backend>>,
    /// Shared by all views that agree about the spec.
    link: Arc<Link>,
}

/// A server in this process: it is asked as one behind a Service would be, and told who asks by the same headers.
pub trait Backend: Send + Sync {
    fn answer(&self, request: Request<Body>) -> BoxFuture<'static, Response<Body>>;
}

/// The connections, and what came over them.
struct Link {
    service: Value,
    trust: Trust,
    tls: Option<Arc<rustls::ClientConfig>>,
    pool: Option<Pool>,
    served: Mutex<Served>,
    available: AtomicBool,
}

type Pool = Client<Connector, Body>;

/// What the server said when it was last asked.
#[derive(Clone, Default)]
pub struct Served {
    /// The resources of its group-version, as aggregated discovery shows them.
    pub resources: Option<Value>,
    /// The tag of its OpenAPI v3 document.
    pub openapi: Option<String>,
}

/// The largest document that is taken in whole: discovery and OpenAPI.
const MAX_DOCUMENT: usize = 32 * 1024 * 1024;

// === impl Remote ===

impl Remote {
    pub fn read(server: &Server, object: &Value, known: Option<&Remote>) -> Remote {
        let spec = &object["spec"];
        let text = |value: &Value| value.as_str().unwrap_or("").to_owned();
        let port = spec["service"]["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        let link = match known {
            Some(known) if known.link.agrees(spec) => known.link.clone(),
            _ => Arc::new(Link::open(server, spec, is_available(object))),
        };
        let (namespace, service) =
            (text(&spec["service"]["namespace"]), text(&spec["service"]["name"]));
        Remote {
            name: meta(object).name().to_owned(),
            group: text(&spec["group"]),
            version: text(&spec["version"]),
            backend: server.aggregator.backend(&namespace, &service),
            namespace,
            service,
            port: port.unwrap_or(443),
            link,
        }
    }

    /// Requests are handed to it.
    pub fn available(&self) -> bool {
        self.link.available.load(Relaxed)
    }

    /// Before its condition says so: whoever reads the condition finds it true.
    pub fn set_available(&self, available: bool) {
        self.link.available.store(available, Relaxed);
    }

    pub fn served(&self) -> Served {
        self.link.served.lock().expect("no panic while held").clone()
    }

    pub fn serves(&self, served: Served) {
        *self.link.served.lock().expect("no panic while held") = served;
    }

    /// The path of the group-version's own discovery document.
    pub fn discovery_path(&self) -> String {
        match self.group.is_empty() {
            true => format!("/api/{}", self.version),
            false => format!("/apis/{}/{}", self.group, self.version),
        }
    }

    fn host(&self) -> String {
        format!("{}.{}.svc", self.service, self.namespace)
    }

    pub fn uri(&self, path_and_query: &str) -> Result<Uri, BoxError> {
        Ok(format!("https://{}:{}{path_and_query}", self.host(), self.port).parse()?)
    }

    pub fn is_in_process(&self) -> bool {
        self.backend.is_some()
    }

    /// One exchange over the pool, or within this process.
    pub fn send(
        &self,
        request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, BoxError>> {
        if let Some(backend) = &self.backend {
            return backend.answer(request).map(Ok).boxed();
        }
        let Some(pool) = &self.link.pool else {
            return ready(Err("no connection can be made".into())).boxed();
        };
        let boxed = |response: Response<Incoming>| {
            response.map(|body| body.map_err(BoxError::from).boxed_unsync())
        };
        pool.request(request).map_ok(boxed).map_err(BoxError::from).boxed()
    }

    /// A connection of its own, for a stream that takes it over.
    pub async fn dial(&self, server: &Server) -> Result<Box<dyn Io>, BoxError> {
        let (host, port) =
            webhook::resolve(&server.store, &self.namespace, &self.service, self.port).await?;
        let tls = self.link.tls.clone().ok_or("no connection can be made")?;
        Ok(webhook::dial(&Destination { host, port, tls: Some((self.host(), tls)) }).await?)
    }

    /// A document that this server itself wants: status, tag and bytes.
    pub async fn fetch(
        &self,
        path: &str,
        accept: &'static str,
    ) -> Result<(http::StatusCode, HeaderMap, Bytes), BoxError> {
        let mut request = Request::get(self.uri(path)?).body(empty())?;
        request.headers_mut().insert(http::header::ACCEPT, HeaderValue::from_static(accept));
        identify(
            request.headers_mut(),
            &UserInfo::new("system:kube-aggregator", &["system:masters"]),
        );
        let (parts, body) = self.send(request).await?.into_parts();
        // Boxed: the compiler cannot tell that a future which holds this body's errors may cross threads.
        let body = Limited::new(body, MAX_DOCUMENT).collect().boxed().await?;
        Ok((parts.status, parts.headers, body.to_bytes()))
    }
}

/// Tells the other side who asks; it believes that because of the certificate we show.
pub fn identify(headers: &mut HeaderMap, user: &UserInfo) {
    let told: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("x-remote-")).cloned().collect();
    told.iter().for_each(|name| drop(headers.remove(name)));
    let mut tell = |name: &str, value: &str| {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    tell("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        tell("x-remote-uid", &user.uid);
    }
    user.groups.iter().for_each(|group| tell("x-remote-group", group));
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escaped(key));
        values.iter().for_each(|value| tell(&name, value));
    }
}

/// What cannot stand in a header's name, percent-encoded.
fn escaped(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte);
    key.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte.to_ascii_lowercase()).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}

// === impl Link ===

impl Link {
    fn open(server: &Server, spec: &Value, available: bool) -> Link {
        let trust = trust(spec);
        let identity = server.pki.identity(&Leaf::front_proxy_client());
        let tls = identity
            .map_err(BoxError::from)
            .and_then(|own| webhook::client_tls(&trust, Some(&own)))
            .inspect_err(
                |error| tracing::warn!(%error, "an aggregated API server cannot be reached"),
            );
        let tls = tls.ok().map(Arc::new);
        let pool = tls.clone().map(|tls| {
            let connector =
                Connector::new(server.store.clone(), Endpoint::service(&spec["service"]), tls);
            Client::builder(TokioExecutor::new()).build(connector)
        });
        Link {
            service: spec["service"].clone(),
            trust,
            tls,
            pool,
            served: Mutex::default(),
            available: available.into(),
        }
    }

    fn agrees(&self, spec: &Value) -> bool {
        self.service == spec["service"] && self.trust == trust(spec)
    }
}

/// What the last check found, perhaps before a restart.
fn is_available(object: &Value) -> bool {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == "Available" && condition["status"] == "True")
}

fn trust(spec: &Value) -> Trust {
    if spec["insecureSkipTLSVerify"] == true {
        return Trust::Anything;
    }
    let bundle =
        BASE64_STANDARD.decode(spec["caBundle"].as_str().unwrap_or("")).unwrap_or_default();
    if bundle.is_empty() { Trust::System } else { Trust::Bundle(bundle.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_cannot_say_who_it_is() {
        let mut headers = HeaderMap::new();
        headers.insert("x-remote-user", HeaderValue::from_static("admin"));
        headers.insert("x-remote-extra-scopes", HeaderValue::from_static("all"));
        let mut user = UserInfo::new("ann", &["devs", "ops"]);
        user.extra.insert("example.com/Scopes".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        identify(&mut headers, &user);
        let told: Vec<(String, String)> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned()))
            .collect();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            told,
            [
                pair("x-remote-user", "ann"),
                pair("x-remote-group", "devs"),
                pair("x-remote-group", "ops"),
                pair("x-remote-extra-example.com%2fscopes", "a"),
                pair("x-remote-extra-example.com%2fscopes", "b"),
            ]
        );
    }

    #[test]
    fn keys_of_extra_are_made_fit_for_a_header() {
        assert_eq!(escaped("example.com/Scopes"), "example.com%2Fscopes");
    }
}
