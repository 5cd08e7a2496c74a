//! How many pods a budget's workloads want, and how many of them must stay.
//!
//! Budget and pods in -> the sizes of the pods' controllers, each counted once -> demand. Controllers that are watched anyway
//! are read from the cache, others through their scale. Counterpart: `getExpectedPodCount` and the finders.
//! Invariant: a pod whose controller cannot be found makes the demand unknown, not smaller.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, ReplicationController};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::covers;
use crate::percentages::{Rounding, resolve};
use crate::runtime::{Ctx, Delta, Edges, Error, Key, Object, Result, controller_of};
use crate::scale::Target;

/// What a budget asks of its pods.
#[derive(Debug, Default, PartialEq)]
pub struct Demand {
    pub expected: i32,
    pub desired_healthy: i32,
    /// Pods without a controller: their number cannot be known.
    pub unmanaged: Vec<String>,
}

/// A controller and its size.
type Sized = (String, i32);

/// A controller that is given another size gives its budgets another demand.
pub fn watches(edges: &mut Edges) {
    edges.mapped::<Deployment>(|caches, delta| resized(caches, delta, size_of_deployment));
    edges.mapped::<ReplicaSet>(|caches, delta| {
        resized(caches, delta, |one| one.spec.as_ref().and_then(|spec| spec.replicas))
    });
    edges.mapped::<StatefulSet>(|caches, delta| {
        resized(caches, delta, |one| one.spec.as_ref().and_then(|spec| spec.replicas))
    });
    edges.mapped::<ReplicationController>(|caches, delta| {
        resized(caches, delta, |one| one.spec.as_ref().and_then(|spec| spec.replicas))
    });
}

fn size_of_deployment(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref().and_then(|spec| spec.replicas)
}

/// Budgets of the namespace, when a workload's size changed or it is gone. Few namespaces have more than a few.
fn resized<K: Object>(
    caches: &crate::runtime::Caches,
    delta: &Delta<K>,
    size: impl Fn(&K) -> Option<i32>,
) -> Vec<Key> {
    let sizes = |object: Option<&Arc<K>>| object.map(|object| size(object));
    if sizes(delta.old) == sizes(delta.new) {
        return Vec::new();
    }
    let namespace = delta.latest().meta().namespace.as_deref().unwrap_or_default();
    let budgets = caches.store::<PodDisruptionBudget>().in_namespace(namespace);
    let pods = || caches.store::<Pod>().in_namespace(namespace);
    let covering = budgets.iter().filter(|budget| pods().iter().any(|pod| covers(budget, pod)));
    covering.map(|budget| Key::of(budget.as_ref())).collect()
}

pub async fn demand(ctx: &Ctx, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Demand> {
    let Some(spec) = &budget.spec else { return Ok(Demand::default()) };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = expected(ctx, pods).await?;
            let missing = resolve(most, expected, Rounding::Up);
            Ok(Demand { expected, desired_healthy: (expected - missing).max(0), unmanaged })
        }
        (None, Some(IntOrString::Int(least))) => {
            let expected = i32::try_from(pods.len()).unwrap_or(i32::MAX);
            Ok(Demand { expected, desired_healthy: *least, unmanaged: Vec::new() })
        }
        (None, Some(least)) => {
            let (expected, unmanaged) = expected(ctx, pods).await?;
            let desired_healthy = resolve(least, expected, Rounding::Up);
            Ok(Demand { expected, desired_healthy, unmanaged })
        }
        (None, None) => Ok(Demand::default()),
    }
}

async fn expected(ctx: &Ctx, pods: &[Arc<Pod>]) -> Result<(i32, Vec<String>)> {
    let mut sizes: BTreeMap<String, i32> = BTreeMap::new();
    let mut asked: BTreeMap<&str, ()> = BTreeMap::new();
    let mut unmanaged = Vec::new();
    for pod in pods {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(owner) = controller_of(&pod.metadata) else {
            unmanaged.push(name);
            continue;
        };
        if asked.insert(&owner.uid, ()).is_some() {
            continue;
        }
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let (uid, size) = size_of(ctx, namespace, owner)
            .await?
            .ok_or_else(|| Error::Invalid(format!("found no controllers for pod {name:?}")))?;
        sizes.insert(uid, size);
    }
    Ok((sizes.values().sum(), unmanaged))
}

/// The controller whose size decides how many pods of this owner there are.
async fn size_of(ctx: &Ctx, namespace: &str, owner: &OwnerReference) -> Result<Option<Sized>> {
    let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    match (group, owner.kind.as_str()) {
        ("apps", "ReplicaSet") => {
            let Some(set) = find::<ReplicaSet>(ctx, namespace, owner) else { return Ok(None) };
            let above = controller_of(&set.metadata);
            match above.filter(|above| above.kind == "Deployment") {
                Some(above) => Ok(find::<Deployment>(ctx, namespace, above).map(|deployment| {
                    sized(&deployment.metadata, size_of_deployment(&deployment))
                })),
                None => {
                    let size = set.spec.as_ref().and_then(|spec| spec.replicas);
                    Ok(Some(sized(&set.metadata, size)))
                }
            }
        }
        ("apps", "StatefulSet") => Ok(find::<StatefulSet>(ctx, namespace, owner)
            .map(|set| sized(&set.metadata, set.spec.as_ref().and_then(|spec| spec.replicas)))),
        ("", "ReplicationController") => Ok(find::<ReplicationController>(ctx, namespace, owner)
            .map(|one| sized(&one.metadata, one.spec.as_ref().and_then(|spec| spec.replicas)))),
        _ => scaled(ctx, namespace, owner).await,
    }
}

fn find<K: Object>(ctx: &Ctx, namespace: &str, owner: &OwnerReference) -> Option<Arc<K>> {
    let found = ctx.lister::<K>().get(&Key::new(namespace, &owner.name));
    found.filter(|object| object.meta().uid.as_ref() == Some(&owner.uid))
}

fn sized(meta: &ObjectMeta, size: Option<i32>) -> Sized {
    (meta.uid.clone().unwrap_or_default(), size.unwrap_or(1))
}

async fn scaled(ctx: &Ctx, namespace: &str, owner: &OwnerReference) -> Result<Option<Sized>> {
    let target =
        Target { api_version: &owner.api_version, kind: &owner.kind, namespace, name: &owner.name };
    let scale = target.read(ctx).await?;
    let scale = scale.filter(|scale| scale.metadata.uid.as_ref() == Some(&owner.uid));
    let size = |scale: &k8s_openapi::api::autoscaling::v1::Scale| {
        scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0)
    };
    Ok(scale.map(|scale| (owner.uid.clone(), size(&scale))))
}
