//! Which credentials fit an image.
//!
//! Consumes Secrets of the types `kubernetes.io/dockerconfigjson` and `kubernetes.io/dockercfg`,
//! emits the credentials whose registry, port and path fit an image, the longest match first.
//! Counterpart: `pkg/credentialprovider`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Secret;
use serde::Deserialize;
use skiff_runtime::AuthConfig;

const DOCKER_HUB: &str = "index.docker.io";

/// Credentials by where they are good: `host[:port][/path]`, whose host may hold wildcards.
#[derive(Debug, Default)]
pub struct Keyring {
    entries: BTreeMap<String, Vec<AuthConfig>>,
}

#[derive(Deserialize)]
struct DockerConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyringError {
    #[error("secret {secret:?}: {source}")]
    NoJson { secret: String, source: serde_json::Error },
    #[error("secret {secret:?}: auth of {registry:?} is not user:password in base64")]
    NoAuth { secret: String, registry: String },
}

// === impl Keyring ===

impl Keyring {
    /// Of all these Secrets; one that is unreadable spoils the pull, as upstream.
    pub fn from_secrets<'a>(
        secrets: impl IntoIterator<Item = &'a Secret>,
    ) -> Result<Self, KeyringError> {
        let mut keyring = Keyring::default();
        for secret in secrets {
            keyring.add_secret(secret)?;
        }
        Ok(keyring)
    }

    /// Of a `~/.docker/config.json`.
    pub fn from_docker_config(content: &[u8]) -> Result<Self, KeyringError> {
        let secret = "config.json".to_owned();
        let read: DockerConfigJson = serde_json::from_slice(content)
            .map_err(|source| KeyringError::NoJson { secret: secret.clone(), source })?;
        let mut keyring = Keyring::default();
        keyring.add_all(&secret, read.auths)?;
        Ok(keyring)
    }

    fn add_secret(&mut self, secret: &Secret) -> Result<(), KeyringError> {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let data = |key: &str| {
            let content = secret.data.as_ref().and_then(|data| data.get(key));
            content.map(|content| content.0.as_slice()).filter(|content| !content.is_empty())
        };
        let no_json = |source| KeyringError::NoJson { secret: name.clone(), source };
        let entries = match secret.type_.as_deref() {
            Some("kubernetes.io/dockerconfigjson") => data(".dockerconfigjson")
                .map(serde_json::from_slice::<DockerConfigJson>)
                .transpose()
                .map_err(no_json)?
                .map(|config| config.auths),
            Some("kubernetes.io/dockercfg") => {
                data(".dockercfg").map(serde_json::from_slice).transpose().map_err(no_json)?
            }
            _ => None,
        };
        self.add_all(&name, entries.unwrap_or_default())
    }

    fn add_all(
        &mut self,
        secret: &str,
        entries: BTreeMap<String, Entry>,
    ) -> Result<(), KeyringError> {
        for (registry, entry) in entries {
            let auth = entry.auth_config();
            let (secret, place) = (secret.to_owned(), registry.clone());
            let auth = auth.ok_or(KeyringError::NoAuth { secret, registry: place })?;
            self.add(&registry, auth);
        }
        Ok(())
    }

    pub fn add(&mut self, registry: &str, auth: AuthConfig) {
        self.entries.entry(place(registry)).or_default().push(auth);
    }

    /// What fits `image`, a full name without its tag. Longer places sort after shorter ones, so
    /// the reverse order tries the closest first.
    pub fn lookup(&self, image: &str) -> Vec<AuthConfig> {
        let fitting = self.entries.iter().rev().filter(|(place, _)| matches(place, image));
        let found: Vec<AuthConfig> = fitting.flat_map(|(_, auths)| auths.clone()).collect();
        match found.is_empty() && image.starts_with("docker.io/") {
            true => self.entries.get(DOCKER_HUB).cloned().unwrap_or_default(),
            false => found,
        }
    }
}

// === impl Entry ===

impl Entry {
    fn auth_config(self) -> Option<AuthConfig> {
        match self.auth.is_empty() {
            false => AuthConfig::from_base64(&self.auth),
            true => Some(AuthConfig {
                username: self.username,
                password: self.password,
                ..AuthConfig::default()
            }),
        }
    }
}

/// `https://index.docker.io/v1/` is `index.docker.io`: API versions are no part of a place.
fn place(registry: &str) -> String {
    let rest = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://"));
    let rest = rest.unwrap_or(registry);
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let path = match path.starts_with("/v1/") || path.starts_with("/v2/") {
        true => &path[3..],
        false => path,
    };
    if path == "/" { host.to_owned() } else { format!("{host}{path}") }
}

/// Whether credentials for `pattern` fit `image`: same port, as many labels in the host, each
/// matching, and a path that begins alike.
pub fn matches(pattern: &str, image: &str) -> bool {
    let split = |text: &str| -> (String, Option<String>, String) {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, Some(port.to_owned())),
            _ => (host, None),
        };
        (name.to_owned(), port, path.to_owned())
    };
    let ((host, port, path), (image_host, image_port, image_path)) = (split(pattern), split(image));
    let (labels, image_labels): (Vec<&str>, Vec<&str>) =
        (host.split('.').collect(), image_host.split('.').collect());
    port == image_port
        && labels.len() == image_labels.len()
        && image_path.starts_with(&path)
        && labels.iter().zip(image_labels).all(|(glob, label)| glob_matches(glob, label))
}

