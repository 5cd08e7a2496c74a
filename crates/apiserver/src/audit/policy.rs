//! The audit policy: how much of which request is recorded.
//!
//! A file (`audit.k8s.io/v1` Policy) -> [`Policy`], parsed once; user + [`RequestInfo`] -> [`Terms`]. The first rule that
//! matches decides; what no rule matches is not recorded. Counterpart: `pkg/audit/policy`.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

use crate::request_info::RequestInfo;
use crate::user::UserInfo;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    #[default]
    None,
    Metadata,
    Request,
    RequestResponse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Stage {
    RequestReceived,
    /// Only of requests whose answer goes on for long.
    ResponseStarted,
    ResponseComplete,
    Panic,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Policy {
    kind: String,
    api_version: String,
    #[serde(rename = "metadata")]
    _metadata: Value,
    rules: Vec<Rule>,
    omit_stages: Vec<Stage>,
    omit_managed_fields: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<Resources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    paths: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Resources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub level: Level,
    pub omit_managed_fields: bool,
    omitted: Vec<Stage>,
}

#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    #[error("audit policy {}: {source}", .path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("audit policy {}: {why}", .path.display())]
    Malformed { path: PathBuf, why: String },
}

// === impl Policy ===

impl Policy {
    pub fn read(path: &Path) -> Result<Policy, PolicyError> {
        let text = std::fs::read(path)
            .map_err(|source| PolicyError::Read { path: path.to_owned(), source })?;
        Policy::parse(&text).map_err(|why| PolicyError::Malformed { path: path.to_owned(), why })
    }

    fn parse(text: &[u8]) -> Result<Policy, String> {
        let (node, _) = skiff_api::codec::parse_yaml(text).map_err(|error| error.to_string())?;
        let policy: Policy =
            serde_json::from_value(node.into_value()).map_err(|error| error.to_string())?;
        if (policy.kind.as_str(), policy.api_version.as_str()) != ("Policy", "audit.k8s.io/v1") {
            return Err("it must be a Policy of audit.k8s.io/v1".to_owned());
        }
        if policy.rules.is_empty() {
            return Err("it has no rules".to_owned());
        }
        let muddled = |rule: &Rule| !rule.paths.is_empty() && rule.about_resources();
        match policy.rules.iter().position(muddled) {
            Some(at) => Err(format!(
                "rules[{at}].nonResourceURLs: rules cannot apply to both regular resources and non-resource URLs"
            )),
            None => Ok(policy),
        }
    }

    pub fn terms(&self, user: &UserInfo, info: &RequestInfo) -> Terms {
        let Some(rule) = self.rules.iter().find(|rule| rule.matches(user, info)) else {
            return Terms::default();
        };
        Terms {
            level: rule.level,
            omit_managed_fields: rule.omit_managed_fields.unwrap_or(self.omit_managed_fields),
            omitted: [&self.omit_stages[..], &rule.omit_stages].concat(),
        }
    }
}

impl Terms {
    pub fn records(&self, stage: Stage) -> bool {
        self.level > Level::None && !self.omitted.contains(&stage)
    }
}

// === impl Rule ===

impl Rule {
    fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        any_or_all(&self.users, |name| *name == user.name)
            && any_or_all(&self.user_groups, |group| user.is_in(group))
            && any_or_all(&self.verbs, |verb| *verb == info.verb)
            && match (self.about_resources(), self.paths.is_empty()) {
                (true, _) => info.is_resource && self.matches_resource(info),
                (false, false) => !info.is_resource && self.matches_path(&info.path),
                (false, true) => true,
            }
    }

    fn about_resources(&self) -> bool {
        !self.resources.is_empty() || !self.namespaces.is_empty()
    }

    fn matches_resource(&self, info: &RequestInfo) -> bool {
        any_or_all(&self.namespaces, |namespace| *namespace == info.namespace)
            && any_or_all(&self.resources, |resources| resources.matches(info))
    }

    fn matches_path(&self, path: &str) -> bool {
        self.paths.iter().any(|spec| match spec.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => spec == path,
        })
    }
}

/// An empty list leaves everything in.
fn any_or_all<T>(list: &[T], matches: impl Fn(&T) -> bool) -> bool {
    list.is_empty() || list.iter().any(matches)
}

impl Resources {
    fn matches(&self, info: &RequestInfo) -> bool {
        let group = self.group == "*" || self.group == info.group;
        group
            && any_or_all(&self.resources, |resource| {
                names(resource, info) && any_or_all(&self.resource_names, |name| *name == info.name)
            })
    }
}

/// `pods`, `pods/log`, `pods/*`, `*/scale` or `*`.
fn names(spec: &str, info: &RequestInfo) -> bool {
    if spec == "*" {
        return true;
    }
    let (resource, subresource) = spec.split_once('/').unwrap_or((spec, ""));
    match (resource, subresource) {
        ("*", subresource) => subresource == info.subresource,
        (resource, "*") => resource == info.resource,
        (resource, subresource) => resource == info.resource && subresource == info.subresource,
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;
    use crate::query::Query;

    fn level(rules: &str, path: &str) -> Level {
        let text = format!("kind: Policy\napiVersion: audit.k8s.io/v1\nrules:\n{rules}");
        let policy = Policy::parse(text.as_bytes()).expect("a policy");
        let info = RequestInfo::read(&Method::GET, path, &Query::default());
        policy.terms(&UserInfo::new("ann", &["devs"]), &info).level
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let rules = "- level: None\n  users: [bob]\n- level: Request\n  userGroups: [devs]\n  verbs: [list]\n- level: Metadata\n";
        assert_eq!(level(rules, "/api/v1/pods"), Level::Request);
        assert_eq!(level(rules, "/api/v1/namespaces/x/pods/p"), Level::Metadata);
    }

    #[test]
    fn resources_may_be_named_with_subresources_and_stars() {
        for (spec, path, expected) in [
            ("[pods]", "/api/v1/namespaces/x/pods/p", true),
            ("[pods]", "/api/v1/namespaces/x/pods/p/log", false),
            ("[pods/log]", "/api/v1/namespaces/x/pods/p/log", true),
            ("[pods/*]", "/api/v1/namespaces/x/pods/p/log", true),
            ("['*/log']", "/api/v1/namespaces/x/pods/p/log", true),
            ("['*/log']", "/api/v1/namespaces/x/pods/p", false),
            ("[pods]", "/version", false),
        ] {
            let rules =
                format!("- level: Metadata\n  resources: [{{group: '', resources: {spec}}}]\n");
            assert_eq!(level(&rules, path) == Level::Metadata, expected, "{spec} {path}");
        }
    }

    #[test]
    fn paths_match_by_prefix_only_with_a_star() {
        let rules = "- level: Metadata\n  nonResourceURLs: ['/healthz*', /version]\n";
        assert_eq!(level(rules, "/healthz/ping"), Level::Metadata);
        assert_eq!(level(rules, "/version"), Level::Metadata);
        assert_eq!(level(rules, "/version/x"), Level::None);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, why) in [
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1beta1\nrules: [{level: None}]",
                "it must be a Policy",
            ),
            ("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: []", "no rules"),
            ("kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: All}]", "unknown variant"),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, user: [x]}]",
                "unknown field",
            ),
            (
                "kind: Policy\napiVersion: audit.k8s.io/v1\nrules: [{level: None, namespaces: [x], nonResourceURLs: [/x]}]",
                "cannot apply to both",
            ),
        ] {
            let refused = Policy::parse(text.as_bytes()).expect_err(text);
            assert!(refused.contains(why), "{refused}");
        }
    }
}
