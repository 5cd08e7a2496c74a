//! Binds claims to volumes, and tells what becomes of volumes whose claim is gone.
//!
//! Claims, volumes and classes in -> `claim::plan` and `volume::plan` -> references on both sides, phases, events.
//! Counterpart: `pkg/controller/volume/persistentvolume`. Differs from upstream: a class is always somebody else's to
//! provision, and volumes are neither deleted nor recycled here.
//! Invariant: a volume is promised to one claim, and the promise stands on the volume before the claim names it.

mod claim;
mod matching;
#[cfg(test)]
mod tests;
mod volume;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Key, Result};

const NAME: &str = "persistent-volume-binder";

const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Provisioners read the one or the other.
const PROVISIONERS: [&str; 2] =
    ["volume.beta.kubernetes.io/storage-provisioner", "volume.kubernetes.io/storage-provisioner"];

pub const CLAIMS: ControllerDef = ControllerDef {
    name: NAME,
    // One at a time: two claims that look for a volume must not find the same.
    workers: 1,
    watches: |edges| {
        edges.primary::<PersistentVolumeClaim>();
        edges.mapped::<PersistentVolume>(claims_of_volume);
        edges.mapped::<StorageClass>(|caches, _| waiting(caches).collect());
    },
    reconcile: |ctx, key| reconcile_claim(ctx, key).boxed(),
};

pub const VOLUMES: ControllerDef = ControllerDef {
    name: NAME,
    workers: 1,
    watches: |edges| {
        edges.primary::<PersistentVolume>();
        edges.mapped::<PersistentVolumeClaim>(volumes_of_claim);
    },
    reconcile: |ctx, key| reconcile_volume(ctx, key).boxed(),
};

/// A promised volume matters to its claim, a free one to whoever waits for one.
fn claims_of_volume(caches: &Caches, delta: &Delta<PersistentVolume>) -> Vec<Key> {
    let promised = delta.sides().filter_map(|volume| {
        let claim = volume.spec.as_ref()?.claim_ref.as_ref()?;
        Some(Key::new(claim.namespace.clone()?, claim.name.clone()?))
    });
    let named = delta.latest().metadata.name.as_deref();
    let naming = caches.store::<PersistentVolumeClaim>().all().into_iter();
    let naming = naming.filter(|claim| {
        let names = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
        names.is_some() && names == named
    });
    let naming = naming.map(|claim| Key::of(claim.as_ref()));
    let is_free = delta.new.is_some_and(|volume| matching::phase(volume) == "Available");
    let free = is_free.then(|| waiting(caches)).into_iter().flatten();
    promised.chain(naming).chain(free).collect()
}

fn waiting(caches: &Caches) -> impl Iterator<Item = Key> {
    let claims = caches.store::<PersistentVolumeClaim>().all().into_iter();
    let unbound = claims.filter(|claim| !claim::is_bound(claim));
    unbound.map(|claim| Key::of(claim.as_ref()))
}

fn volumes_of_claim(caches: &Caches, delta: &Delta<PersistentVolumeClaim>) -> Vec<Key> {
    let key = Key::of(delta.latest().as_ref());
    let volumes = caches.store::<PersistentVolume>().all().into_iter();
    let promised = volumes.filter(|volume| {
        let claim = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        claim.is_some_and(|claim| {
            claim.name.as_ref() == Some(&key.name)
                && claim.namespace.as_ref() == Some(&key.namespace)
        })
    });
    promised.map(|volume| Key::of(volume.as_ref())).collect()
}

