//! What aggregated and merely announced group-versions add to discovery.
//!
//! Kinds and [`View`] -> `/apis`, `/apis/<group>` and the aggregated list, merged by priority. Counterpart:
//! `handler_apis.go` and `handler_discovery.go`. Differs from upstream: a server's resources are those of its last
//! successful check. Invariant: without extra APIServices the documents are exactly those of the kinds.

use serde_json::{Map, Value, json};
use skiff_api::{Kinds, discovery};

use super::View;

/// Groups with their versions, in the order they are shown.
pub fn groups(view: &View, kinds: &Kinds) -> Vec<(String, Vec<String>)> {
    let mut groups = discovery::groups(kinds);
    let mut added = false;
    for service in view.services.iter().filter(|service| !service.managed) {
        if service.group.is_empty() {
            continue;
        }
        match groups.iter_mut().find(|(group, _)| *group == service.group) {
            Some((_, versions)) if versions.contains(&service.version) => continue,
            Some((_, versions)) => versions.push(service.version.clone()),
            None => groups.push((service.group.clone(), vec![service.version.clone()])),
        }
        added = true;
    }
    if added {
        groups.sort_by_cached_key(|(group, _)| (-view.group_priority(group), group.clone()));
    }
    groups
}

/// Whether anything is announced that is no kind of this server.
fn has_extras(view: &View, kinds: &Kinds) -> bool {
    let served = |service: &super::ApiService| {
        kinds.in_version(&service.group, &service.version).next().is_some()
    };
    view.services.iter().any(|service| !service.managed && !served(service))
}

/// `/apis`
pub fn group_list(view: &View, kinds: &Kinds) -> Value {
    if !has_extras(view, kinds) {
        return discovery::group_list(kinds);
    }
    let groups = groups(view, kinds);
    let groups: Vec<Value> =
        groups.iter().map(|(name, versions)| group_value(name, versions)).collect();
    json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })
}