/// `*`, `?` and classes such as `[a-c]`, within one label.
fn glob_matches(glob: &str, text: &str) -> bool {
    let glob: Vec<char> = glob.chars().collect();
    let text: Vec<char> = text.chars().collect();
    glob_from(&glob, &text)
}

fn glob_from(glob: &[char], text: &[char]) -> bool {
    match glob {
        [] => text.is_empty(),
        ['*', rest @ ..] => (0..=text.len()).any(|skipped| glob_from(rest, &text[skipped..])),
        ['?', rest @ ..] => !text.is_empty() && glob_from(rest, &text[1..]),
        ['[', rest @ ..] => {
            let Some(end) = rest.iter().position(|c| *c == ']') else { return false };
            let Some((first, tail)) = text.split_first() else { return false };
            in_class(&rest[..end], *first) && glob_from(&rest[end + 1..], tail)
        }
        ['\\', literal, rest @ ..] | [literal, rest @ ..] => {
            text.first() == Some(literal) && glob_from(rest, &text[1..])
        }
    }
}

fn in_class(class: &[char], c: char) -> bool {
    let (negated, mut class) = match class {
        ['^', rest @ ..] => (true, rest),
        _ => (false, class),
    };
    let mut found = false;
    while let [low, rest @ ..] = class {
        let (high, rest) = match rest {
            ['-', high, rest @ ..] => (high, rest),
            _ => (low, rest),
        };
        found |= (*low..=*high).contains(&c);
        class = rest;
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn keyring(kind: &str, key: &str, content: &str) -> Result<Keyring, KeyringError> {
        let secret = Secret {
            type_: Some(kind.to_owned()),
            data: Some([(key.to_owned(), ByteString(content.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        Keyring::from_secrets([&secret])
    }

    fn users(config: &str, image: &str) -> Vec<String> {
        let keyring =
            keyring("kubernetes.io/dockerconfigjson", ".dockerconfigjson", config).unwrap();
        keyring.lookup(image).into_iter().map(|auth| auth.username).collect()
    }

    #[test]
    fn places_fit_as_upstream_documents_it() {
        for (pattern, image, fits) in [
            ("*.kubernetes.io", "abc.kubernetes.io/image", true),
            ("*.*.kubernetes.io", "abc.def.kubernetes.io/image", true),
            ("prefix.*.io", "prefix.kubernetes.io/image", true),
            ("*-good.kubernetes.io", "prefix-good.kubernetes.io/image", true),
            ("my-registry.io/images", "my-registry.io/images/my-image", true),
            ("*.my-registry.io/images", "sub.my-registry.io/images", true),
            ("my-registry.io:5000", "my-registry.io:5000/a", true),
            ("reg[0-9].io", "reg7.io/a", true),
            ("reg?.io", "reg7.io/a", true),
            ("reg[^0-9].io", "reg7.io/a", false),
            ("*.kubernetes.io", "kubernetes.io/image", false),
            ("*.kubernetes.io", "abc.def.kubernetes.io/image", false),
            ("my-registry.io", "my-registry.io:5000/a", false),
            ("my-registry.io:5000", "my-registry.io/a", false),
            ("my-registry.io/images", "my-registry.io/other", false),
            ("localhost:5000", "localhost:5000/a", true),
        ] {
            assert_eq!(matches(pattern, image), fits, "{pattern} {image}");
        }
    }

    #[test]
    fn the_closest_place_comes_first() {
        let config = r#"{"auths": {"r.io": {"username": "all", "password": "x"},
            "https://r.io/v2/team": {"auth": "dGVhbTp4"}, "*.io": {"username": "any"}}}"#;
        assert_eq!(users(config, "r.io/team/app"), ["team", "all", "any"]);
        assert_eq!(users(config, "r.io/other"), ["all", "any"]);
    }

    #[test]
    fn docker_hub_is_known_by_its_old_address() {
        let config = r#"{"auths": {"https://index.docker.io/v1/": {"auth": "aHViOng="}}}"#;
        assert_eq!(users(config, "docker.io/library/redis"), ["hub"]);
        assert_eq!(users(config, "quay.io/redis"), [""; 0]);
    }

    #[test]
    fn the_older_form_is_read_and_other_types_are_not() {
        let old = r#"{"r.io": {"auth": "b2xkOng"}}"#;
        let keyring_of = |kind, key| keyring(kind, key, old).unwrap().lookup("r.io/a");
        assert_eq!(keyring_of("kubernetes.io/dockercfg", ".dockercfg")[0].username, "old");
        assert!(keyring_of("Opaque", ".dockercfg").is_empty());
        let broken = r#"{"auths": {"r.io": {"auth": "!!"}}}"#;
        assert!(keyring("kubernetes.io/dockerconfigjson", ".dockerconfigjson", broken).is_err());
    }
}
