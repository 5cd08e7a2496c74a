//! Who belongs to whom: a controller adopts the orphans that it selects and releases what it no longer selects.
//!
//! An owner, its selector and the objects in question in -> claims -> one patch of ownerReferences each.
//! Counterpart: `controller_ref_manager.go`. Invariant: an owner on its way out claims nothing, not even when the cache
//! does not show yet that it is: adopting what a deletion has just orphaned would have it collected.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::core::{Selector, SelectorExt};
use serde_json::json;

use crate::runtime::store::Delta;
use crate::runtime::{Caches, Ctx, Key, Object, Result, controller_of};

#[derive(Debug, PartialEq)]
pub enum Claim<K> {
    Adopt(Arc<K>),
    Release(Arc<K>),
}

/// The selector in a form that can be asked. One that is empty or malformed selects nothing.
pub fn selector(selector: &LabelSelector) -> Option<Selector> {
    Selector::try_from(selector.clone()).ok().filter(|selector| !selector.selects_all())
}

pub fn selects(selector: Option<&Selector>, meta: &ObjectMeta) -> bool {
    let nothing = Default::default();
    let labels = meta.labels.as_ref().unwrap_or(&nothing);
    selector.is_some_and(|selector| selector.matches(labels))
}

pub fn is_controlled_by<O: Object>(owner: &O, meta: &ObjectMeta) -> bool {
    controller_of(meta).is_some_and(|reference| Some(&reference.uid) == owner.meta().uid.as_ref())
}

/// Objects that `owner` controls.
pub fn dependents<O: Object, K: Object>(ctx: &Ctx, owner: &O) -> Vec<Arc<K>> {
    let mut owned = ctx.lister::<K>().owned_by(owner.meta().uid.as_deref().unwrap_or_default());
    owned.retain(|object| is_controlled_by(owner, object.meta()));
    owned
}

/// Objects that are or may become the owner's: its dependents, and the orphans of its namespace.
pub fn candidates<O: Object, K: Object>(ctx: &Ctx, owner: &O) -> Vec<Arc<K>> {
    let mut found = dependents(ctx, owner);
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    found.extend(ctx.lister::<K>().orphans(namespace));
    found
}

/// What has to change hands. `adoptable` says which orphans are worth it; one being deleted never is.
pub fn claims<O: Object, K: Object>(
    owner: &O,
    candidates: &[Arc<K>],
    selected: impl Fn(&K) -> bool,
    adoptable: impl Fn(&K) -> bool,
) -> Vec<Claim<K>> {
    if owner.meta().deletion_timestamp.is_some() {
        return Vec::new();
    }
    let claims = candidates.iter().filter_map(|object| {
        let meta = object.meta();
        match (controller_of(meta), selected(object)) {
            (Some(_), false) if is_controlled_by(owner, meta) => {
                Some(Claim::Release(object.clone()))
            }
            (None, true) if meta.deletion_timestamp.is_none() && adoptable(object) => {
                Some(Claim::Adopt(object.clone()))
            }
            _ => None,
        }
    });
    claims.collect()
}

/// Keys of the owners whose selectors an orphan matches: any of them may adopt it.
pub fn adopters<O: Object, K: Object>(
    caches: &Caches,
    delta: &Delta<K>,
    selects: impl Fn(&O, &K) -> bool,
) -> Vec<Key> {
    let Some(orphan) = delta.new.filter(|object| controller_of(object.meta()).is_none()) else {
        return Vec::new();
    };
    let namespace = orphan.meta().namespace.as_deref().unwrap_or_default();
    let owners = caches.store::<O>().in_namespace(namespace);
    owners
        .iter()
        .filter(|owner| selects(owner, orphan))
        .map(|owner| Key::of(owner.as_ref()))
        .collect()
}

/// Carries claims out. An object that is gone, or was replaced by another of its name, is nobody's loss.
pub async fn settle<O: Object, K: Object>(
    ctx: &Ctx,
    owner: &O,
    claims: Vec<Claim<K>>,
) -> Result<()> {
    settle_with_finalizer(ctx, owner, claims, None).await
}

