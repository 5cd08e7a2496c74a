//! Binds claims and volumes to each other.
//!
//! Claims, volumes and classes in; promises (`claimRef`), bindings (`volumeName`) and phases out. Each side has its own keys
//! and its own pure plan of how both sides should be ([`claim`], [`volume`]); what differs is written, volumes first.
//! Making and deleting the storage behind a volume is a provisioner's. Counterpart: `pkg/controller/volume/persistentvolume`.
//! Invariant: at every moment a volume is promised to at most one claim; a write that lost a race starts over.

mod claim;
pub mod facts;
#[cfg(test)]
mod tests;
mod volume;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::pod;
use crate::runtime::{Action, Caches, ControllerDef, Ctx, Key, Result};
use claim::{Observed, Told};
use facts::{claim_class, volume_class, volume_name, volume_phase};

const NAME: &str = "persistent-volume-binder";

pub const CLAIMS: ControllerDef = ControllerDef {
    name: NAME,
    workers: 8,
    watches: |edges| {
        edges.primary::<PersistentVolumeClaim>();
        edges.mapped::<PersistentVolume>(|caches, delta| {
            delta.sides().flat_map(|volume| concerned(caches, volume)).collect()
        });
        edges.mapped::<StorageClass>(|caches, delta| {
            let class = delta.latest().metadata.name.clone().unwrap_or_default();
            unbound(caches, &class)
        });
        edges.reads::<Pod>();
    },
    reconcile: |ctx, key| reconcile_claim(ctx, key).boxed(),
};

pub const VOLUMES: ControllerDef = ControllerDef {
    name: NAME,
    workers: 8,
    watches: |edges| {
        edges.primary::<PersistentVolume>();
        edges.mapped::<PersistentVolumeClaim>(|caches, delta| {
            let claim = delta.latest();
            let volumes = caches.store::<PersistentVolume>();
            let named = volume_name(claim).map(Key::cluster);
            // A claim that goes before it names its volume leaves a promise behind.
            let promised = || {
                let all = volumes.all();
                let promised = all.iter().filter(|volume| facts::is_promised_to(volume, claim));
                promised.map(|volume| Key::of(volume.as_ref())).collect()
            };
            named.map_or_else(promised, |key| vec![key])
        });
    },
    reconcile: |ctx, key| reconcile_volume(ctx, key).boxed(),
};

/// The claims that a volume may matter to: its own, or those it could be for.
fn concerned(caches: &Caches, volume: &PersistentVolume) -> Vec<Key> {
    match volume::claim_key(volume) {
        Some(key) => vec![key],
        None if volume_phase(volume) == "Available" => unbound(caches, volume_class(volume)),
        None => {
            let all = caches.store::<PersistentVolumeClaim>().all();
            let named =
                all.iter().filter(|claim| volume_name(claim) == volume.metadata.name.as_deref());
            named.map(|claim| Key::of(claim.as_ref())).collect()
        }
    }
}

/// Claims of a class that have no volume yet.
fn unbound(caches: &Caches, class: &str) -> Vec<Key> {
    let all = caches.store::<PersistentVolumeClaim>().all();
    let waiting = all.iter().filter(|claim| {
        let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
        // One that names no class may get the one that is new.
        phase != Some("Bound") && (claim_class(claim) == class || facts::names_no_class(claim))
    });
    waiting.map(|claim| Key::of(claim.as_ref())).collect()
}

async fn reconcile_claim(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(old) = ctx.lister::<PersistentVolumeClaim>().get(&key) else {
        return Ok(Action::Done);
    };
    let observed = observe(&ctx, &old).await?;
    let plan = claim::plan(&old, &observed);
    if let Some(volume) = &plan.volume {
        let before = ctx.lister::<PersistentVolume>().get(&Key::of(volume));
        write_volume(&ctx, before.as_deref(), volume).await?;
    }
    let mut stored = old.clone();
    if (&plan.claim.metadata, &plan.claim.spec) != (&old.metadata, &old.spec) {
        stored = ctx.update(&plan.claim).await?;
    }
    if plan.claim.status != stored.status {
        let metadata = stored.metadata.clone();
        stored = ctx.update_status(&PersistentVolumeClaim { metadata, ..plan.claim }).await?;
    }
    tell(&ctx, stored.as_ref(), plan.told);
    Ok(Action::Done)
}

async fn observe(ctx: &Ctx, claim: &PersistentVolumeClaim) -> Result<Observed> {
    let volumes = ctx.lister::<PersistentVolume>();
    if let Some(name) = volume_name(claim) {
        let key = Key::cluster(name);
        // Only the API server may say that data is lost.
        let named = match volumes.get(&key) {
            None => ctx.get_live(&key).await?,
            known => known,
        };
        return Ok(Observed { named, ..Observed::default() });
    }
    let class = ctx.lister::<StorageClass>().get(&Key::cluster(claim_class(claim)));
    let waits = class.as_deref().is_some_and(facts::waits_for_consumer);
    let waiting_pods = if waits { waiting_pods(ctx, claim) } else { Vec::new() };
    let default_class = match facts::names_no_class(claim) {
        true => facts::default_class(&ctx.lister::<StorageClass>().all()),
        false => None,
    };
    Ok(Observed { named: None, volumes: volumes.all(), class, default_class, waiting_pods })
}

/// The names of pods that would use the claim and have no node yet.
fn waiting_pods(ctx: &Ctx, claim: &PersistentVolumeClaim) -> Vec<String> {
    let pods = ctx.lister::<Pod>().all();
    let uses = |pod: &&Arc<Pod>| {
        pod.metadata.namespace == claim.metadata.namespace
            && pod::node_name(pod).is_none()
            && pod::claims(pod).any(|name| Some(name) == claim.metadata.name)
    };
    pods.iter().filter(uses).filter_map(|pod| pod.metadata.name.clone()).collect()
}

async fn reconcile_volume(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(old) = ctx.lister::<PersistentVolume>().get(&key) else { return Ok(Action::Done) };
    let claim = match volume::claim_key(&old) {
        None => None,
        Some(key) => match ctx.lister::<PersistentVolumeClaim>().get(&key) {
            // Released volumes may be deleted: the cache alone must not decide that.
            None => ctx.get_live::<PersistentVolumeClaim>(&key).await?,
            known => known,
        },
    };
    let plan = volume::plan(&old, claim.as_deref());
    let stored = write_volume(&ctx, Some(&old), &plan.volume).await?;
    tell(&ctx, &stored, plan.told);
    Ok(Action::Done)
}

async fn write_volume(
    ctx: &Ctx,
    old: Option<&PersistentVolume>,
    new: &PersistentVolume,
) -> Result<PersistentVolume> {
    let mut stored = old.unwrap_or(new).clone();
    if (&new.metadata, &new.spec) != (&stored.metadata, &stored.spec) {
        stored = ctx.update(new).await?.as_ref().clone();
    }
    if new.status != stored.status {
        let metadata = stored.metadata.clone();
        let wanted = PersistentVolume { metadata, ..new.clone() };
        stored = ctx.update_status(&wanted).await?.as_ref().clone();
    }
    Ok(stored)
}

fn tell<K: crate::runtime::Object>(ctx: &Ctx, object: &K, told: Option<Told>) {
    match told {
        Some(Told { warning: true, reason, message }) => {
            ctx.recorder.warning(object, reason, message)
        }
        Some(Told { reason, message, .. }) => ctx.recorder.normal(object, reason, message),
        None => {}
    }
}
