//! RBAC policy rules: what one permits, what a set of them covers, and how they are printed.
//!
//! Counterpart: `pkg/registry/rbac/validation` and `plugin/pkg/auth/authorizer/rbac`.

use serde::{Deserialize, Serialize};

use super::Attributes;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PolicyRule {
    pub verbs: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub api_groups: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resource_names: Vec<String>,
    #[serde(rename = "nonResourceURLs", skip_serializing_if = "Vec::is_empty")]
    pub non_resource_urls: Vec<String>,
}

// === impl PolicyRule ===

impl PolicyRule {
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !holds(&self.verbs, &attributes.verb) {
            return false;
        }
        match attributes.is_resource {
            true => {
                holds(&self.api_groups, &attributes.group)
                    && self.allows_resource(attributes)
                    && (self.resource_names.is_empty()
                        || self.resource_names.contains(&attributes.name))
            }
            false => self.non_resource_urls.iter().any(|url| url_covers(url, &attributes.path)),
        }
    }

    fn allows_resource(&self, attributes: &Attributes) -> bool {
        let path = attributes.resource_path();
        let any_parent = |rule: &str| {
            !attributes.subresource.is_empty()
                && rule.strip_prefix("*/") == Some(&attributes.subresource)
        };
        self.resources.iter().any(|rule| rule == "*" || *rule == path || any_parent(rule))
    }

    /// One rule per group, resource, verb and name: what can be compared piece by piece.
    fn breakdown(&self) -> Vec<PolicyRule> {
        let mut pieces = Vec::new();
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    let piece = PolicyRule {
                        verbs: vec![verb.clone()],
                        api_groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..PolicyRule::default()
                    };
                    let named = |name: &String| PolicyRule {
                        resource_names: vec![name.clone()],
                        ..piece.clone()
                    };
                    pieces.extend(self.resource_names.iter().map(named));
                    if self.resource_names.is_empty() {
                        pieces.push(piece);
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            pieces.extend(self.verbs.iter().map(|verb| PolicyRule {
                verbs: vec![verb.clone()],
                non_resource_urls: vec![url.clone()],
                ..PolicyRule::default()
            }));
        }
        pieces
    }

    /// Whether this rule grants everything the piece does.
    fn covers(&self, piece: &PolicyRule) -> bool {
        let all = |have: &[String], want: &[String]| {
            have.iter().any(|one| one == "*") || want.iter().all(|one| have.contains(one))
        };
        let resources = || {
            piece.resources.iter().all(|want| {
                self.resources
                    .iter()
                    .any(|have| have == "*" || have == want || covers_subresource(have, want))
            })
        };
        let names = || match (self.resource_names.is_empty(), piece.resource_names.is_empty()) {
            (true, _) => true,
            (false, true) => false,
            (false, false) => {
                piece.resource_names.iter().all(|name| self.resource_names.contains(name))
            }
        };
        let urls = || {
            piece
                .non_resource_urls
                .iter()
                .all(|want| self.non_resource_urls.iter().any(|have| url_covers(have, want)))
        };
        all(&self.verbs, &piece.verbs)
            && all(&self.api_groups, &piece.api_groups)
            && resources()
            && names()
            && urls()
    }
}

/// The part of `wanted` that `owned` does not grant, compact as upstream prints it.
pub fn uncovered(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let missing = wanted
        .iter()
        .flat_map(PolicyRule::breakdown)
        .filter(|piece| !owned.iter().any(|rule| rule.covers(piece)))
        .collect();
    compact(missing)
}

/// Pieces about the same resource become one rule; those about paths stay as they are.
fn compact(pieces: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    for piece in pieces {
        let same = |rule: &&mut PolicyRule| {
            piece.non_resource_urls.is_empty()
                && rule.api_groups == piece.api_groups
                && rule.resources == piece.resources
                && rule.resource_names == piece.resource_names
        };
        match rules.iter_mut().find(same) {
            Some(rule) => rule.verbs.extend(piece.verbs),
            None => rules.push(piece),
        }
    }
    rules
}

/// The rules of those who may do everything.
pub fn everything() -> [PolicyRule; 2] {
    let all = || vec!["*".to_owned()];
    [
        PolicyRule { verbs: all(), api_groups: all(), resources: all(), ..PolicyRule::default() },
        PolicyRule { verbs: all(), non_resource_urls: all(), ..PolicyRule::default() },
    ]
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("ResourceNames", &rule.resource_names),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("Verbs", &rule.verbs),
    ];
    let shown = parts.into_iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| {
        let list: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
        format!("{name}:[{}]", list.join(" "))
    });
    format!("{{{}}}", shown.collect::<Vec<_>>().join(", "))
}

fn holds(list: &[String], wanted: &str) -> bool {
    list.iter().any(|one| one == "*" || one == wanted)
}

fn covers_subresource(have: &str, want: &str) -> bool {
    match (have.strip_prefix("*/"), want.split_once('/')) {
        (Some(sub), Some((_, wanted))) => sub == wanted,
        _ => false,
    }
}

fn url_covers(have: &str, want: &str) -> bool {
    have == want || (have.ends_with('*') && want.starts_with(have.trim_end_matches('*')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(verbs: &[&str], groups: &[&str], resources: &[&str]) -> PolicyRule {
        let own = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        PolicyRule {
            verbs: own(verbs),
            api_groups: own(groups),
            resources: own(resources),
            ..PolicyRule::default()
        }
    }

    #[test]
    fn what_is_missing_is_printed_compactly() {
        let owned = [rule(&["get"], &[""], &["pods"])];
        let wanted = [rule(&["get", "list"], &[""], &["pods", "secrets"])];
        let missing: Vec<String> = uncovered(&owned, &wanted).iter().map(describe).collect();
        assert_eq!(
            missing,
            [
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list"]}"#,
            ]
        );
        assert!(uncovered(&[rule(&["*"], &["*"], &["*"])], &wanted).is_empty());
    }

    #[test]
    fn missing_paths_are_printed_one_by_one() {
        let text = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        let wanted = PolicyRule {
            verbs: text(&["get", "post"]),
            non_resource_urls: text(&["/a", "/b/*"]),
            ..PolicyRule::default()
        };
        let owned = PolicyRule {
            verbs: text(&["*"]),
            non_resource_urls: text(&["/b*"]),
            ..PolicyRule::default()
        };
        let missing: Vec<String> = uncovered(&[owned], &[wanted]).iter().map(describe).collect();
        let line = |verb| format!(r#"{{NonResourceURLs:["/a"], Verbs:["{verb}"]}}"#);
        assert_eq!(missing, [line("get"), line("post")]);
    }

    #[test]
    fn subresources_are_separate_rights() {
        let pods = rule(&["get"], &[""], &["pods"]);
        let ask = |sub: &str| Attributes {
            verb: "get".to_owned(),
            is_resource: true,
            resource: "pods".to_owned(),
            subresource: sub.to_owned(),
            ..Attributes::default()
        };
        assert!(pods.allows(&ask("")) && !pods.allows(&ask("log")));
        assert!(rule(&["get"], &[""], &["*/log"]).allows(&ask("log")));
        assert!(rule(&["*"], &["*"], &["*"]).allows(&ask("log")));
    }
}
