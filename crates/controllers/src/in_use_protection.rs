//! What is in use outlives its deletion: claims while pods use them, volumes while they are bound, attribute classes while
//! claims or volumes name them.
//!
//! Objects that are being deleted in, their protecting finalizer removed out, once nothing uses them. The finalizers are put
//! on by the admission plugin StorageObjectInUseProtection. Counterpart: `pkg/controller/volume/{pvc,pv,vac}protection`.
//! Invariant: a finalizer goes only after the API server itself, not the cache, was asked who uses the object.

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Object, Result, controller_of};

const CLAIM_FINALIZER: &str = "kubernetes.io/pvc-protection";
const VOLUME_FINALIZER: &str = "kubernetes.io/pv-protection";
const CLASS_FINALIZER: &str = "kubernetes.io/vac-protection";

pub const CLAIMS: ControllerDef = ControllerDef {
    name: "pvc-protection-controller",
    workers: 4,
    watches: |edges| {
        edges.primary::<PersistentVolumeClaim>();
        // A pod that ends, or goes, may have been a claim's last.
        edges.mapped::<Pod>(|_, delta| {
            let over = delta.new.is_none() || delta.new.is_some_and(|pod| pod::is_terminal(pod));
            let pod = delta.latest();
            over.then(|| volumes(pod).filter_map(|volume| claim_key(pod, volume)))
                .into_iter()
                .flatten()
                .collect()
        });
    },
    reconcile: |ctx, key| protect_claim(ctx, key).boxed(),
};

pub const VOLUMES: ControllerDef = ControllerDef {
    name: "pv-protection-controller",
    workers: 4,
    watches: |edges| edges.primary::<PersistentVolume>(),
    reconcile: |ctx, key| protect_volume(ctx, key).boxed(),
};

pub const ATTRIBUTES_CLASSES: ControllerDef = ControllerDef {
    name: "volumeattributesclass-protection-controller",
    workers: 1,
    watches: |edges| {
        edges.primary::<VolumeAttributesClass>();
        edges.mapped::<PersistentVolumeClaim>(|_, delta| {
            delta.sides().flat_map(|claim| claim_classes(claim)).map(Key::cluster).collect()
        });
        edges.mapped::<PersistentVolume>(|_, delta| {
            delta.sides().filter_map(|volume| volume_class(volume)).map(Key::cluster).collect()
        });
    },
    reconcile: |ctx, key| protect_attributes_class(ctx, key).boxed(),
};

async fn protect_claim(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(claim) = ctx.lister::<PersistentVolumeClaim>().get(&key) else {
        return Ok(Action::Done);
    };
    if !waits_for(&claim.metadata, CLAIM_FINALIZER) {
        return Ok(Action::Done);
    }
    let known = ctx.lister::<Pod>().all();
    if known.iter().any(|pod| uses_claim(pod, &claim)) {
        return Ok(Action::Done);
    }
    let pods = Api::<Pod>::namespaced(ctx.client.clone(), &key.namespace);
    let pods = pods.list(&ListParams::default()).await;
    let pods = pods.map_err(|source| Error::Read { what: "pods".into(), source })?;
    if !pods.items.iter().any(|pod| uses_claim(pod, &claim)) {
        release(&ctx, claim.as_ref(), CLAIM_FINALIZER).await?;
    }
    Ok(Action::Done)
}

async fn protect_volume(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(volume) = ctx.lister::<PersistentVolume>().get(&key) else { return Ok(Action::Done) };
    if waits_for(&volume.metadata, VOLUME_FINALIZER) && !is_bound(&volume) {
        release(&ctx, volume.as_ref(), VOLUME_FINALIZER).await?;
    }
    Ok(Action::Done)
}

async fn protect_attributes_class(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(class) = ctx.lister::<VolumeAttributesClass>().get(&key) else {
        return Ok(Action::Done);
    };
    if !waits_for(&class.metadata, CLASS_FINALIZER) {
        return Ok(Action::Done);
    }
    let claims = ctx.lister::<PersistentVolumeClaim>().all();
    let volumes = ctx.lister::<PersistentVolume>().all();
    let used = claims.iter().any(|claim| claim_classes(claim).any(|name| name == key.name))
        || volumes.iter().any(|volume| volume_class(volume) == Some(&key.name));
    if !used {
        release(&ctx, class.as_ref(), CLASS_FINALIZER).await?;
    }
    Ok(Action::Done)
}

/// Being deleted, and held back by `finalizer`.
fn waits_for(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.deletion_timestamp.is_some()
        && meta.finalizers.iter().flatten().any(|name| name == finalizer)
}

