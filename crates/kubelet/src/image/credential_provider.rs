//! Credentials from programs: the exec protocol of `credentialprovider.kubelet.k8s.io/v1`.
//!
//! Consumes a `CredentialProviderConfig` and an image, runs the plugins whose patterns fit it, emits
//! credentials, which are kept as long as the plugin says. Counterpart:
//! `pkg/credentialprovider/plugin`.
//! Differs from upstream: plugins that want a service account's token (`tokenAttributes`) are
//! refused at start.
//! Invariant: a plugin that fails costs its credentials, not the pull.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Mutex,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use skiff_api::duration;
use skiff_runtime::AuthConfig;
use tokio::io::AsyncWriteExt;

use super::keyring::{Keyring, matches};

const API: &str = "credentialprovider.kubelet.k8s.io/v1";
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    #[error("cannot read {path:?}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path:?}: {reason}")]
    Config { path: PathBuf, reason: String },
}

/// All configured plugins, and what they answered lately.
#[derive(Default)]
pub struct CredentialProviders {
    plugins: Vec<Plugin>,
    answers: Mutex<HashMap<CacheKey, Answer>>,
}

/// The plugin's name, and the image, registry or nothing it keeps answers by.
type CacheKey = (String, String);

struct Answer {
    auths: Auths,
    good_until: Instant,
}

