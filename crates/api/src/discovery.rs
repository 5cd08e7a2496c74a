//! What is served: the discovery documents, legacy and aggregated.
//!
//! [`Kinds`] -> JSON values. Counterpart: `apiserver/pkg/endpoints/discovery`. Groups come in the
//! order of their priority, custom ones last by name; versions newest and most stable first.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use crate::codec::api_version;
use crate::kind::{KindDef, Kinds, Subresource};

/// Built-in groups in the order of their priority.
const GROUP_ORDER: &[&str] = &[
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Kinds that upstream stores in a version other than the one it prefers to serve; it shows in
/// their hash alone.
const HASHED_AS: &[(&str, &str, &str)] = &[
    ("apiextensions.k8s.io", "CustomResourceDefinition", "v1beta1"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicy", "v1beta1"),
    ("admissionregistration.k8s.io", "MutatingAdmissionPolicyBinding", "v1beta1"),
];

/// The named groups with their versions, both in order.
pub fn groups(kinds: &Kinds) -> Vec<(String, Vec<String>)> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for kind in kinds.iter().filter(|kind| !kind.group.is_empty()) {
        let at = groups.iter().position(|(name, _)| *name == kind.group);
        let at = at.unwrap_or_else(|| {
            groups.push((kind.group.clone(), Vec::new()));
            groups.len() - 1
        });
        if !groups[at].1.contains(&kind.version) {
            groups[at].1.push(kind.version.clone());
        }
    }
    let rank = |name: &str| GROUP_ORDER.iter().position(|known| *known == name);
    groups.sort_by(|(a, _), (b, _)| {
        let last = GROUP_ORDER.len();
        (rank(a).unwrap_or(last), a).cmp(&(rank(b).unwrap_or(last), b))
    });
    for (_, versions) in &mut groups {
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
    }
    groups
}

/// Orders versions as clients prefer them: `v2 > v1 > v1beta2 > v1alpha1 > other`.
pub fn version_rank(version: &str) -> (u8, u64, u64, std::cmp::Reverse<String>) {
    let other = (0, 0, 0, std::cmp::Reverse(version.to_owned()));
    let Some(rest) = version.strip_prefix('v') else { return other };
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (major, suffix) = rest.split_at(end);
    let Ok(major) = major.parse() else { return other };
    let (stability, minor) = match suffix {
        "" => (3, Some(0)),
        _ => match (suffix.strip_prefix("beta"), suffix.strip_prefix("alpha")) {
            (Some(minor), _) => (2, minor.parse().ok()),
            (_, Some(minor)) => (1, minor.parse().ok()),
            _ => (0, None),
        },
    };
    match minor {
        Some(minor) => (stability, major, minor, std::cmp::Reverse(String::new())),
        None => other,
    }
}

// === legacy ===

/// `/api`; `server_address` is `host:port` of this server.
pub fn api_versions(server_address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [
            {"clientCIDR": "0.0.0.0/0", "serverAddress": server_address},
        ],
    })
}

