//! What to do for a volume.
//!
//! A volume and the claim it is promised to in -> one [`Op`] out. Counterpart: `syncVolume`. Pure.
//! Invariant: a volume whose claim is gone is never given to another claim by itself.

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim};

use super::matching::phase;
use super::{BOUND_BY_CONTROLLER, Event, PROVISIONED_BY};
use crate::runtime::Key;

#[derive(Debug, PartialEq)]
pub enum Op {
    Nothing,
    Phase(&'static str),
    /// The claim is bound to another volume.
    Unbind(Box<PersistentVolume>),
    Fail(Event),
}

pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Op {
    let Some(promise) = promise(volume) else { return Op::Phase("Available") };
    // Reserved by its maker for a claim that may come.
    if promise.uid.as_deref().unwrap_or_default().is_empty() {
        return Op::Phase("Available");
    }
    let Some(claim) = claim.filter(|claim| is_promised_to(volume, claim)) else {
        return release(volume);
    };
    match claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref()).unwrap_or_default() {
        // The claim finishes this.
        "" => Op::Nothing,
        _ if names(claim, volume) => Op::Phase("Bound"),
        _ if annotation(volume, PROVISIONED_BY) && policy(volume) == "Delete" => release(volume),
        _ => Op::Unbind(Box::new(freed(volume))),
    }
}

fn promise(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// The claim a volume is bound to; a reservation is not looked after.
pub fn claim_key(volume: &PersistentVolume) -> Option<Key> {
    let promise = promise(volume)?;
    promise.uid.as_ref().filter(|uid| !uid.is_empty())?;
    Some(Key::new(promise.namespace.clone()?, promise.name.clone()?))
}

pub fn is_promised_to(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    promise(volume).is_some_and(|promise| {
        let uid = promise.uid.as_deref().unwrap_or_default();
        promise.name == claim.metadata.name
            && promise.namespace == claim.metadata.namespace
            && (uid.is_empty() || claim.metadata.uid.as_deref() == Some(uid))
    })
}

pub fn names(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let name = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_ref());
    name.is_some() && name == volume.metadata.name.as_ref()
}

/// Its claim was found missing before.
pub fn is_over(volume: &PersistentVolume) -> bool {
    matches!(phase(volume), "Released" | "Failed")
}

fn annotation(volume: &PersistentVolume, key: &str) -> bool {
    volume.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(key))
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// First it is Released for all to see; then whoever provisioned it deletes it, or nobody can.
fn release(volume: &PersistentVolume) -> Op {
    if !is_over(volume) {
        return Op::Phase("Released");
    }
    let is_external =
        annotation(volume, PROVISIONED_BY) || volume.spec.as_ref().is_some_and(|s| s.csi.is_some());
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match (phase(volume), policy(volume)) {
        ("Released", "Recycle") => Op::Fail(Event::warning(
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!",
        )),
        ("Released", "Delete") if !is_external => {
            let message = format!(
                "error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched"
            );
            Op::Fail(Event::warning("VolumeFailedDelete", message))
        }
        _ => Op::Nothing,
    }
}

/// A promise of ours is taken back whole; of one that its maker gave, the reservation stays.
fn freed(volume: &PersistentVolume) -> PersistentVolume {
    let mut volume = volume.clone();
    let ours = annotation(&volume, BOUND_BY_CONTROLLER);
    let spec = volume.spec.get_or_insert_default();
    if !ours {
        spec.claim_ref.get_or_insert_default().uid = None;
        return volume;
    }
    spec.claim_ref = None;
    if let Some(annotations) = &mut volume.metadata.annotations {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    volume
}

/// With its claim.
pub fn promised(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut volume = volume.clone();
    let spec = volume.spec.get_or_insert_default();
    let known = spec.claim_ref.as_ref();
    if known.is_some_and(|promise| promise.uid == claim.metadata.uid) {
        return volume;
    }
    if known.is_none() {
        let annotations = volume.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    spec.claim_ref = Some(ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("PersistentVolumeClaim".into()),
        name: claim.metadata.name.clone(),
        namespace: claim.metadata.namespace.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        uid: claim.metadata.uid.clone(),
        field_path: None,
    });
    volume
}