/// As `settle`, for an owner that keeps a finalizer on its dependents while they are its own.
pub async fn settle_with_finalizer<O: Object, K: Object>(
    ctx: &Ctx,
    owner: &O,
    claims: Vec<Claim<K>>,
    finalizer: Option<&str>,
) -> Result<()> {
    let adopts = claims.iter().any(|claim| matches!(claim, Claim::Adopt(_)));
    let may_adopt = adopts && is_staying(ctx, owner).await?;
    for claim in claims {
        let (object, reference, finalizers) = match claim {
            Claim::Adopt(object) if may_adopt => (object, json!(reference_to(owner)), "finalizers"),
            Claim::Adopt(_) => continue,
            Claim::Release(object) => {
                let reference = json!({"$patch": "delete", "uid": owner.meta().uid});
                (object, reference, "$deleteFromPrimitiveList/finalizers")
            }
        };
        let uid = &object.meta().uid;
        let mut patch = json!({"metadata": {"uid": uid, "ownerReferences": [reference]}});
        if let Some(finalizer) = finalizer {
            patch["metadata"][finalizers] = json!([finalizer]);
        }
        match ctx.patch_strategic::<K>(&Key::of(object.as_ref()), &patch).await {
            Err(error) if error.is_not_found() => {}
            other => drop(other?),
        }
    }
    Ok(())
}

/// Asks the API server, not the cache, whether the owner is still there and meant to stay.
async fn is_staying<O: Object>(ctx: &Ctx, owner: &O) -> Result<bool> {
    let present = ctx.get_live::<O>(&Key::of(owner)).await?;
    Ok(present.is_some_and(|present| {
        present.meta().uid == owner.meta().uid && present.meta().deletion_timestamp.is_none()
    }))
}

/// The reference by which an object becomes a dependent that `owner` controls.
pub fn reference_to<O: Object>(owner: &O) -> OwnerReference {
    let reference = owner.controller_owner_ref(&()).expect("a stored object has a name and a uid");
    OwnerReference { block_owner_deletion: Some(true), ..reference }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    fn pod(name: &str, app: &str, owner: &str) -> Arc<Pod> {
        Arc::new(yaml(&format!(
            "{{metadata: {{name: {name}, namespace: ns, labels: {{app: {app}}}, ownerReferences: [{owner}]}}}}"
        )))
    }

    fn owned_by(uid: &str) -> String {
        format!(
            "{{apiVersion: apps/v1, kind: ReplicaSet, name: web, uid: {uid}, controller: true}}"
        )
    }

    fn claimed(owner: &ReplicaSet, pods: &[Arc<Pod>]) -> Vec<String> {
        let own = selector(&owner.spec.as_ref().unwrap().selector);
        let made = claims(owner, pods, |pod| selects(own.as_ref(), &pod.metadata), |_| true);
        let name = |pod: &Pod| pod.metadata.name.clone().unwrap();
        let told = made.iter().map(|claim| match claim {
            Claim::Adopt(pod) => format!("adopt {}", name(pod)),
            Claim::Release(pod) => format!("release {}", name(pod)),
        });
        told.collect()
    }

    #[test]
    fn orphans_are_adopted_and_strangers_released() {
        let owner: ReplicaSet = yaml(
            "{metadata: {name: web, namespace: ns, uid: me}, spec: {selector: {matchLabels: {app: web}}}}",
        );
        let pods = [
            pod("orphan", "web", ""),
            pod("other-orphan", "db", ""),
            pod("stranger", "db", &owned_by("me")),
            pod("mine", "web", &owned_by("me")),
            pod("theirs", "web", &owned_by("them")),
        ];
        assert_eq!(claimed(&owner, &pods), ["adopt orphan", "release stranger"]);
        let mut going = owner.clone();
        going.metadata.deletion_timestamp = yaml("'2026-01-01T00:00:00Z'");
        assert!(claimed(&going, &pods).is_empty());
        let mut all = owner;
        all.spec.as_mut().unwrap().selector = LabelSelector::default();
        assert_eq!(
            claimed(&all, &pods),
            ["release stranger", "release mine"],
            "an empty selector selects nothing"
        );
    }

    #[test]
    fn a_pod_on_its_way_out_is_not_adopted() {
        let owner: ReplicaSet = yaml(
            "{metadata: {name: web, namespace: ns, uid: me}, spec: {selector: {matchLabels: {app: web}}}}",
        );
        let mut pod = pod("orphan", "web", "").as_ref().clone();
        pod.metadata.deletion_timestamp = yaml("'2026-01-01T00:00:00Z'");
        assert!(claimed(&owner, &[Arc::new(pod)]).is_empty());
    }
}
