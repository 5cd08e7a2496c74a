//! Where a cluster keeps what.
//!
//! One directory per cluster below a root (`/var/lib/skiff`, or `$SKIFF_ROOT`).

use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Result};

/// The places of one cluster.
#[derive(Clone, Debug)]
pub struct Layout {
    pub name: String,
    pub dir: PathBuf,
}

impl Layout {
    /// The cluster with this name below `$SKIFF_ROOT` or `/var/lib/skiff`.
    pub fn of(name: &str) -> Result<Layout> {
        if !is_cluster_name(name) {
            return Err(Error::BadName(name.to_owned()));
        }
        Ok(Layout { name: name.to_owned(), dir: root().join("clusters").join(name) })
    }

    pub fn create(&self) -> Result<()> {
        std::fs::create_dir_all(self.data()).doing(|| format!("making {}", self.dir.display()))
    }

    pub fn exists(&self) -> bool {
        self.state().exists()
    }

    pub fn lock(&self) -> PathBuf {
        root().join(format!("{}.lock", self.name))
    }

    pub fn state(&self) -> PathBuf {
        self.dir.join("cluster.json")
    }

    /// The data directory of the server: store, keys, images, pods.
    pub fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Everything the node printed.
    pub fn log(&self) -> PathBuf {
        self.dir.join("node.log")
    }

    /// The server's own kubeconfig, from which the user's context is made.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// Where the running server answers the local command line.
    pub fn socket(&self) -> PathBuf {
        self.data().join("node.sock")
    }

    /// The cgroup of the node, relative to each hierarchy.
    pub fn cgroup(&self) -> String {
        format!("/skiff-{}", self.name)
    }
}

/// `/var/lib/skiff`, or where `$SKIFF_ROOT` points.
pub(crate) fn root() -> PathBuf {
    std::env::var_os("SKIFF_ROOT").map_or_else(|| Path::new("/var/lib/skiff").into(), PathBuf::from)
}

fn is_cluster_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_the_directory_are_refused() {
        for name in ["", "..", "a/b", "A", "-a", "a-", "1a", &"a".repeat(41)] {
            assert!(!is_cluster_name(name), "{name}");
        }
        assert!(is_cluster_name("skiff") && is_cluster_name("ci-7"));
    }
}