/// `/apis/{group}`
pub fn group(view: &View, kinds: &Kinds, name: &str) -> Option<Value> {
    if !has_extras(view, kinds) {
        return discovery::group(kinds, name);
    }
    let (name, versions) = groups(view, kinds).into_iter().find(|(group, _)| group == name)?;
    let mut value = group_value(&name, &versions);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

fn group_value(name: &str, versions: &[String]) -> Value {
    let version = |version: &String| json!({ "groupVersion": format!("{name}/{version}"), "version": version });
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({ "name": name, "preferredVersion": versions.first(), "versions": versions })
}

/// `/apis` as `APIGroupDiscoveryList`: what other servers serve stands among our own.
pub fn aggregated_groups(view: &View, kinds: &Kinds) -> Value {
    let mut list = discovery::aggregated_groups(kinds);
    if !has_extras(view, kinds) {
        return list;
    }
    let own = list["items"].as_array().cloned().unwrap_or_default();
    let items: Vec<Value> = groups(view, kinds)
        .into_iter()
        .filter_map(|(name, versions)| {
            let own = own.iter().find(|item| item["metadata"]["name"] == name.as_str());
            aggregated_group(view, &name, &versions, own)
        })
        .collect();
    list["items"] = items.into();
    list
}

/// A group of ours, of another server, or of both.
fn aggregated_group(
    view: &View,
    name: &str,
    versions: &[String],
    own: Option<&Value>,
) -> Option<Value> {
    let version = |version: &String| {
        let ours = own.and_then(|own| {
            own["versions"]
                .as_array()?
                .iter()
                .find(|have| have["version"] == version.as_str())
                .cloned()
        });
        ours.or_else(|| Some(remote_version(view.at(name, version)?)))
    };
    let versions: Vec<Value> = versions.iter().filter_map(version).collect();
    (!versions.is_empty()).then(|| json!({ "metadata": { "name": name }, "versions": versions }))
}

fn remote_version(remote: &super::Remote) -> Value {
    match remote.served().resources {
        Some(resources) => {
            json!({ "version": remote.version, "resources": resources, "freshness": "Current" })
        }
        None => json!({ "version": remote.version, "freshness": "Stale" }),
    }
}

/// A legacy `APIResourceList` as the resources of aggregated discovery.
pub fn aggregated_resources(list: &Value, group: &str, version: &str) -> Value {
    let entries = list["resources"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| entry["name"].as_str().unwrap_or("").to_owned();
    let (subs, tops): (Vec<Value>, Vec<Value>) =
        entries.into_iter().partition(|entry| name(entry).contains('/'));
    let resources = tops.iter().map(|entry| {
        let resource = name(entry);
        let mut value = json!({
            "resource": resource,
            "responseKind": response_kind(entry, group, version),
            "scope": if entry["namespaced"] == true { "Namespaced" } else { "Cluster" },
            "singularResource": entry["singularName"],
            "verbs": entry["verbs"],
        });
        for field in ["shortNames", "categories"] {
            if entry[field].is_array() {
                value[field] = entry[field].clone();
            }
        }
        let own = subs.iter().filter_map(|sub| {
            let (of, sub_name) = name(sub).split_once('/').map(|(of, sub)| (of.to_owned(), sub.to_owned()))?;
            (of == resource).then(|| json!({ "subresource": sub_name, "responseKind": response_kind(sub, group, version), "verbs": sub["verbs"] }))
        });
        let own: Vec<Value> = own.collect();
        if !own.is_empty() {
            value["subresources"] = own.into();
        }
        value
    });
    resources.collect()
}

fn response_kind(entry: &Value, group: &str, version: &str) -> Value {
    let or = |field: &str, default: &str| entry[field].as_str().unwrap_or(default).to_owned();
    let fields = [
        ("group", or("group", group)),
        ("version", or("version", version)),
        ("kind", or("kind", "")),
    ];
    let fields: Map<String, Value> =
        fields.into_iter().map(|(field, text)| (field.to_owned(), text.into())).collect();
    fields.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aggregate::ApiService;

    fn announced(group: &str, version: &str, priorities: (i64, i64)) -> ApiService {
        ApiService {
            group: group.to_owned(),
            version: version.to_owned(),
            group_priority: priorities.0,
            version_priority: priorities.1,
            managed: false,
        }
    }

    fn view(mut services: Vec<ApiService>) -> View {
        services.sort_by(ApiService::compare);
        View { services, remote: Default::default() }
    }

    fn place(groups: &[(String, Vec<String>)], group: &str) -> usize {
        groups.iter().position(|(name, _)| name == group).expect("shown")
    }

    #[test]
    fn groups_stand_where_their_priority_puts_them() {
        let kinds = skiff_api::kinds::builtin();
        let view = view(vec![
            announced("low.test", "v1", (100, 1)),
            announced("high.test", "v1", (3000, 5)),
            announced("high.test", "v2beta1", (3000, 10)),
            announced("apps", "v1", (17800, 15)),
        ]);
        let groups = groups(&view, &kinds);
        assert!(place(&groups, "apps") < place(&groups, "high.test"));
        assert!(place(&groups, "high.test") < place(&groups, "low.test"));
        assert_eq!(groups[place(&groups, "high.test")].1, ["v2beta1", "v1"]);
    }

    #[test]
    fn another_servers_group_sent_that_of_the_api_services_to_the_end() {
        let kinds = skiff_api::kinds::builtin();
        let view =
            view(vec![announced("apps", "v1", (17800, 15)), announced("w.test", "v1", (2000, 1))]);
        let groups = groups(&view, &kinds);
        assert_eq!((place(&groups, "apiregistration.k8s.io"), place(&groups, "apps")), (0, 1));
    }

    #[test]
    fn nothing_extra_leaves_the_documents_alone() {
        let kinds = skiff_api::kinds::builtin();
        let view = view(vec![announced("apps", "v1", (17800, 15))]);
        assert_eq!(group_list(&view, &kinds), discovery::group_list(&kinds));
        assert_eq!(aggregated_groups(&view, &kinds), discovery::aggregated_groups(&kinds));
    }

    #[test]
    fn a_legacy_list_becomes_an_aggregated_one() {
        let list = json!({ "resources": [
            { "name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder", "verbs": ["get"], "shortNames": ["fl"] },
            { "name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["update"] },
        ] });
        let kind = json!({ "group": "w.test", "version": "v1", "kind": "Flunder" });
        assert_eq!(
            aggregated_resources(&list, "w.test", "v1"),
            json!([{ "resource": "flunders", "responseKind": kind, "scope": "Namespaced", "singularResource": "flunder", "verbs": ["get"],
                "shortNames": ["fl"], "subresources": [{ "subresource": "status", "responseKind": kind, "verbs": ["update"] }] }])
        );
    }
}