async fn reconcile_claim(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(claim) = ctx.lister::<PersistentVolumeClaim>().get(&key) else {
        return Ok(Action::Done);
    };
    let volumes = ctx.lister::<PersistentVolume>().all();
    let classes = ctx.lister::<StorageClass>().all();
    match claim::plan(&claim, &volumes, &classes) {
        claim::Op::Bind(volume) => bind(&ctx, &volume, &claim).await?,
        claim::Op::Update(changed) => drop(ctx.update(changed.as_ref()).await?),
        claim::Op::Wait(event) => {
            if let Some(event) = event {
                event.tell(&ctx, claim.as_ref());
            }
            update_claim_status(&ctx, &claim, claim::waiting(&claim)).await?;
        }
        claim::Op::Lose(event) => {
            if matching::claim_phase(&claim) != "Lost" {
                event.tell(&ctx, claim.as_ref());
            }
            update_claim_status(&ctx, &claim, claim::lost(&claim)).await?;
        }
        claim::Op::Provision { changed, event } => {
            let claim = match changed {
                Some(changed) => ctx.update(changed.as_ref()).await?,
                None => claim,
            };
            event.tell(&ctx, claim.as_ref());
            update_claim_status(&ctx, &claim, claim::waiting(&claim)).await?;
        }
    }
    Ok(Action::Done)
}

/// Four writes, each left out if there is nothing to change: a binding that was cut short is finished by the next.
async fn bind(ctx: &Ctx, volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<()> {
    let mut volume = Arc::new(volume.clone());
    let promised = volume::promised(&volume, claim);
    if promised != *volume {
        volume = ctx.update(&promised).await?;
    }
    update_phase(ctx, &volume, "Bound", "").await?;
    let mut claim = Arc::new(claim.clone());
    let named = claim::named(&claim, &volume);
    if named != *claim {
        claim = ctx.update(&named).await?;
    }
    update_claim_status(ctx, &claim, claim::bound(&claim, &volume)).await
}

async fn reconcile_volume(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(volume) = ctx.lister::<PersistentVolume>().get(&key) else { return Ok(Action::Done) };
    let claim = match volume::claim_key(&volume) {
        None => None,
        Some(key) => {
            let known = ctx.lister::<PersistentVolumeClaim>().get(&key);
            let known = known.filter(|claim| volume::is_promised_to(&volume, claim));
            // Past the cache: a volume whose claim is only late must not be given up.
            match known {
                None if !volume::is_over(&volume) => ctx.get_live(&key).await?,
                known => known,
            }
        }
    };
    match volume::plan(&volume, claim.as_deref()) {
        volume::Op::Nothing => {}
        volume::Op::Phase(phase) => update_phase(&ctx, &volume, phase, "").await?,
        volume::Op::Unbind(free) => {
            let free = ctx.update(free.as_ref()).await?;
            update_phase(&ctx, &free, "Available", "").await?;
        }
        volume::Op::Fail(event) => {
            event.tell(&ctx, volume.as_ref());
            update_phase(&ctx, &volume, "Failed", &event.message).await?;
        }
    }
    Ok(Action::Done)
}

async fn update_phase(
    ctx: &Ctx,
    volume: &PersistentVolume,
    phase: &str,
    message: &str,
) -> Result<()> {
    if matching::phase(volume) == phase {
        return Ok(());
    }
    let mut volume = volume.clone();
    let status = volume.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = (!message.is_empty()).then(|| message.to_owned());
    ctx.update_status(&volume).await.map(drop)
}

async fn update_claim_status(
    ctx: &Ctx,
    claim: &PersistentVolumeClaim,
    wanted: k8s_openapi::api::core::v1::PersistentVolumeClaimStatus,
) -> Result<()> {
    if claim.status.as_ref() == Some(&wanted) {
        return Ok(());
    }
    let wanted = PersistentVolumeClaim { status: Some(wanted), ..claim.clone() };
    ctx.update_status(&wanted).await.map(drop)
}

/// What users are told of an object.
#[derive(Clone, Debug, PartialEq)]
struct Event {
    warning: bool,
    reason: &'static str,
    message: String,
}

// === impl Event ===

impl Event {
    fn normal(reason: &'static str, message: impl Into<String>) -> Event {
        Event { warning: false, reason, message: message.into() }
    }

    fn warning(reason: &'static str, message: impl Into<String>) -> Event {
        Event { warning: true, reason, message: message.into() }
    }

    fn tell<K: crate::runtime::Object>(&self, ctx: &Ctx, about: &K) {
        match self.warning {
            true => ctx.recorder.warning(about, self.reason, self.message.clone()),
            false => ctx.recorder.normal(about, self.reason, self.message.clone()),
        }
    }
}