async fn release<K: Object>(ctx: &Ctx, object: &K, finalizer: &str) -> Result<()> {
    let meta = object.meta();
    let left: Vec<&String> =
        meta.finalizers.iter().flatten().filter(|name| *name != finalizer).collect();
    // The version makes sure that nobody else's finalizer is lost.
    let patch = json!({
        "metadata": { "finalizers": left, "resourceVersion": meta.resource_version },
    });
    ctx.patch::<K>(&Key::of(object), &patch).await?;
    Ok(())
}

fn volumes(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten())
}

/// The claim that a pod's volume is.
fn claim_key(pod: &Pod, volume: &Volume) -> Option<Key> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let named = volume.persistent_volume_claim.as_ref().map(|source| source.claim_name.clone());
    let own = || {
        let pod = pod.metadata.name.as_deref()?;
        volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name))
    };
    named.or_else(own).map(|name| Key::new(namespace, &name))
}

/// Only a pod that has a node: a kubelet starts none whose claim is being deleted.
fn uses_claim(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let key = Key::of(claim);
    let owned =
        || controller_of(&claim.metadata).map(|owner| &owner.uid) == pod.metadata.uid.as_ref();
    pod::node_name(pod).is_some()
        && volumes(pod).any(|volume| {
            claim_key(pod, volume).as_ref() == Some(&key)
                && (volume.ephemeral.is_none() || (owned() && !is_shut_down(pod)))
        })
}

/// The kubelet is done with the pod, or was not waited for: what is its own may go with it.
fn is_shut_down(pod: &Pod) -> bool {
    pod::is_terminating(pod) && pod.metadata.deletion_grace_period_seconds == Some(0)
}

fn is_bound(volume: &PersistentVolume) -> bool {
    let phase = volume.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Bound")
}

/// The attribute classes that a claim asks for, has, or is on its way to.
fn claim_classes(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let (spec, status) = (claim.spec.as_ref(), claim.status.as_ref());
    let asked = spec.and_then(|spec| spec.volume_attributes_class_name.as_deref());
    let has = status.and_then(|status| status.current_volume_attributes_class_name.as_deref());
    let aimed = status
        .and_then(|status| status.modify_volume_status.as_ref())
        .and_then(|modify| modify.target_volume_attributes_class_name.as_deref());
    [asked, has, aimed].into_iter().flatten()
}

fn volume_class(volume: &PersistentVolume) -> Option<&str> {
    volume.spec.as_ref()?.volume_attributes_class_name.as_deref()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[track_caller]
    fn check(pod: &str, used: bool) {
        let claim: PersistentVolumeClaim = yaml(
            "{metadata: {name: web-scratch, namespace: ns, ownerReferences: \
             [{apiVersion: v1, kind: Pod, name: web, uid: u, controller: true}]}}",
        );
        assert_eq!(uses_claim(&yaml(pod), &claim), used, "{pod}");
    }

    #[test]
    fn a_claim_is_used_by_pods_that_have_a_node_and_name_it() {
        let pod = |node: &str, volume: &str, meta: &str| {
            format!(
                "{{metadata: {{name: web, namespace: ns, uid: u{meta}}}, spec: {{containers: [], {node} volumes: [{volume}]}}}}"
            )
        };
        let (here, named) =
            ("nodeName: n,", "{name: v, persistentVolumeClaim: {claimName: web-scratch}}");
        check(&pod(here, named, ""), true);
        check(&pod("", named, ""), false);
        check(&pod(here, "{name: v, persistentVolumeClaim: {claimName: other}}", ""), false);
        check(&pod(here, "{name: v, emptyDir: {}}", ""), false);
        let own = "{name: scratch, ephemeral: {volumeClaimTemplate: {spec: {}}}}";
        check(&pod(here, own, ""), true);
        let gone = ", deletionTimestamp: '2026-01-01T00:00:00Z', deletionGracePeriodSeconds: 0";
        check(&pod(here, own, gone), false);
        check(&pod(here, named, gone), true);
    }

    #[test]
    fn an_attributes_class_is_used_by_what_a_claim_asks_has_and_aims_at() {
        let claim = yaml(
            "{spec: {volumeAttributesClassName: a}, status: {currentVolumeAttributesClassName: b, \
             modifyVolumeStatus: {status: Pending, targetVolumeAttributesClassName: c}}}",
        );
        assert_eq!(claim_classes(&claim).collect::<Vec<_>>(), ["a", "b", "c"]);
    }
}
