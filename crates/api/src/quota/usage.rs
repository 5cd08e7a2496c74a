//! What an object counts as, by the names that quotas use.
//!
//! Object -> resource name -> amount. Counterpart: `pkg/quota/v1/evaluator/core`. Kinds without a rule of their own count as
//! one object, which is all that most quotas ask of them.

use serde_json::Value;

use super::amounts::{Amounts, amounts, pod_total};
use crate::kind::KindDef;
use crate::meta::meta;
use crate::quantity::Quantity;

/// An object and what it is.
#[derive(Clone, Copy)]
pub struct Used<'a> {
    pub kind: &'a KindDef,
    pub object: &'a Value,
}

const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];
/// Core kinds that are also counted under their plain name.
const PLAIN: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
const BY_STORAGE_CLASS: &str = ".storageclass.storage.k8s.io/";
const BY_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// What a request for all devices of a class may come to.
const ALL_DEVICES: i64 = 32;

pub fn is_pods(kind: &KindDef) -> bool {
    kind.group.is_empty() && kind.resource == "pods"
}

pub fn is_claims(kind: &KindDef) -> bool {
    kind.group.is_empty() && kind.resource == "persistentvolumeclaims"
}

pub fn is_services(kind: &KindDef) -> bool {
    kind.group.is_empty() && kind.resource == "services"
}

pub fn is_device_claims(kind: &KindDef) -> bool {
    kind.group == "resource.k8s.io" && kind.resource == "resourceclaims"
}

/// Whether a resource that a quota names is one that objects of this kind use.
pub fn counts(kind: &KindDef, resource: &str) -> bool {
    if resource == format!("count/{}", kind.group_resource()) {
        return true;
    }
    let plain = kind.group.is_empty() && PLAIN.contains(&kind.resource.as_str());
    if plain && resource == kind.resource {
        return true;
    }
    if is_pods(kind) {
        return is_compute(resource);
    }
    if is_claims(kind) {
        let of = resource.split_once(BY_STORAGE_CLASS).map_or(resource, |(_, of)| of);
        return matches!(of, "persistentvolumeclaims" | "requests.storage");
    }
    (is_services(kind) && matches!(resource, "services.nodeports" | "services.loadbalancers"))
        || (is_device_claims(kind) && resource.ends_with(BY_DEVICE_CLASS))
}

fn is_compute(resource: &str) -> bool {
    let of = resource.strip_prefix("requests.").or(resource.strip_prefix("limits."));
    let extended = |name: &str| name.contains('/') && !name.contains("kubernetes.io/");
    COMPUTE.contains(&of.unwrap_or(resource))
        || resource.starts_with("hugepages-")
        || resource.starts_with("requests.hugepages-")
        || resource.strip_prefix("requests.").is_some_and(extended)
}

/// What is used beyond what was used before; nothing that shrank or stayed.
pub fn added(now: Used<'_>, before: Option<&Value>) -> Amounts {
    let used = before.map(|object| of(Used { object, ..now })).unwrap_or_default();
    let zero = Quantity::from_units(0);
    let mut added = of(now);
    for (resource, amount) in &mut added {
        *amount -= used.get(resource).copied().unwrap_or(zero);
    }
    added.retain(|_, amount| *amount > zero);
    added
}

/// Everything an object counts as.
pub fn of(Used { kind, object }: Used<'_>) -> Amounts {
    let one = Quantity::from_units(1);
    let mut usage = Amounts::from([(format!("count/{}", kind.group_resource()), one)]);
    if is_pods(kind) && has_ended(object) {
        return usage;
    }
    if kind.group.is_empty() && PLAIN.contains(&kind.resource.as_str()) {
        usage.insert(kind.resource.clone(), one);
    }
    if is_pods(kind) {
        add_pod(&mut usage, object);
    } else if is_services(kind) {
        add_service(&mut usage, object);
    } else if is_claims(kind) {
        add_claim(&mut usage, object);
    } else if is_device_claims(kind) {
        add_devices(&mut usage, object);
    }
    usage
}

fn has_ended(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded"))
}

/// Whether the pod as a whole states what it uses.
pub fn states_for_all(pod: &Value) -> bool {
    let resources = &pod["spec"]["resources"];
    ["requests", "limits"]
        .iter()
        .any(|field| resources[field].as_object().is_some_and(|list| !list.is_empty()))
}

/// What a pod states for itself stands before what its containers add up to.
fn total(pod: &Value, field: &str) -> Amounts {
    let mut total = pod_total(pod, field);
    let overhead = amounts(&pod["spec"]["overhead"]);
    for (resource, mut amount) in amounts(&pod["spec"]["resources"][field]) {
        amount += overhead.get(&resource).copied().unwrap_or(Quantity::from_units(0));
        total.insert(resource, amount);
    }
    total
}

fn add_pod(usage: &mut Amounts, pod: &Value) {
    for (resource, amount) in total(pod, "requests") {
        usage.insert(format!("requests.{resource}"), amount);
        if COMPUTE.contains(&resource.as_str()) || resource.starts_with("hugepages-") {
            usage.insert(resource, amount);
        }
    }
    for (resource, amount) in total(pod, "limits") {
        usage.insert(format!("limits.{resource}"), amount);
    }
}

