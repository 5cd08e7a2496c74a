//! Which requests a FlowSchema is about.
//!
//! User + [`RequestInfo`] -> yes or no, by the rules of a spec that was parsed once. Counterpart: `flowcontrol/rule.go`.
//! Invariant: nothing is allocated to answer.

use serde::Deserialize;

use crate::request_info::RequestInfo;
use crate::user::{UserInfo, split_service_account};

const ALL: &str = "*";

/// Someone, asking for something.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    subjects: Vec<Subject>,
    resource_rules: Vec<ResourceRule>,
    non_resource_rules: Vec<PathRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind")]
enum Subject {
    User {
        user: Named,
    },
    Group {
        group: Named,
    },
    ServiceAccount {
        #[serde(rename = "serviceAccount")]
        account: Account,
    },
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Named {
    pub name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Account {
    namespace: String,
    name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ResourceRule {
    verbs: Vec<String>,
    api_groups: Vec<String>,
    resources: Vec<String>,
    cluster_scope: bool,
    namespaces: Vec<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct PathRule {
    verbs: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    paths: Vec<String>,
}

// === impl Rule ===

impl Rule {
    pub fn matches(&self, user: &UserInfo, info: &RequestInfo) -> bool {
        self.subjects.iter().any(|subject| subject.is(user))
            && match info.is_resource {
                true => self.resource_rules.iter().any(|rule| rule.matches(info)),
                false => self.non_resource_rules.iter().any(|rule| rule.matches(info)),
            }
    }
}

impl Subject {
    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Subject::User { user: named } => named.name == ALL || named.name == user.name,
            Subject::Group { group } => group.name == ALL || user.is_in(&group.name),
            Subject::ServiceAccount { account } => {
                split_service_account(&user.name).is_some_and(|(namespace, name)| {
                    namespace == account.namespace && (account.name == ALL || name == account.name)
                })
            }
        }
    }
}

impl ResourceRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        lists(&self.verbs, &info.verb)
            && self.resources.iter().any(|resource| names(resource, info))
            && lists(&self.api_groups, &info.group)
            && match info.namespace.is_empty() {
                true => self.cluster_scope,
                false => lists(&self.namespaces, &info.namespace),
            }
    }
}

impl PathRule {
    fn matches(&self, info: &RequestInfo) -> bool {
        lists(&self.verbs, &info.verb) && self.paths.iter().any(|path| covers(path, &info.path))
    }
}

fn lists(list: &[String], wanted: &str) -> bool {
    list.iter().any(|entry| entry == wanted || entry == ALL)
}

/// `pods` or `pods/log`.
fn names(resource: &str, info: &RequestInfo) -> bool {
    if resource == ALL {
        return true;
    }
    let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    resource == info.resource && subresource == info.subresource
}

/// A path covers itself and what is below it, with or without a `*` at its end.
fn covers(rule: &str, path: &str) -> bool {
    if rule == ALL || rule == path {
        return true;
    }
    let prefix = rule.trim_end_matches('*').trim_end_matches('/');
    path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use http::Method;
    use serde_json::{Value, json};

    use super::*;
    use crate::query::Query;

    fn check(rule: Value, user: &UserInfo, path: &str, expected: bool) {
        let parsed: Rule = serde_json::from_value(rule.clone()).expect("a rule");
        let info = RequestInfo::read(&Method::GET, path, &Query::default());
        assert_eq!(parsed.matches(user, &info), expected, "{rule} {path}");
    }

    fn resources(what: Value) -> Value {
        let mut rule = json!({ "verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"] });
        rule.as_object_mut().expect("a map").extend(what.as_object().expect("a map").clone());
        json!({ "subjects": [{ "kind": "Group", "group": { "name": "devs" } }], "resourceRules": [rule] })
    }

    #[test]
    fn a_namespace_or_the_cluster_scope_must_be_named() {
        let dev = UserInfo::new("ann", &["devs"]);
        let in_x = resources(json!({ "namespaces": ["x"] }));
        check(in_x.clone(), &dev, "/api/v1/namespaces/x/pods", true);
        check(in_x.clone(), &dev, "/api/v1/namespaces/x/pods/p/log", true);
        check(in_x.clone(), &dev, "/api/v1/namespaces/x/pods/p/exec", false);
        check(in_x.clone(), &dev, "/api/v1/namespaces/y/pods", false);
        check(in_x.clone(), &dev, "/api/v1/pods", false);
        check(in_x, &UserInfo::new("bob", &[]), "/api/v1/namespaces/x/pods", false);
        check(resources(json!({ "clusterScope": true })), &dev, "/api/v1/pods", true);
    }

    #[test]
    fn service_accounts_match_by_namespace_or_name() {
        let subject = |name: &str| {
            json!({ "subjects": [{ "kind": "ServiceAccount", "serviceAccount": { "namespace": "kube-system", "name": name } }],
                "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] })
        };
        let account = UserInfo::service_account("kube-system", "dns");
        check(subject("*"), &account, "/version", true);
        check(subject("dns"), &account, "/version", true);
        check(subject("other"), &account, "/version", false);
        check(subject("*"), &UserInfo::service_account("kube-system-2", "dns"), "/version", false);
    }

    #[test]
    fn a_path_covers_what_is_below_it() {
        for (rule, path, expected) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/ping", true),
            ("/healthz/*", "/healthz/ping", true),
            ("/healthz", "/healthzz", false),
            ("*", "/anything", true),
        ] {
            assert_eq!(covers(rule, path), expected, "{rule} {path}");
        }
    }
}
