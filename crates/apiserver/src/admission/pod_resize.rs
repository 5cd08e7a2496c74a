//! PodResizeValidator and NodeDeclaredFeatureValidator: a running pod grows only into what its node has and can do.
//!
//! Counterparts: `plugin/pkg/admission/podresize` and `plugin/pkg/admission/nodedeclaredfeatures`.

use async_trait::async_trait;
use serde_json::Value;
use skiff_api::Status;
use skiff_api::meta::meta;
use skiff_api::quantity::Quantity;
use skiff_api::quota::{amounts, pod_total};
use skiff_api::status::Cause;

use super::{Operation, Plugin, Request};
use crate::objects;

pub struct NodeDeclaredFeatureValidator;
pub struct PodResizeValidator;

#[async_trait]
impl Plugin for PodResizeValidator {
    fn name(&self) -> &'static str {
        "PodResizeValidator"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        updates_pod(request, &["resize"])
    }

    async fn validate(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        if !is_spec_change(request, pod) {
            return Ok(());
        }
        let node = node(request, pod).await?;
        let os = meta(&node).label("kubernetes.io/os").unwrap_or("linux");
        if os != "linux" {
            let why = format!(
                "pod resize is only supported on linux nodes, node {:?} is {os:?}",
                meta(&node).name()
            );
            return Err(refused(request, pod, &why, "UnsupportedPlatform"));
        }
        match shortage(pod, &node) {
            Some(why) => Err(refused(request, pod, &why, "NodeCapacity")),
            None => Ok(()),
        }
    }
}

fn updates_pod(request: &Request<'_>, subresources: &[&str]) -> bool {
    request.operation == Operation::Update
        && request.kind.group.is_empty()
        && request.kind.resource == "pods"
        && subresources.contains(&request.subresource)
}

/// A pod on a node, with another spec than before.
fn is_spec_change(request: &Request<'_>, pod: &Value) -> bool {
    let bound = pod["spec"]["nodeName"].as_str().is_some_and(|name| !name.is_empty());
    bound && request.old.is_some_and(|old| meta(old).generation() != meta(pod).generation())
}

async fn node(request: &Request<'_>, pod: &Value) -> Result<Value, Status> {
    let name = pod["spec"]["nodeName"].as_str().unwrap_or("");
    let found = objects::find(request.server, "minions", "", name).await?;
    found.ok_or_else(|| request.forbidden(pod, &format!("node {name:?} not found")))
}

fn refused(request: &Request<'_>, pod: &Value, why: &str, cause: &str) -> Status {
    let mut status = request.forbidden(pod, why);
    let details = status.details.get_or_insert_default();
    details.causes.push(Cause { reason: cause.to_owned(), ..Cause::default() });
    status
}

fn shortage(pod: &Value, node: &Value) -> Option<String> {
    let (asked, has) = (pod_total(pod, "requests"), amounts(&node["status"]["allocatable"]));
    let of = |amounts: &std::collections::BTreeMap<String, Quantity>, resource: &str| {
        amounts.get(resource).copied().unwrap_or(Quantity::from_units(0))
    };
    let shown = |resource: &str, amount: Quantity| match resource {
        "cpu" => amount.milli(),
        _ => amount.units(),
    };
    let short = ["cpu", "memory"].into_iter().filter_map(|resource| {
        let (asked, has) = (of(&asked, resource), of(&has, resource));
        let (want, have) = (shown(resource, asked), shown(resource, has));
        (asked > has).then(|| format!("{resource}, requested: {want}, allocatable: {have}"))
    });
    let short: Vec<String> = short.collect();
    (!short.is_empty())
        .then(|| format!("node didn't have enough allocatable resources: {}", short.join("; ")))
}

/// Whether a change from one pod to the other needs something of the node.
type Needs = fn(&Value, &Value) -> bool;

/// What a change of a running pod asks of its node, by the name under which the node declares it.
const FEATURES: &[(&str, Needs)] = &[
    ("InPlacePodLevelResourcesVerticalScaling", resizes_pod),
    ("InPlacePodVerticalScalingInitContainers", resizes_init_container),
];

#[async_trait]
impl Plugin for NodeDeclaredFeatureValidator {
    fn name(&self) -> &'static str {
        "NodeDeclaredFeatureValidator"
    }

    fn handles(&self, request: &Request<'_>) -> bool {
        updates_pod(request, &["", "resize"])
    }

    async fn validate(&self, request: &Request<'_>, pod: &Value) -> Result<(), Status> {
        let Some(old) = request.old.filter(|_| is_spec_change(request, pod)) else {
            return Ok(());
        };
        let needed = FEATURES.iter().filter(|(_, needs)| needs(old, pod));
        let needed: Vec<&str> = needed.map(|(name, _)| *name).collect();
        if needed.is_empty() {
            return Ok(());
        }
        let node = node(request, pod).await?;
        let declared = node["status"]["declaredFeatures"].as_array();
        let has = |name: &&str| declared.is_some_and(|list| list.iter().any(|own| own == name));
        let missing: Vec<&str> = needed.into_iter().filter(|name| !has(name)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!(
            "pod update requires features {} which are not available on node {:?}",
            missing.join(", "),
            meta(&node).name()
        );
        Err(request.forbidden(pod, &why))
    }
}

fn resizes_pod(old: &Value, new: &Value) -> bool {
    old["spec"]["resources"] != new["spec"]["resources"]
}

fn resizes_init_container(old: &Value, new: &Value) -> bool {
    let list = |pod: &Value| pod["spec"]["initContainers"].as_array().cloned().unwrap_or_default();
    let (old, new) = (list(old), list(new));
    old.iter()
        .zip(&new)
        .any(|(old, new)| old["restartPolicy"] != "Always" && old["resources"] != new["resources"])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_node_lacks_is_named() {
        let pod = json!({ "spec": { "containers": [
            { "name": "c", "resources": { "requests": { "cpu": "2", "memory": "1Mi" } } },
        ] } });
        let node = json!({ "status": { "allocatable": { "cpu": "1500m", "memory": "1Gi" } } });
        assert_eq!(
            shortage(&pod, &node).as_deref(),
            Some(
                "node didn't have enough allocatable resources: cpu, requested: 2000, allocatable: 1500"
            )
        );
    }
}
