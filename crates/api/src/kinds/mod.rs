//! The built-in kinds: the recorded facts joined with each kind's strategy.
//!
//! A kind with something to say of its own has one file `kinds/<group>/<kind>.rs` holding a unit
//! struct that implements [`Strategy`], and a row in [`strategy`]; every other kind is plain.

pub mod admissionregistration;
mod apiregistration;
mod apps;
pub mod at;
mod autoscaling;
mod batch;
mod certificates;
mod conditions;
mod coordination;
mod core;
mod discovery;
pub mod fill;
mod flowcontrol;
pub mod legacy;
mod networking;
mod node;
pub mod pod_spec;
mod policy;
mod rbac;
pub mod resource;
mod resources;
mod rules;
mod scheduling;
mod selectors;
mod signer;
mod storage;
mod volume;
pub mod workload;

use std::sync::Arc;

use crate::kind::{GroupVersion, KindDef, Kinds, Strategy, Subresource};
use crate::schema::{self, ResourceFacts, SubresourceFacts};

pub use core::pod::{api_reference, qos_class};
pub use core::service::service_addresses;

/// Every built-in kind.
pub fn builtin() -> Kinds {
    schema::resources().iter().map(kind_def).collect()
}

/// The strategy of a built-in kind.
fn strategy(group: &str, kind: &str) -> Arc<dyn Strategy> {
    let found = match group {
        "" => core::strategy(kind),
        "events.k8s.io" => core::strict_event(kind),
        "admissionregistration.k8s.io" => admissionregistration::strategy(kind),
        "apiregistration.k8s.io" => apiregistration::strategy(kind),
        "apps" => apps::strategy(kind),
        "autoscaling" => autoscaling::strategy(kind),
        "batch" => batch::strategy(kind),
        "certificates.k8s.io" => certificates::strategy(kind),
        "coordination.k8s.io" => coordination::strategy(kind),
        "discovery.k8s.io" => discovery::strategy(kind),
        "flowcontrol.apiserver.k8s.io" => flowcontrol::strategy(kind),
        "networking.k8s.io" => networking::strategy(kind),
        "node.k8s.io" => node::strategy(kind),
        "policy" => policy::strategy(kind),
        "rbac.authorization.k8s.io" => rbac::strategy(kind),
        "apiextensions.k8s.io" => {
            Some(Arc::new(crate::custom::definition::Definition) as Arc<dyn Strategy>)
        }
        "resource.k8s.io" => resource::strategy(kind),
        "scheduling.k8s.io" => scheduling::strategy(kind),
        "storage.k8s.io" => storage::strategy(kind),
        _ => None,
    };
    found.unwrap_or_else(|| Arc::new(Plain))
}
/// A kind with nothing special about it.
pub struct Plain;

impl Strategy for Plain {}

fn kind_def(facts: &ResourceFacts) -> KindDef {
    let schema = schema::type_of_kind(&facts.group, &facts.version, &facts.kind)
        .expect("every resource has its type");
    KindDef {
        group: facts.group.clone(),
        version: facts.version.clone(),
        kind: facts.kind.clone(),
        list_kind: format!("{}List", facts.kind),
        resource: facts.resource.clone(),
        singular: facts.singular.clone(),
        short_names: facts.short_names.clone(),
        categories: facts.categories.clone(),
        namespaced: facts.namespaced,
        verbs: facts.verbs.clone(),
        subresources: facts.subresources.iter().map(|sub| subresource(facts, sub)).collect(),
        columns: schema::columns(facts).to_vec(),
        schema,
        strategy: strategy(&facts.group, &facts.kind),
        storage_version: storage_version(facts),
        key_prefix: key_prefix(facts),
        custom: false,
        selectable: Vec::new(),
        scale: None,
        document: None,
        versioning: None,
    }
}

fn subresource(parent: &ResourceFacts, facts: &SubresourceFacts) -> Subresource {
    let (group, version, kind) = match facts.kind.split('/').collect::<Vec<_>>()[..] {
        [group, version, kind] => (group, version, kind),
        _ => (parent.group.as_str(), parent.version.as_str(), facts.kind.as_str()),
    };
    Subresource {
        name: facts.name.clone(),
        verbs: facts.verbs.clone(),
        group: group.to_owned(),
        version: version.to_owned(),
        kind: kind.to_owned(),
    }
}

/// Two kinds are served at two places and stored once: autoscalers as v2, events as core v1.
fn storage_version(facts: &ResourceFacts) -> GroupVersion {
    match (facts.group.as_str(), facts.resource.as_str()) {
        ("autoscaling", _) => GroupVersion::new("autoscaling", "v2"),
        ("events.k8s.io", _) => GroupVersion::new("", "v1"),
        (group, _) => GroupVersion::new(group, &facts.version),
    }
}

/// The key layout of upstream, so that a backup of its store reads the same.
fn key_prefix(facts: &ResourceFacts) -> String {
    let place = match (facts.group.as_str(), facts.resource.as_str()) {
        ("", "nodes") => "minions".to_owned(),
        ("", "services") => "services/specs".to_owned(),
        ("", "replicationcontrollers") => "controllers".to_owned(),
        ("", "endpoints") => "services/endpoints".to_owned(),
        ("networking.k8s.io", "ingresses") => "ingress".to_owned(),
        (group @ ("apiregistration.k8s.io" | "apiextensions.k8s.io"), resource) => {
            format!("{group}/{resource}")
        }
        (_, resource) => resource.to_owned(),
    };
    format!("/registry/{place}/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_update_leaves_the_metadata_of_some_kinds_as_it_was() {
        let kinds = builtin();
        for (group, resource) in [
            ("flowcontrol.apiserver.k8s.io", "flowschemas"),
            ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
            ("networking.k8s.io", "servicecidrs"),
            ("resource.k8s.io", "resourceclaims"),
            ("storage.k8s.io", "volumeattachments"),
        ] {
            let kind = kinds.get(group, "v1", resource).expect("served");
            let old = serde_json::json!({"metadata": {"name": "a", "labels": {"a": "b"}}});
            let mut new = serde_json::json!({"metadata": {"name": "a", "finalizers": ["x.y/z"]}});
            kind.strategy.prepare_for_status_update(kind, &mut new, &old);
            assert_eq!(new["metadata"], old["metadata"], "{resource}");
        }
    }

    #[test]
    fn kinds_are_found_by_path_and_kind() {
        let kinds = builtin();
        let pods = kinds.get("", "v1", "pods").expect("pods are served");
        assert_eq!(pods.key("default", "web"), "/registry/pods/default/web");
        let eviction = pods.subresource("eviction").expect("pods can be evicted");
        assert_eq!((eviction.group.as_str(), eviction.version.as_str()), ("policy", "v1"));
        assert!(kinds.by_kind("apps", "v1", "Deployment").is_some());
        assert_eq!(kinds.iter().count(), 68);
    }
}
