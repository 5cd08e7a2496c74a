//! Images. Lost in CRI: their labels, the progress of a pull, and all but the use of a file system.

use std::time::SystemTime;

use skiff_runtime::{AuthConfig, FilesystemUsage, Image};

use super::{int64, nanos, text, uint64};
use crate::api;

impl api::ImageSpec {
    pub fn named(image: &str) -> Self {
        let image = image.to_owned();
        api::ImageSpec { user_specified_image: image.clone(), image, ..Default::default() }
    }
}

impl From<Image> for api::Image {
    fn from(from: Image) -> Self {
        api::Image {
            id: from.id,
            repo_tags: from.repo_tags,
            repo_digests: from.repo_digests,
            size: from.size,
            uid: from.uid.map(int64),
            username: from.username,
            spec: None,
            pinned: from.pinned,
        }
    }
}

impl From<api::Image> for Image {
    fn from(from: api::Image) -> Self {
        Image {
            id: from.id,
            repo_tags: from.repo_tags,
            repo_digests: from.repo_digests,
            size: from.size,
            uid: from.uid.map(|uid| uid.value),
            username: from.username,
            pinned: from.pinned,
            labels: Default::default(),
        }
    }
}

impl From<AuthConfig> for api::AuthConfig {
    fn from(from: AuthConfig) -> Self {
        let AuthConfig { username, password, identity_token, registry_token } = from;
        api::AuthConfig { username, password, identity_token, registry_token, ..Default::default() }
    }
}

impl From<api::AuthConfig> for AuthConfig {
    fn from(from: api::AuthConfig) -> Self {
        let api::AuthConfig { username, password, identity_token, registry_token, auth, .. } = from;
        let decoded = AuthConfig::from_base64(&auth).unwrap_or_default();
        let or = |first: String, second: String| if first.is_empty() { second } else { first };
        AuthConfig {
            username: or(username, decoded.username),
            password: or(password, decoded.password),
            identity_token,
            registry_token,
        }
    }
}

impl From<FilesystemUsage> for api::FilesystemUsage {
    fn from(from: FilesystemUsage) -> Self {
        api::FilesystemUsage {
            timestamp: nanos(SystemTime::now()),
            fs_id: Some(api::FilesystemIdentifier { mountpoint: text(&from.mountpoint) }),
            used_bytes: uint64(from.used_bytes),
            inodes_used: uint64(from.inodes_used),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_may_come_in_one_text() {
        // "user:secret"
        let auth = api::AuthConfig { auth: "dXNlcjpzZWNyZXQ=".into(), ..Default::default() };
        let auth = AuthConfig::from(auth);
        assert_eq!((&*auth.username, &*auth.password), ("user", "secret"));
        let sent = format!("{:?}", api::AuthConfig::from(auth));
        assert!(!sent.contains("secret"), "{sent}");
    }
}
