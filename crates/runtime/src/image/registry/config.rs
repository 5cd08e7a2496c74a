//! How registries are reached: mirrors, trust and credentials, from one file.
//!
//! Consumes `registries.yaml` in the form k3s made known, decides which endpoints are asked for an
//! image and in which order, emits [`Endpoint`]s. Read anew for every pull, so a change counts at
//! once. Counterpart: containerd's `hosts.toml`.
//! Invariant: without a file every registry is asked itself, over HTTPS, except on this machine's
//! own loopback addresses.

use std::{
    collections::BTreeMap,
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::error::RegistryError;
use crate::{cri::AuthConfig, image::Reference};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct RegistryConfig {
    /// By registry; `*` is for those not named.
    mirrors: BTreeMap<String, Mirror>,
    /// By host and port of an endpoint.
    configs: BTreeMap<String, HostConfig>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Mirror {
    /// Asked in this order, and before the registry itself.
    endpoint: Vec<String>,
    /// Regular expressions over the repository's name, and what replaces them.
    rewrite: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct HostConfig {
    auth: Option<HostAuth>,
    pub tls: TlsConfig,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct HostAuth {
    username: String,
    password: String,
    /// `username:password` in base64.
    auth: String,
    identity_token: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TlsConfig {
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    pub insecure_skip_verify: bool,
}

/// One place to ask for one repository.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Endpoint {
    /// `https://registry.example.com:5000`, perhaps with a path.
    pub base: String,
    pub repository: String,
    pub auth: Option<AuthConfig>,
    /// A mirror may lack an image; the registry itself may not.
    pub is_mirror: bool,
}

// === impl RegistryConfig ===

impl RegistryConfig {
    /// No file means nothing special.
    pub fn read(path: Option<&Path>) -> Result<Self, RegistryError> {
        let Some(path) = path else { return Ok(RegistryConfig::default()) };
        let bad = |reason: String| RegistryError::Config { path: path.to_owned(), reason };
        match fs::read_to_string(path) {
            Ok(text) => RegistryConfig::parse(&text).map_err(bad),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(RegistryConfig::default()),
            Err(error) => Err(bad(error.to_string())),
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let config: Option<RegistryConfig> =
            serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        let config = config.unwrap_or_default();
        for mirror in config.mirrors.values() {
            for endpoint in &mirror.endpoint {
                check_endpoint(endpoint)?;
            }
            for pattern in mirror.rewrite.keys() {
                regex::Regex::new(pattern).map_err(|error| error.to_string())?;
            }
        }
        Ok(config)
    }

    pub fn tls(&self, host: &str) -> TlsConfig {
        self.configs.get(host).map(|config| config.tls.clone()).unwrap_or_default()
    }

    /// Where to fetch from, in order. `auth` was meant for the registry, so no mirror sees it.
    pub fn endpoints(&self, image: &Reference, auth: Option<&AuthConfig>) -> Vec<Endpoint> {
        let (registry, repository) = image.parts();
        let mirror = self.mirrors.get(registry).or_else(|| self.mirrors.get("*"));
        let own = self.own(registry, repository, auth);
        let mirrors = mirror.into_iter().flat_map(|mirror| {
            let repository = mirror.rewritten(repository);
            mirror.endpoint.iter().map(move |endpoint| (endpoint, repository.clone()))
        });
        let mut all: Vec<Endpoint> = Vec::new();
        for (endpoint, repository) in mirrors {
            let base = endpoint.trim_end_matches('/').to_owned();
            if host_of(&base) == host_of(&own.base) {
                // The registry named as its own mirror says how it wants to be reached.
                all.push(Endpoint { base, repository, ..own.clone() });
            } else {
                let auth = self.auth(host_of(&base));
                all.push(Endpoint { base, repository, auth, is_mirror: true });
            }
        }
        if all.iter().all(|endpoint| endpoint.is_mirror) {
            all.push(own);
        }
        all
    }

    /// Where to push to: the registry itself, reached as its entry says.
    pub fn push_endpoint(&self, image: &Reference, auth: Option<&AuthConfig>) -> Endpoint {
        let endpoints = self.endpoints(image, auth);
        let own = endpoints.into_iter().find(|endpoint| !endpoint.is_mirror);
        own.expect("the registry itself is always among its endpoints")
    }

    fn own(&self, registry: &str, repository: &str, auth: Option<&AuthConfig>) -> Endpoint {
        let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
        let scheme = if is_loopback(host) { "http" } else { "https" };
        Endpoint {
            base: format!("{scheme}://{host}"),
            repository: repository.to_owned(),
            auth: auth.cloned().or_else(|| self.auth(registry)).or_else(|| self.auth(host)),
            is_mirror: false,
        }
    }

    fn auth(&self, host: &str) -> Option<AuthConfig> {
        let auth = self.configs.get(host)?.auth.as_ref()?;
        let decoded = AuthConfig::from_base64(&auth.auth).unwrap_or_default();
        let or =
            |given: &String, other: String| if given.is_empty() { other } else { given.clone() };
        Some(AuthConfig {
            username: or(&auth.username, decoded.username),
            password: or(&auth.password, decoded.password),
            identity_token: auth.identity_token.clone(),
            registry_token: String::new(),
        })
    }
}

// === impl Mirror ===

impl Mirror {
    /// The first pattern that matches counts.
    fn rewritten(&self, repository: &str) -> String {
        let patterns = self.rewrite.iter().filter_map(|(pattern, replacement)| {
            Some((regex::Regex::new(pattern).ok()?, replacement))
        });
        let mut matching = patterns.filter(|(pattern, _)| pattern.is_match(repository));
        match matching.next() {
            Some((pattern, to)) => pattern.replace(repository, to.as_str()).into_owned(),
            None => repository.to_owned(),
        }
    }
}

fn check_endpoint(endpoint: &str) -> Result<(), String> {
    let uri: http::Uri = endpoint.parse().map_err(|error| format!("{endpoint:?}: {error}"))?;
    match (uri.scheme_str(), uri.host()) {
        (Some("http" | "https"), Some(_)) => Ok(()),
        _ => Err(format!("endpoint {endpoint:?} must begin with https:// or http:// and a host")),
    }
}

/// Host and port of a base.
fn host_of(base: &str) -> &str {
    let rest = base.split_once("://").map_or(base, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Whether `host`, with or without a port, is this machine.
pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_matches(['[', ']']).parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(config: &str, image: &str) -> Vec<String> {
        let config = RegistryConfig::parse(config).unwrap();
        let endpoints = config.endpoints(&Reference::parse(image).unwrap(), None);
        endpoints.into_iter().map(|e| format!("{}/{}", e.base, e.repository)).collect()
    }

    #[test]
    fn a_registry_is_asked_itself_and_mirrors_before_it() {
        assert_eq!(bases("", "redis"), ["https://registry-1.docker.io/library/redis"]);
        assert_eq!(bases("", "localhost:5000/a"), ["http://localhost:5000/a"]);
        assert_eq!(bases("", "127.0.0.2/a"), ["http://127.0.0.2/a"]);
        assert_eq!(bases("", "[::1]:5000/a"), ["http://[::1]:5000/a"]);
        let config = "mirrors: {docker.io: {endpoint: ['http://m:5000/', 'https://n/cache'],\
                      rewrite: {'^library/(.*)': 'hub/$1'}}, '*': {endpoint: ['https://all']}}";
        assert_eq!(
            bases(config, "redis"),
            [
                "http://m:5000/hub/redis",
                "https://n/cache/hub/redis",
                "https://registry-1.docker.io/library/redis"
            ]
        );
        assert_eq!(bases(config, "quay.io/a/b"), ["https://all/a/b", "https://quay.io/a/b"]);
    }

    #[test]
    fn plain_http_is_declared_by_an_endpoint_of_the_registry_itself() {
        let config = "mirrors: {'reg.example:5000': {endpoint: ['http://reg.example:5000']}}";
        assert_eq!(bases(config, "reg.example:5000/a"), ["http://reg.example:5000/a"]);
    }

    #[test]
    fn credentials_of_a_pull_are_kept_from_mirrors() {
        let config =
            "{mirrors: {quay.io: {endpoint: ['https://m']}}, configs: {m: {auth: {auth: dTpw}}}}";
        let config = RegistryConfig::parse(config).unwrap();
        let auth = AuthConfig { username: "secret".into(), ..AuthConfig::default() };
        let image = Reference::parse("quay.io/a").unwrap();
        let users: Vec<String> = config
            .endpoints(&image, Some(&auth))
            .into_iter()
            .map(|endpoint| endpoint.auth.unwrap_or_default().username)
            .collect();
        assert_eq!(users, ["u", "secret"]);
    }

    #[test]
    fn mistakes_in_the_file_are_told() {
        for bad in [
            "mirror: {}",
            "mirrors: {a: {endpoint: ['m:5000']}}",
            "mirrors: {a: {endpoint: ['ftp://m']}}",
            "mirrors: {a: {rewrite: {'(': x}}}",
            "configs: {a: {tls: {ca: x}}}",
        ] {
            assert!(RegistryConfig::parse(bad).is_err(), "{bad}");
        }
    }
}
