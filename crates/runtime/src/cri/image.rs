//! Images as the kubelet sees them. Counterpart: CRI `Image` and `ImageSpec`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
