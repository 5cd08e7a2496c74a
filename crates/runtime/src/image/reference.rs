//! Image names: `kuard:blue` -> `docker.io/library/kuard:blue`.
//!
//! Counterpart: `github.com/distribution/reference`, `ParseDockerRef`: a digest wins over a tag,
//! and a name with neither means `latest`. Invariant: a parsed reference prints in full and parses
//! back to itself.

use std::fmt;

use crate::error::{Error, Result};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Registry and path: `docker.io/library/kuard`.
    pub name: String,
    pub version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    Tag(String),
    /// `sha256:<64 hex digits>`.
    Digest(String),
}

const DEFAULT_DOMAIN: &str = "docker.io";
const OFFICIAL_PATH: &str = "library/";

// === impl Reference ===

impl Reference {
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = |reason| Error::InvalidReference { reference: text.to_owned(), reason };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let (path, tag) = split_tag(rest);
        if digest.is_some_and(|digest| !is_digest(digest)) {
            return Err(invalid("the digest is not sha256 with 64 hexadecimal digits"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid("the tag has characters a tag may not have"));
        }
        let name = full_name(path);
        let mut parts = name.split('/');
        if !parts.next().is_some_and(is_host) || !parts.all(is_path_component) {
            return Err(invalid("the name must be lower case words separated by /, ., _ or -"));
        }
        let version = match (digest, tag) {
            (Some(digest), _) => Version::Digest(digest.to_owned()),
            (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
        };
        Ok(Reference { name, version })
    }

    /// Registry and repository: `docker.io`, `library/kuard`.
    pub fn parts(&self) -> (&str, &str) {
        self.name.split_once('/').expect("a full name has a registry")
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.name),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.name),
        }
    }
}

/// Whether `text` is a digest as OCI writes it.
pub(super) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && is_hex(hex))
}

/// Whether `text` may abbreviate an image id.
pub(super) fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// A colon after the last slash starts a tag; one before it is a registry's port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, Some(tag)),
        _ => (text, None),
    }
}

fn full_name(path: &str) -> String {
    match path.split_once('/') {
        Some((domain, rest)) if is_domain(domain) => {
            let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
            let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
            format!("{domain}/{}{rest}", if official { OFFICIAL_PATH } else { "" })
        }
        Some(_) => format!("{DEFAULT_DOMAIN}/{path}"),
        None => format!("{DEFAULT_DOMAIN}/{OFFICIAL_PATH}{path}"),
    }
}

fn is_domain(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// A host name or address with or without a port.
fn is_host(domain: &str) -> bool {
    let ends_well =
        |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b"[]".contains(&b));
    ends_well(domain.bytes().next())
        && ends_well(domain.bytes().last())
        && domain.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn is_path_component(part: &str) -> bool {
    let alphanumeric =
        |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    alphanumeric(part.bytes().next())
        && alphanumeric(part.bytes().last())
        && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_completed() {
        let hex = "0123456789abcdef".repeat(4);
        let digest = format!("kuard:blue@sha256:{hex}");
        let full_digest = format!("docker.io/library/kuard@sha256:{hex}");
        for (short, full) in [
            ("kuard", "docker.io/library/kuard:latest"),
            ("kuard:blue", "docker.io/library/kuard:blue"),
            ("team/app", "docker.io/team/app:latest"),
            ("docker.io/redis:7", "docker.io/library/redis:7"),
            ("index.docker.io/redis", "docker.io/library/redis:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest"),
            ("localhost/app:v1", "localhost/app:v1"),
            ("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10"),
            ("gcr.io/a/b-c/d_e:V1.2-x", "gcr.io/a/b-c/d_e:V1.2-x"),
            (digest.as_str(), full_digest.as_str()),
        ] {
            let parsed = Reference::parse(short).unwrap();
            assert_eq!(parsed.to_string(), full);
            assert_eq!(Reference::parse(full).unwrap(), parsed);
        }
    }

    #[test]
    fn bad_names_are_refused() {
        for bad in [
            "",
            "Kuard",
            "a//b",
            "-a",
            "a:",
            "a:-x",
            "a@sha256:12",
            "a@md5:00",
            "a b",
            "../x",
            "a/..",
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?} parsed");
        }
    }
}
