//! Where a webhook lives and whom to trust there.
//!
//! The `clientConfig` of a webhook configuration, a CustomResourceDefinition or an APIService -> [`ClientConfig`]. Counterpart:
//! `webhook.ClientConfig`. Invariant: the URL that errors show is the one upstream shows, whatever address is dialled.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use serde_json::Value;

use super::tls::Trust;
use crate::pki::Identity;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    pub endpoint: Endpoint,
    pub trust: Trust,
    /// The certificate to show, if the other side asks for one.
    pub identity: Option<Arc<Identity>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Url(String),
    Service { namespace: String, name: String, path: String, port: u16 },
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("webhook configuration must have either service or URL")]
    NoEndpoint,
    #[error("Unparsable URL: {0}")]
    BadUrl(String),
    #[error("unable to load root certificates: unable to parse bytes as PEM block")]
    BadBundle,
}

const DEFAULT_PORT: u16 = 443;

// === impl ClientConfig ===

impl ClientConfig {
    /// Reads `{url | service, caBundle}`.
    pub fn read(config: &Value) -> Result<ClientConfig, ConfigError> {
        let endpoint = match (&config["service"], config["url"].as_str()) {
            (Value::Object(_), _) => Endpoint::service(&config["service"]),
            (_, Some(url)) if !url.is_empty() => Endpoint::Url(url.to_owned()),
            _ => return Err(ConfigError::NoEndpoint),
        };
        let bundle = BASE64_STANDARD
            .decode(config["caBundle"].as_str().unwrap_or(""))
            .map_err(|_| ConfigError::BadBundle)?;
        let trust = if bundle.is_empty() { Trust::System } else { Trust::Bundle(bundle.into()) };
        Ok(ClientConfig { endpoint, trust, identity: None })
    }

    /// The whole URL of a call, as errors show it.
    pub fn url(&self, query: &str) -> Result<Uri, ConfigError> {
        let base = match &self.endpoint {
            Endpoint::Url(url) => url.split(['?', '#']).next().unwrap_or("").to_owned(),
            Endpoint::Service { namespace, name, path, port } => {
                format!("https://{name}.{namespace}.svc:{port}/{}", path.trim_start_matches('/'))
            }
        };
        let mark = if query.is_empty() { "" } else { "?" };
        let uri: Uri = format!("{base}{mark}{query}")
            .parse()
            .map_err(|error: http::uri::InvalidUri| ConfigError::BadUrl(error.to_string()))?;
        match (uri.scheme_str(), uri.host()) {
            (Some("https" | "http"), Some(_)) => Ok(uri),
            _ => Err(ConfigError::BadUrl(base)),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    pub fn service(reference: &Value) -> Endpoint {
        let text = |field: &str| reference[field].as_str().unwrap_or("").to_owned();
        let port = reference["port"].as_u64().and_then(|port| u16::try_from(port).ok());
        Endpoint::Service {
            namespace: text("namespace"),
            name: text("name"),
            path: text("path"),
            port: port.filter(|port| *port > 0).unwrap_or(DEFAULT_PORT),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn url(config: Value, query: &str) -> String {
        let config = ClientConfig::read(&config).expect("a whole config");
        config.url(query).expect("a URL").to_string()
    }

    #[test]
    fn services_are_named_by_their_dns_name_and_port() {
        let service = json!({ "service": { "namespace": "n", "name": "s", "path": "/check" } });
        assert_eq!(url(service, "timeout=3s"), "https://s.n.svc:443/check?timeout=3s");
        let service = json!({ "service": { "namespace": "n", "name": "s", "port": 8443 } });
        assert_eq!(url(service, ""), "https://s.n.svc:8443/");
    }

    #[test]
    fn a_url_keeps_its_path_and_loses_its_query() {
        let config = json!({ "url": "https://127.0.0.1:1/check?x=y" });
        assert_eq!(url(config, "timeout=10s"), "https://127.0.0.1:1/check?timeout=10s");
    }

    #[test]
    fn neither_url_nor_service_is_an_error() {
        assert!(matches!(ClientConfig::read(&json!({})), Err(ConfigError::NoEndpoint)));
    }
}
