//! Keeps claims, volumes and attribute classes until nothing uses them, and then lets them go.
//!
//! An object and its users in -> `plan` -> its finalizer put on or taken off.
//! Counterpart: `pkg/controller/volume/{pvc,pv,vac}protection`.
//! Invariant: the finalizer of a claim comes off only when the API server itself knows of no pod that uses it.

mod users;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;

use crate::pod;
use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Error, Key, Object, Result};

const CLAIM: &str = "kubernetes.io/pvc-protection";
const VOLUME: &str = "kubernetes.io/pv-protection";
const CLASS: &str = "kubernetes.io/vac-protection";

pub const CLAIMS: ControllerDef = ControllerDef {
    name: "pvc-protection-controller",
    workers: 1,
    watches: |edges| {
        edges.primary::<PersistentVolumeClaim>();
        edges.mapped::<Pod>(claims_of_pod);
    },
    reconcile: |ctx, key| claim(ctx, key).boxed(),
};

pub const VOLUMES: ControllerDef = ControllerDef {
    name: "pv-protection-controller",
    workers: 1,
    watches: |edges| edges.primary::<PersistentVolume>(),
    reconcile: |ctx, key| volume(ctx, key).boxed(),
};

pub const CLASSES: ControllerDef = ControllerDef {
    name: "volumeattributesclass-protection-controller",
    workers: 1,
    watches: |edges| {
        edges.primary::<VolumeAttributesClass>();
        edges.mapped::<PersistentVolumeClaim>(|caches, delta| {
            let names = delta.sides().flat_map(|claim| users::classes_of_claim(claim));
            leaving::<VolumeAttributesClass>(caches, names.map(Key::cluster))
        });
        edges.mapped::<PersistentVolume>(|caches, delta| {
            let names = delta.sides().filter_map(|volume| users::class_of_volume(volume));
            leaving::<VolumeAttributesClass>(caches, names.map(Key::cluster))
        });
    },
    reconcile: |ctx, key| class(ctx, key).boxed(),
};

#[derive(Debug, PartialEq, Eq)]
enum Op {
    Protect,
    /// If nothing uses it.
    Release,
}

fn plan(meta: &ObjectMeta, finalizer: &str) -> Option<Op> {
    let protected = meta.finalizers.iter().flatten().any(|one| one == finalizer);
    match (meta.deletion_timestamp.is_some(), protected) {
        (true, true) => Some(Op::Release),
        // Admission puts it on; older objects may lack it.
        (false, false) => Some(Op::Protect),
        _ => None,
    }
}

/// A pod matters to its claims, and only to those that wait to go.
fn claims_of_pod(caches: &Caches, delta: &Delta<Pod>) -> Vec<Key> {
    let keys = delta.sides().flat_map(|pod| {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        pod::claims(pod).map(move |claim| Key::new(namespace, claim))
    });
    leaving::<PersistentVolumeClaim>(caches, keys)
}

fn leaving<K: Object>(caches: &Caches, keys: impl Iterator<Item = Key>) -> Vec<Key> {
    let store = caches.store::<K>();
    let leaves =
        |key: &Key| store.get(key).is_some_and(|object| object.meta().deletion_timestamp.is_some());
    keys.filter(leaves).collect()
}

async fn claim(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(claim) = ctx.lister::<PersistentVolumeClaim>().get(&key) else {
        return Ok(Action::Done);
    };
    let op = plan(&claim.metadata, CLAIM);
    if op == Some(Op::Release) {
        let known = ctx.lister::<Pod>().in_namespace(&key.namespace);
        if known.iter().any(|pod| users::uses_claim(pod, &claim))
            || is_used_now(&ctx, &claim).await?
        {
            return Ok(Action::Done);
        }
    }
    carry_out(&ctx, claim.as_ref(), CLAIM, op).await
}

/// Past the cache: a pod that it does not show yet may be on its way to a node.
async fn is_used_now(ctx: &Ctx, claim: &PersistentVolumeClaim) -> Result<bool> {
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let pods = pods.list(&ListParams::default()).await;
    let pods = pods.map_err(|source| Error::Read { what: "the pods of a claim".into(), source })?;
    Ok(pods.items.iter().any(|pod| users::uses_claim(pod, claim)))
}

async fn volume(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(volume) = ctx.lister::<PersistentVolume>().get(&key) else { return Ok(Action::Done) };
    match plan(&volume.metadata, VOLUME) {
        Some(Op::Release) if users::is_bound(&volume) => Ok(Action::Done),
        op => carry_out(&ctx, volume.as_ref(), VOLUME, op).await,
    }
}

async fn class(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(class) = ctx.lister::<VolumeAttributesClass>().get(&key) else {
        return Ok(Action::Done);
    };
    let is_named = || {
        let claims = ctx.lister::<PersistentVolumeClaim>().all();
        let volumes = ctx.lister::<PersistentVolume>().all();
        claims.iter().any(|claim| users::classes_of_claim(claim).any(|name| name == key.name))
            || volumes.iter().any(|one| users::class_of_volume(one) == Some(key.name.as_str()))
    };
    match plan(&class.metadata, CLASS) {
        Some(Op::Release) if is_named() => Ok(Action::Done),
        op => carry_out(&ctx, class.as_ref(), CLASS, op).await,
    }
}

async fn carry_out<K: Object>(
    ctx: &Ctx,
    object: &K,
    finalizer: &str,
    op: Option<Op>,
) -> Result<Action> {
    let Some(op) = op else { return Ok(Action::Done) };
    let mut object = object.clone();
    let finalizers = object.meta_mut().finalizers.get_or_insert_default();
    match op {
        Op::Protect => finalizers.push(finalizer.to_owned()),
        Op::Release => finalizers.retain(|one| one != finalizer),
    }
    match ctx.update(&object).await {
        Err(error) if error.is_not_found() => Ok(Action::Done),
        outcome => outcome.map(|_| Action::Done),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[test]
    fn only_what_is_being_deleted_is_let_go_and_only_once() {
        let going = "deletionTimestamp: '2026-01-01T00:00:00Z'";
        for (meta, expected) in [
            ("finalizers: [kubernetes.io/pv-protection]".to_owned(), None),
            (String::new(), Some(Op::Protect)),
            ("finalizers: [other]".to_owned(), Some(Op::Protect)),
            (format!("finalizers: [a, kubernetes.io/pv-protection], {going}"), Some(Op::Release)),
            (format!("finalizers: [other], {going}"), None),
        ] {
            let meta: ObjectMeta = yaml(&format!("{{{meta}}}"));
            assert_eq!(plan(&meta, VOLUME), expected, "{meta:?}");
        }
    }
}