type Auths = BTreeMap<String, Credentials>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Config {
    kind: String,
    #[serde(default)]
    providers: Vec<Plugin>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plugin {
    name: String,
    match_images: Vec<String>,
    default_cache_duration: String,
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    token_attributes: Option<serde::de::IgnoredAny>,
    #[serde(skip)]
    program: PathBuf,
    #[serde(skip)]
    keeps: Duration,
}

#[derive(Clone, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    api_version: &'static str,
    kind: &'static str,
    image: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Response {
    cache_key_type: String,
    cache_duration: Option<String>,
    #[serde(default)]
    auth: Option<Auths>,
}

#[derive(Clone, Deserialize)]
struct Credentials {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

// === impl CredentialProviders ===

impl CredentialProviders {
    /// Reads the configuration; the programs are looked for in `bin_dir`.
    pub fn read(config: &Path, bin_dir: &Path) -> Result<Self, ProviderError> {
        let text = std::fs::read_to_string(config)
            .map_err(|source| ProviderError::Read { path: config.to_owned(), source })?;
        let bad = |reason: String| ProviderError::Config { path: config.to_owned(), reason };
        let read: Config = serde_saphyr::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if read.kind != "CredentialProviderConfig" {
            return Err(bad(format!("{:?} is no CredentialProviderConfig", read.kind)));
        }
        let plugins = read.providers.into_iter().map(|plugin| plugin.check(bin_dir).map_err(bad));
        Ok(CredentialProviders { plugins: plugins.collect::<Result<_, _>>()?, ..Self::default() })
    }

    /// What the plugins know for `image`, a full name without its tag.
    pub async fn credentials(&self, image: &str) -> Vec<AuthConfig> {
        let mut found = Vec::new();
        for plugin in self.plugins.iter().filter(|plugin| plugin.fits(image)) {
            let auths = match self.kept(plugin, image) {
                Some(auths) => auths,
                None => self.ask(plugin, image).await,
            };
            let mut keyring = Keyring::default();
            for (registry, Credentials { username, password }) in auths {
                keyring.add(&registry, AuthConfig { username, password, ..AuthConfig::default() });
            }
            found.extend(keyring.lookup(image));
        }
        found
    }

    fn kept(&self, plugin: &Plugin, image: &str) -> Option<Auths> {
        let mut answers = self.answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        answers.retain(|_, answer| answer.good_until > Instant::now());
        let keys = [image, registry_of(image), ""];
        let mut kept =
            keys.iter().filter_map(|key| answers.get(&(plugin.name.clone(), (*key).to_owned())));
        kept.next().map(|answer| answer.auths.clone())
    }

    async fn ask(&self, plugin: &Plugin, image: &str) -> Auths {
        let response = match plugin.run(image).await {
            Ok(response) => response,
            Err(error) => {
                tracing::warn!(plugin = plugin.name, image, error, "no credentials");
                return Auths::new();
            }
        };
        let key = match response.cache_key_type.as_str() {
            "Image" => image,
            "Registry" => registry_of(image),
            "Global" => "",
            other => {
                tracing::warn!(plugin = plugin.name, other, "not a valid cacheKeyType");
                return Auths::new();
            }
        };
        let auths = response.auth.unwrap_or_default();
        let keeps = response.cache_duration.as_deref().and_then(duration::parse_span);
        let good_until = Instant::now() + keeps.unwrap_or(plugin.keeps);
        let answer = Answer { auths: auths.clone(), good_until };
        let mut answers = self.answers.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        answers.insert((plugin.name.clone(), key.to_owned()), answer);
        auths
    }
}

// === impl Plugin ===

impl Plugin {
    fn check(mut self, bin_dir: &Path) -> Result<Self, String> {
        let name = &self.name;
        if self.api_version != API {
            return Err(format!("{name}: apiVersion {:?} is not supported", self.api_version));
        }
        if self.token_attributes.is_some() {
            return Err(format!("{name}: tokenAttributes are not supported"));
        }
        if name.contains(['/', ' ']) || name.is_empty() || name == ".." || name == "." {
            return Err(format!("{name:?} is no name of a program"));
        }
        self.keeps = duration::parse_span(&self.default_cache_duration)
            .ok_or_else(|| format!("{name}: {:?} is no duration", self.default_cache_duration))?;
        self.program = bin_dir.join(name);
        match self.program.is_file() {
            true => Ok(self),
            false => Err(format!("plugin binary executable {:?} did not exist", self.program)),
        }
    }

    fn fits(&self, image: &str) -> bool {
        self.match_images.iter().any(|pattern| matches(pattern, image))
    }

    async fn run(&self, image: &str) -> Result<Response, String> {
        let request = Request { api_version: API, kind: "CredentialProviderRequest", image };
        let request = serde_json::to_vec(&request).expect("a request is plain data");
        let variables = self.env.iter().map(|variable| (&variable.name, &variable.value));
        let mut child = tokio::process::Command::new(&self.program)
            .args(&self.args)
            .envs(variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().expect("it is piped");
        let talk = async {
            // A plugin that answers without listening is fine.
            let _ = stdin.write_all(&request).await;
            drop(stdin);
            child.wait_with_output().await.map_err(|error| error.to_string())
        };
        let output = tokio::time::timeout(PATIENCE, talk).await;
        let output = output.map_err(|_| "it did not answer within a minute".to_owned())??;
        match output.status.success() {
            true => serde_json::from_slice(&output.stdout).map_err(|error| error.to_string()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(format!("{}: {said}", output.status))
            }
        }
    }
}

fn registry_of(image: &str) -> &str {
    image.split('/').next().unwrap_or(image)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A directory with a plugin that counts its runs, and its configuration.
    fn plugin(name: &str, script: &str) -> (PathBuf, CredentialProviders) {
        let dir =
            std::env::temp_dir().join(format!("skiff-provider-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let program = dir.join("plugin");
        std::fs::write(
            &program,
            format!("#!/bin/sh\necho run >> {}/runs\n{script}", dir.display()),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = dir.join("config.yaml");
        let text = format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n\
             - name: plugin\n  matchImages: ['*.r.io']\n  defaultCacheDuration: 10m\n  apiVersion: {API}\n\
             \x20 args: [robot]\n  env: [{{name: SECRET, value: hush}}]\n"
        );
        std::fs::write(&config, text).unwrap();
        let providers = CredentialProviders::read(&config, &dir).unwrap();
        (dir, providers)
    }

    #[tokio::test]
    async fn a_plugin_is_asked_once_for_what_it_lets_keep() {
        let answer = r#"grep -q '"image":"a.r.io/app' && echo "{\"cacheKeyType\": \"Registry\", \"auth\":
            {\"*.r.io\": {\"username\": \"$1\", \"password\": \"$SECRET\"}}}""#;
        let (dir, providers) = plugin("kept", answer);
        for image in ["a.r.io/app", "a.r.io/other", "b.io/app"] {
            let found = providers.credentials(image).await;
            let expected = if image.starts_with('a') { vec![("robot", "hush")] } else { vec![] };
            let found: Vec<(&str, &str)> =
                found.iter().map(|a| (a.username.as_str(), a.password.as_str())).collect();
            assert_eq!(found, expected, "{image}");
        }
        assert_eq!(std::fs::read_to_string(dir.join("runs")).unwrap(), "run\n");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn a_plugin_that_fails_has_no_credentials() {
        let (dir, providers) = plugin("fails", "exit 3");
        assert!(providers.credentials("a.r.io/app").await.is_empty());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
