//! Images as the kubelet sees them. Counterpart: CRI `Image`, `ImageSpec` and `AuthConfig`.

use std::{collections::BTreeMap, fmt};

use base64::{Engine, prelude::BASE64_STANDARD, prelude::BASE64_STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:` digest of the image's config.
    pub id: String,
    /// Full names with a tag: `docker.io/library/kuard:blue`.
    pub repo_tags: Vec<String>,
    /// Full names by manifest digest: `docker.io/library/kuard@sha256:..`.
    pub repo_digests: Vec<String>,
    /// Bytes of its blobs as stored.
    pub size: u64,
    /// The config's user when it is a number.
    pub uid: Option<i64>,
    /// The config's user when it is a name.
    pub username: String,
    /// Never removed by image garbage collection.
    pub pinned: bool,
    pub labels: BTreeMap<String, String>,
}

/// What to fetch from a registry.
#[derive(Debug, Clone, Default)]
pub struct PullImage {
    pub reference: String,
    /// For the registry the reference names; `None` for what the node's configuration holds.
    pub auth: Option<AuthConfig>,
    /// Hears how far it is.
    pub progress: Option<mpsc::UnboundedSender<LayerProgress>>,
}

/// How far one layer is on its way in or out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerProgress {
    pub digest: String,
    pub state: LayerState,
    /// Bytes that are through, of `total`.
    pub done: u64,
    pub total: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LayerState {
    Waiting,
    /// It was there before.
    Exists,
    Downloading,
    Unpacking,
    Uploading,
    Complete,
}

/// Who asks.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuthConfig {
    pub username: String,
    pub password: String,
    /// Traded for a token at the registry's token server.
    pub identity_token: String,
    /// Shown to the registry as it is.
    pub registry_token: String,
}

// === impl AuthConfig ===

impl AuthConfig {
    /// The `auth` of a Docker configuration: `user:password` in base64, padded or not.
    pub fn from_base64(text: &str) -> Option<Self> {
        let text = text.trim();
        let decoded = match text.ends_with('=') {
            true => BASE64_STANDARD.decode(text),
            false => BASE64_STANDARD_NO_PAD.decode(text),
        };
        let decoded = String::from_utf8(decoded.ok()?).ok()?;
        let (username, password) = decoded.split_once(':')?;
        // Docker pads the password with zero bytes.
        let password = password.trim_end_matches('\0');
        Some(AuthConfig {
            username: username.into(),
            password: password.into(),
            ..AuthConfig::default()
        })
    }

    pub(crate) fn basic(&self) -> Option<String> {
        if self.username.is_empty() && self.password.is_empty() {
            return None;
        }
        let pair = format!("{}:{}", self.username, self.password);
        Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
    }
}

/// Secrets stay out of logs.
impl fmt::Debug for AuthConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthConfig").field("username", &self.username).finish_non_exhaustive()
    }
}
