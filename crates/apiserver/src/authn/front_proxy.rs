//! A proxy that has authenticated the user itself, and says so in headers.
//!
//! A proxy's certificate and `X-Remote-*` headers -> the user. Counterpart: `request/headerrequest`.
//! Invariant: headers count only beside a certificate of the proxies' authority with an allowed name.

use std::collections::BTreeMap;
use std::path::PathBuf;

use http::HeaderMap;

use crate::query::decode_segment;
use crate::user::UserInfo;

/// `--requestheader-*`.
#[derive(Clone, Debug)]
pub struct FrontProxyConfig {
    /// PEM certificates of the proxies' authorities; the cluster's own if there is none.
    pub ca_file: Option<PathBuf>,
    /// Common names of proxies; any if empty.
    pub allowed_names: Vec<String>,
    /// The first header with a value counts.
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_prefixes: Vec<String>,
}

impl Default for FrontProxyConfig {
    fn default() -> FrontProxyConfig {
        let one = |name: &str| vec![name.to_owned()];
        FrontProxyConfig {
            ca_file: None,
            allowed_names: one("front-proxy-client"),
            username_headers: one("X-Remote-User"),
            uid_headers: one("X-Remote-Uid"),
            group_headers: one("X-Remote-Group"),
            extra_prefixes: one("X-Remote-Extra-"),
        }
    }
}

impl FrontProxyConfig {
    /// Whom the proxy speaks for, if it may and does.
    pub fn user(&self, proxy: &str, headers: &HeaderMap) -> Option<UserInfo> {
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|name| name == proxy) {
            return None;
        }
        let name = first(headers, &self.username_headers)?;
        let groups = self.group_headers.iter().flat_map(|header| texts(headers, header));
        Some(UserInfo {
            name,
            uid: first(headers, &self.uid_headers).unwrap_or_default(),
            groups: groups.collect(),
            extra: self.extra(headers),
        })
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for prefix in self.extra_prefixes.iter().map(|prefix| prefix.to_ascii_lowercase()) {
            for header in headers.keys() {
                if let Some(key) = header.as_str().strip_prefix(&prefix) {
                    let values = texts(headers, header.as_str());
                    extra.entry(decode_segment(key).to_lowercase()).or_default().extend(values);
                }
            }
        }
        extra
    }
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    names.iter().flat_map(|name| texts(headers, name)).find(|text| !text.is_empty())
}

fn texts(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_allowed_proxy_that_names_a_user_is_heard() {
        let config = FrontProxyConfig::default();
        let mut headers = HeaderMap::new();
        assert!(config.user("front-proxy-client", &headers).is_none());
        for (name, value) in [
            ("x-remote-user", "jane"),
            ("x-remote-uid", "u-7"),
            ("x-remote-group", "devs"),
            ("x-remote-group", "ops"),
            ("x-remote-extra-example.com%2fteam", "blue"),
        ] {
            headers.append(name, value.parse().expect("a value"));
        }
        assert!(config.user("somebody", &headers).is_none());
        let jane = config.user("front-proxy-client", &headers).expect("a user");
        assert_eq!((jane.name.as_str(), jane.uid.as_str()), ("jane", "u-7"));
        assert_eq!(jane.groups, ["devs", "ops"]);
        assert_eq!(jane.extra["example.com/team"], ["blue"]);
    }
}