fn add_service(usage: &mut Amounts, service: &Value) {
    let spec = &service["spec"];
    let ports = || spec["ports"].as_array().into_iter().flatten();
    let numbered = || ports().filter(|port| port["nodePort"].as_i64().unwrap_or(0) != 0).count();
    let balanced = spec["type"] == "LoadBalancer";
    let node_ports = match spec["type"].as_str() {
        Some("LoadBalancer") if spec["allocateLoadBalancerNodePorts"] == false => numbered(),
        Some("LoadBalancer" | "NodePort") => ports().count(),
        _ => 0,
    };
    let node_ports = i64::try_from(node_ports).unwrap_or(i64::MAX);
    usage.insert("services.nodeports".to_owned(), Quantity::from_units(node_ports));
    usage.insert("services.loadbalancers".to_owned(), Quantity::from_units(balanced.into()));
}

fn add_claim(usage: &mut Amounts, claim: &Value) {
    let class = meta(claim)
        .annotation("volume.beta.kubernetes.io/storage-class")
        .or_else(|| claim["spec"]["storageClassName"].as_str())
        .unwrap_or("");
    if !class.is_empty() {
        let name = format!("{class}{BY_STORAGE_CLASS}persistentvolumeclaims");
        usage.insert(name, Quantity::from_units(1));
    }
    let of = |list: &Value| amounts(list).get("storage").copied();
    let Some(asked) = of(&claim["spec"]["resources"]["requests"]) else { return };
    let storage = of(&claim["status"]["allocatedResources"]).map_or(asked, |has| has.max(asked));
    usage.insert("requests.storage".to_owned(), storage);
    if !class.is_empty() {
        usage.insert(format!("{class}{BY_STORAGE_CLASS}requests.storage"), storage);
    }
}

/// Devices by class; of alternatives, the most that any could take.
fn add_devices(usage: &mut Amounts, claim: &Value) {
    for request in claim["spec"]["devices"]["requests"].as_array().into_iter().flatten() {
        let mut most = Amounts::new();
        let alternatives = request["firstAvailable"].as_array().into_iter().flatten();
        let exactly = Some(&request["exactly"]).filter(|exactly| exactly.is_object());
        for wanted in alternatives.chain(exactly) {
            let class = wanted["deviceClassName"].as_str().unwrap_or("");
            let count = match wanted["allocationMode"].as_str() {
                Some("All") => ALL_DEVICES,
                _ => wanted["count"].as_i64().unwrap_or(1),
            };
            let slot = most.entry(format!("{class}{BY_DEVICE_CLASS}"));
            let slot = slot.or_insert(Quantity::from_units(0));
            *slot = (*slot).max(Quantity::from_units(count));
        }
        for (name, count) in most {
            *usage.entry(name).or_insert(Quantity::from_units(0)) += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(group: &str, version: &str, resource: &str) -> std::sync::Arc<KindDef> {
        let kinds = crate::kinds::builtin();
        kinds.get(group, version, resource).expect("a built-in kind").clone()
    }

    fn check(kind: &KindDef, object: Value, before: Option<Value>, expected: &[(&str, &str)]) {
        let added = added(Used { kind, object: &object }, before.as_ref());
        let shown: Vec<(String, String)> =
            added.iter().map(|(name, amount)| (name.clone(), amount.to_string())).collect();
        let expected: Vec<(String, String)> =
            expected.iter().map(|(n, a)| ((*n).to_owned(), (*a).to_owned())).collect();
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_service_counts_its_node_ports_and_only_the_growth() {
        let kind = kind("", "v1", "services");
        let ports = json!([{ "port": 1 }, { "port": 2 }]);
        let balanced = json!({ "spec": { "type": "LoadBalancer", "ports": ports } });
        let inner = json!({ "spec": { "type": "ClusterIP", "ports": ports } });
        let growth = [("services.loadbalancers", "1"), ("services.nodeports", "2")];
        check(&kind, balanced.clone(), Some(inner.clone()), &growth);
        check(&kind, inner.clone(), Some(balanced), &[]);
        check(&kind, inner, None, &[("count/services", "1"), ("services", "1")]);
    }

    #[test]
    fn a_claim_counts_by_its_class() {
        let claim = json!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "2Gi" } } } });
        let expected = [
            ("count/persistentvolumeclaims", "1"),
            ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
            ("gold.storageclass.storage.k8s.io/requests.storage", "2Gi"),
            ("persistentvolumeclaims", "1"),
            ("requests.storage", "2Gi"),
        ];
        check(&kind("", "v1", "persistentvolumeclaims"), claim, None, &expected);
    }

    #[test]
    fn a_pod_that_ended_is_only_an_object() {
        let kind = kind("", "v1", "pods");
        let ended = json!({ "spec": { "containers": [] }, "status": { "phase": "Succeeded" } });
        check(&kind, ended, None, &[("count/pods", "1")]);
        for (resource, expected) in [
            ("requests.example.com/gpu", true),
            ("example.com/gpu", false),
            ("hugepages-2Mi", true),
            ("services", false),
            ("count/pods", true),
        ] {
            assert_eq!(counts(&kind, resource), expected, "{resource}");
        }
    }

    #[test]
    fn alternatives_count_as_the_largest() {
        let request = json!({ "firstAvailable": [
            { "deviceClassName": "a", "count": 2 }, { "deviceClassName": "a", "allocationMode": "All" },
        ] });
        let claim = json!({ "spec": { "devices": { "requests": [request] } } });
        let expected = [
            ("a.deviceclass.resource.k8s.io/devices", "32"),
            ("count/resourceclaims.resource.k8s.io", "1"),
        ];
        check(&kind("resource.k8s.io", "v1", "resourceclaims"), claim, None, &expected);
    }
}