/// `/apis`
pub fn group_list(kinds: &Kinds) -> Value {
    let groups: Vec<Value> =
        groups(kinds).iter().map(|(name, versions)| group_value(name, versions)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/{group}`
pub fn group(kinds: &Kinds, name: &str) -> Option<Value> {
    let (name, versions) = groups(kinds).into_iter().find(|(known, _)| known == name)?;
    let mut value = group_value(&name, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `/api/v1` or `/apis/{group}/{version}`
pub fn resource_list(kinds: &Kinds, group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for kind in kinds.in_version(group, version) {
        resources.push(resource_value(kind));
        resources.extend(kind.subresources.iter().map(|sub| subresource_value(kind, sub)));
    }
    if resources.is_empty() {
        return None;
    }
    let mut list = json!({"kind": "APIResourceList", "groupVersion": api_version(group, version)});
    if !group.is_empty() {
        list["apiVersion"] = "v1".into();
    }
    list["resources"] = resources.into();
    Some(list)
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let version =
        |version: &String| json!({"groupVersion": format!("{name}/{version}"), "version": version});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn resource_value(kind: &KindDef) -> Value {
    let mut value = json!({
        "name": kind.resource,
        "singularName": kind.singular,
        "namespaced": kind.namespaced,
        "kind": kind.kind,
        "verbs": kind.verbs,
    });
    names(&mut value, kind);
    if kind.has_verb("watch") {
        value["storageVersionHash"] = storage_version_hash(kind).into();
    }
    value
}

fn subresource_value(parent: &KindDef, sub: &Subresource) -> Value {
    let mut value = json!({
        "name": format!("{}/{}", parent.resource, sub.name),
        "singularName": "",
        "namespaced": parent.namespaced,
        "kind": sub.kind,
        "verbs": sub.verbs,
    });
    if (&sub.group, &sub.version) != (&parent.group, &parent.version) {
        value["group"] = sub.group.clone().into();
        value["version"] = sub.version.clone().into();
    }
    value
}

fn names(value: &mut Value, kind: &KindDef) {
    for (field, list) in [("shortNames", &kind.short_names), ("categories", &kind.categories)] {
        if !list.is_empty() {
            value[field] = list.clone().into();
        }
    }
}

/// The first eight bytes of the hash of the stored group, version and kind.
pub fn storage_version_hash(kind: &KindDef) -> String {
    let stored = &kind.storage_version;
    let version = HASHED_AS
        .iter()
        .find(|(group, name, _)| *group == stored.group && *name == kind.kind)
        .map_or(stored.version.as_str(), |(_, _, version)| version);
    let hash = Sha256::digest(format!("{}/{version}/{}", stored.group, kind.kind));
    STANDARD.encode(&hash[..8])
}

// === aggregated ===

/// `/api` as `APIGroupDiscoveryList`
pub fn aggregated_core(kinds: &Kinds) -> Value {
    let versions = [aggregated_version(kinds, "", "v1")];
    aggregated_list(vec![json!({"metadata": {}, "versions": versions})])
}

/// `/apis` as `APIGroupDiscoveryList`
pub fn aggregated_groups(kinds: &Kinds) -> Value {
    let item = |(name, versions): &(String, Vec<String>)| {
        let versions: Vec<Value> =
            versions.iter().map(|version| aggregated_version(kinds, name, version)).collect();
        json!({"metadata": {"name": name}, "versions": versions})
    };
    aggregated_list(groups(kinds).iter().map(item).collect())
}

fn aggregated_list(items: Vec<Value>) -> Value {
    json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    })
}

fn aggregated_version(kinds: &Kinds, group: &str, version: &str) -> Value {
    let resources: Vec<Value> =
        kinds.in_version(group, version).map(|kind| aggregated_resource(kind)).collect();
    json!({"version": version, "resources": resources, "freshness": "Current"})
}

fn aggregated_resource(kind: &KindDef) -> Value {
    let mut value = json!({
        "resource": kind.resource,
        "responseKind": response_kind(kind, &kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": kind.verbs,
    });
    names(&mut value, kind);
    if !kind.subresources.is_empty() {
        let subresource = |sub: &Subresource| {
            json!({
                "subresource": sub.name,
                "responseKind": response_kind(kind, &sub.group, &sub.version, &sub.kind),
                "verbs": sub.verbs,
            })
        };
        value["subresources"] = kind.subresources.iter().map(subresource).collect();
    }
    value
}

/// Upstream leaves group and version empty where they are those of a built-in parent.
fn response_kind(parent: &KindDef, group: &str, version: &str, kind: &str) -> Map<String, Value> {
    let own = (group, version) == (parent.group.as_str(), parent.version.as_str());
    let (group, version) = if own && !parent.custom { ("", "") } else { (group, version) };
    [("group", group), ("version", version), ("kind", kind)]
        .into_iter()
        .map(|(field, text)| (field.to_owned(), text.into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn groups_come_by_priority_and_versions_by_rank() {
        let groups = groups(&kinds::builtin());
        let names: Vec<&str> = groups.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, GROUP_ORDER);
        let autoscaling = &groups.iter().find(|(name, _)| name == "autoscaling").expect("served").1;
        assert_eq!(autoscaling, &["v2", "v1"]);
        let mut versions = ["v1alpha1", "foo", "v1", "v10", "v2beta1", "v2", "v1beta2", "bar"];
        versions.sort_by_key(|version| std::cmp::Reverse(version_rank(version)));
        assert_eq!(versions, ["v10", "v2", "v1", "v2beta1", "v1beta2", "v1alpha1", "bar", "foo"]);
    }

    #[test]
    fn hashes_are_those_of_upstream() {
        let kinds = kinds::builtin();
        for (group, version, resource, hash) in [
            ("", "v1", "pods", "xPOwRZ+Yhw8="),
            ("", "v1", "configmaps", "qFsyl6wFWjQ="),
            ("events.k8s.io", "v1", "events", "r2yiGXH7wu8="),
            ("autoscaling", "v1", "horizontalpodautoscalers", "qwQve8ut294="),
            ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "jfWCUB31mvA="),
            ("admissionregistration.k8s.io", "v1", "mutatingadmissionpolicies", "LYmCf+UMVdg="),
        ] {
            let kind = kinds.get(group, version, resource).expect("served");
            assert_eq!(storage_version_hash(kind), hash, "{resource}");
        }
    }

    #[test]
    fn resources_list_their_subresources() {
        let kinds = kinds::builtin();
        let list = resource_list(&kinds, "", "v1").expect("served");
        let names: Vec<&str> = list["resources"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|r| r["name"].as_str())
            .collect();
        assert_eq!(names[..3], ["bindings", "componentstatuses", "configmaps"]);
        assert!(names.contains(&"pods/eviction"));
        assert_eq!(list.get("apiVersion"), None);
        let aggregated = aggregated_groups(&kinds);
        let apps = &aggregated["items"][1]["versions"][0];
        assert_eq!(apps["freshness"], "Current");
        let scale = &apps["resources"][2]["subresources"][0]["responseKind"];
        assert_eq!(*scale, json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    }
}
