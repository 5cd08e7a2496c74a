//! Which resources are sealed and how, as an administrator says it.
//!
//! An EncryptionConfiguration file -> rules, or what is wrong with it. Counterpart: `server/options/encryptionconfig`.
//! Differs from upstream: `kms` is refused, and the file is read at start only.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Rules;
use super::provider::{BoxKey, CbcKey, GcmKey, Provider, SealError};
use crate::configuration::{self, FileError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum EncryptionConfig {
    /// Secrets, under keys that the server makes and keeps.
    #[default]
    Managed,
    /// Nothing is sealed any more.
    Off,
    /// What an EncryptionConfiguration says.
    File(PathBuf),
}

#[derive(Debug, thiserror::Error)]
pub enum EncryptionError {
    #[error(transparent)]
    Configuration(#[from] FileError),
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {reason}", .path.display())]
    Malformed { path: PathBuf, reason: String },
    #[error("the keys of encryption at rest: {0}")]
    Seal(#[from] SealError),
    #[error("{}: {fault}", .path.display())]
    Rule { path: PathBuf, fault: RuleFault },
}

#[derive(Debug, thiserror::Error)]
pub enum RuleFault {
    #[error("resources[{0}] names no resources")]
    NoResources(usize),
    #[error("resources[{0}] has no providers")]
    NoProviders(usize),
    #[error("each provider must be exactly one of aesgcm, aescbc, secretbox and identity")]
    NotOne,
    #[error("provider kms is not supported, use aesgcm, aescbc, secretbox or identity")]
    Kms,
    #[error("a provider has no keys")]
    NoKeys,
    #[error("key {name:?}: {source}")]
    Key { name: String, source: SealError },
    #[error("key {0:?}: the secret is not base64")]
    Secret(String),
    #[error("key name {0:?} must not be empty or hold a colon")]
    Name(String),
}

const VERSIONS: &[&str] = &["apiserver.config.k8s.io/v1", "v1"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    resources: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    resources: Vec<String>,
    providers: Vec<ProviderEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProviderEntry {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    secretbox: Option<Keys>,
    kms: Option<IgnoredAny>,
    #[serde(default, deserialize_with = "present")]
    identity: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<NamedKey>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NamedKey {
    name: String,
    secret: String,
}

/// `identity: {}` and `identity:` both say that it is there.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(value).map(|_| true)
}

pub fn read(path: &Path) -> Result<Rules, EncryptionError> {
    let file: File = configuration::read(path, "EncryptionConfiguration", VERSIONS)?;
    rules(file).map_err(|fault| EncryptionError::Rule { path: path.to_owned(), fault })
}

/// The first entry that names a resource counts; what names a resource exactly comes before what names many.
fn rules(file: File) -> Result<Rules, RuleFault> {
    let mut rules = Vec::new();
    for (at, entry) in file.resources.into_iter().enumerate() {
        if entry.resources.is_empty() {
            return Err(RuleFault::NoResources(at));
        }
        if entry.providers.is_empty() {
            return Err(RuleFault::NoProviders(at));
        }
        let providers: Result<Vec<Provider>, RuleFault> =
            entry.providers.into_iter().map(ProviderEntry::read).collect();
        let providers = Arc::new(providers?);
        for resource in entry.resources {
            rules.extend(prefixes(&resource).into_iter().map(|prefix| (prefix, providers.clone())));
        }
    }
    rules.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    Ok(Rules { rules })
}

/// Where the objects of `secrets`, `deployments.apps`, `*.apps` or `*.*` are.
fn prefixes(resource: &str) -> Vec<String> {
    let (name, group) = resource.split_once('.').unwrap_or((resource, ""));
    if resource == "*.*" {
        return vec!["/registry/".to_owned()];
    }
    let kinds = skiff_api::kinds::builtin();
    let mut found: Vec<String> = kinds
        .iter()
        .filter(|kind| kind.group == group && (name == "*" || kind.resource == name))
        .map(|kind| kind.key_prefix.clone())
        .collect();
    found.sort();
    found.dedup();
    match (found.is_empty(), name) {
        (false, _) => found,
        (true, "*") => vec![format!("/registry/{group}/")],
        (true, name) => vec![format!("/registry/{group}/{name}/")],
    }
}

impl ProviderEntry {
    fn read(self) -> Result<Provider, RuleFault> {
        if self.kms.is_some() {
            return Err(RuleFault::Kms);
        }
        match (self.aesgcm, self.aescbc, self.secretbox, self.identity) {
            (Some(keys), None, None, false) => keys.read(GcmKey::new).map(Provider::AesGcm),
            (None, Some(keys), None, false) => keys.read(CbcKey::new).map(Provider::AesCbc),
            (None, None, Some(keys), false) => keys.read(BoxKey::new).map(Provider::SecretBox),
            (None, None, None, true) => Ok(Provider::Identity),
            _ => Err(RuleFault::NotOne),
        }
    }
}

impl Keys {
    fn read<K>(self, make: fn(&str, &[u8]) -> Result<K, SealError>) -> Result<Vec<K>, RuleFault> {
        if self.keys.is_empty() {
            return Err(RuleFault::NoKeys);
        }
        let read = |NamedKey { name, secret }| {
            if name.is_empty() || name.contains(':') {
                return Err(RuleFault::Name(name));
            }
            let Ok(bytes) = BASE64_STANDARD.decode(secret.trim()) else {
                return Err(RuleFault::Secret(name));
            };
            make(&name, &bytes).map_err(|source| RuleFault::Key { name, source })
        };
        self.keys.into_iter().map(read).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Rules, RuleFault> {
        rules(serde_saphyr::from_str(text).expect("well-formed"))
    }

    #[test]
    fn the_first_provider_of_the_narrowest_rule_seals() {
        let secret = BASE64_STANDARD.encode([1; 32]);
        let read = parse(&format!(
            "resources:\n\
             - resources: ['*.*']\n  providers: [{{identity: {{}}}}]\n\
             - resources: [secrets, widgets.example.com]\n  providers:\n\
             \x20 - aescbc: {{keys: [{{name: a, secret: {secret}}}]}}\n\
             \x20 - aesgcm: {{keys: [{{name: b, secret: {secret}}}]}}\n\
             \x20 - identity: {{}}\n"
        ))
        .expect("good rules");
        let prefix = |key: &str| read.providers(key).map(|providers| providers[0].prefix());
        assert_eq!(prefix("/registry/secrets/n/s").as_deref(), Some("k8s:enc:aescbc:v1:a:"));
        assert_eq!(
            prefix("/registry/example.com/widgets/n/w").as_deref(),
            Some("k8s:enc:aescbc:v1:a:")
        );
        assert_eq!(prefix("/registry/configmaps/n/c").as_deref(), Some(""));
    }

    #[test]
    fn faults_are_told_apart() {
        let one = |provider: &str| {
            let text = format!("resources: [{{resources: [secrets], providers: [{provider}]}}]");
            parse(&text).err().map(|fault| fault.to_string()).unwrap_or_default()
        };
        for (provider, fault) in [
            ("{kms: {name: k}}", "provider kms is not supported"),
            ("{secretbox: {keys: [{name: a, secret: AAAA}]}}", "32 bytes, not 3"),
            ("{aesgcm: {keys: []}}", "no keys"),
            ("{aesgcm: {keys: [{name: a, secret: AAAA}]}}", "16, 24 or 32 bytes, not 3"),
            ("{aesgcm: {keys: [{name: 'a:b', secret: AAAA}]}}", "hold a colon"),
            ("{aesgcm: {keys: [{name: a, secret: '!'}]}}", "not base64"),
            ("{}", "exactly one"),
        ] {
            assert!(one(provider).contains(fault), "{provider}: {}", one(provider));
        }
        assert!(parse("resources: [{resources: [], providers: [{identity: {}}]}]").is_err());
    }
}
