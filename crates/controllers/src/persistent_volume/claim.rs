//! What to do for a claim.
//!
//! A claim, all volumes and classes in -> one [`Op`] out. Counterpart: `syncUnboundClaim`, `syncBoundClaim`. Pure.
//! Invariant: a claim that was bound once is never given another volume; it is lost with its own.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::matching::{best, class_of_claim, is_enough, mismatch};
use super::volume::{is_promised_to, names};
use super::{BIND_COMPLETED, BOUND_BY_CONTROLLER, Event, PROVISIONERS, SELECTED_NODE};

const DEFAULT_CLASS: [&str; 2] = [
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

#[derive(Debug, PartialEq)]
pub enum Op {
    Bind(Arc<PersistentVolume>),
    /// Written as it is; the answer is looked at again.
    Update(Box<PersistentVolumeClaim>),
    Wait(Option<Event>),
    Lose(Event),
    /// A provisioner is asked, unless it was.
    Provision {
        changed: Option<Box<PersistentVolumeClaim>>,
        event: Event,
    },
}

pub fn plan(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> Op {
    let wanted = claim.spec.as_ref().and_then(|spec| spec.volume_name.as_deref());
    let wanted = wanted.unwrap_or_default();
    let volume = volumes.iter().find(|one| one.metadata.name.as_deref() == Some(wanted));
    match (is_bound(claim), wanted) {
        (true, "") => lose(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (true, _) => keep(claim, volume),
        (false, _) if claim.metadata.deletion_timestamp.is_some() => Op::Wait(None),
        (false, "") => find(claim, volumes, classes),
        (false, _) => volume.map_or(Op::Wait(None), |volume| take(claim, volume)),
    }
}

pub fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    annotation(claim, BIND_COMPLETED).is_some()
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    claim.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

fn lose(reason: &'static str, message: &str) -> Op {
    Op::Lose(Event::warning(reason, message))
}

fn keep(claim: &PersistentVolumeClaim, volume: Option<&Arc<PersistentVolume>>) -> Op {
    let Some(volume) = volume else {
        let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        return lose("ClaimLost", message);
    };
    let promise = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    match promise {
        Some(promise) if promise.uid != claim.metadata.uid => lose(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
        _ => Op::Bind(volume.clone()),
    }
}

/// The volume that the claim names.
fn take(claim: &PersistentVolumeClaim, volume: &Arc<PersistentVolume>) -> Op {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let is_free = volume.spec.as_ref().is_none_or(|spec| spec.claim_ref.is_none());
    if is_free {
        return match mismatch(volume, claim) {
            None => Op::Bind(volume.clone()),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                Op::Wait(Some(Event::warning("VolumeMismatch", message)))
            }
        };
    }
    match is_promised_to(volume, claim) {
        true => Op::Bind(volume.clone()),
        false => {
            let message = format!("volume {name:?} already bound to a different claim.");
            Op::Wait(Some(Event::warning("FailedBinding", message)))
        }
    }
}

/// Any volume that fits: one promised to the claim, else the best free one, else a new one.
fn find(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> Op {
    let fits = |volume: &&Arc<PersistentVolume>| {
        let both = volume.spec.as_ref().zip(claim.spec.as_ref());
        is_promised_to(volume, claim)
            && volume.metadata.deletion_timestamp.is_none()
            && both.is_some_and(|(offer, asked)| is_enough(offer, asked))
    };
    let promised = volumes.iter().find(fits);
    if let Some(volume) = promised {
        return Op::Bind(volume.clone());
    }
    let Some(class_name) = class_of_claim(claim) else {
        if let Some(default) = default_class(classes) {
            let mut changed = claim.clone();
            changed.spec.get_or_insert_default().storage_class_name = default.metadata.name.clone();
            return Op::Update(Box::new(changed));
        }
        return find_without_class(claim, volumes);
    };
    if class_name.is_empty() {
        return find_without_class(claim, volumes);
    }
    let class = classes.iter().find(|class| class.metadata.name.as_deref() == Some(class_name));
    let waits = class
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    // The scheduler promises volumes to claims that wait for it.
    if waits && annotation(claim, SELECTED_NODE).is_none() {
        let message = "waiting for first consumer to be created before binding";
        return Op::Wait(Some(Event::normal("WaitForFirstConsumer", message)));
    }
    match best(volumes, claim).filter(|_| !waits) {
        Some(volume) => Op::Bind(volume),
        None => provision(claim, class_name, class.map(AsRef::as_ref)),
    }
}

fn find_without_class(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Op {
    let none = "no persistent volumes available for this claim and no storage class is set";
    best(volumes, claim)
        .map_or_else(|| Op::Wait(Some(Event::normal("FailedBinding", none))), Op::Bind)
}

/// Of several, the newest.
fn default_class(classes: &[Arc<StorageClass>]) -> Option<&Arc<StorageClass>> {
    let is_default = |class: &&Arc<StorageClass>| {
        let annotations = class.metadata.annotations.as_ref();
        let is_set = |key: &&str| {
            annotations.and_then(|all| all.get(*key)).is_some_and(|value| value == "true")
        };
        DEFAULT_CLASS.iter().any(is_set)
    };
    let born = |class: &&Arc<StorageClass>| {
        let at = class.metadata.creation_timestamp.as_ref().map(|time| time.0);
        (at, std::cmp::Reverse(class.metadata.name.clone()))
    };
    classes.iter().filter(is_default).max_by_key(born)
}

fn provision(claim: &PersistentVolumeClaim, name: &str, class: Option<&StorageClass>) -> Op {
    let Some(class) = class else {
        let message = format!("storageclass.storage.k8s.io {name:?} not found");
        return Op::Wait(Some(Event::warning("ProvisioningFailed", message)));
    };
    let provisioner = &class.provisioner;
    if provisioner == NO_PROVISIONER {
        return Op::Wait(Some(Event::warning("ProvisioningFailed", "no volume plugin matched")));
    }
    let mut changed = claim.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    for key in PROVISIONERS {
        annotations.insert(key.to_owned(), provisioner.clone());
    }
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the \
         system administrator. If volume creation is delayed, please verify that the provisioner is running and \
         correctly registered."
    );
    let event = Event::normal("ExternalProvisioning", message);
    Op::Provision { changed: (changed != *claim).then(|| Box::new(changed)), event }
}

// --- what a claim becomes ---

/// With the name of its volume.
pub fn named(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut claim = claim.clone();
    let spec = claim.spec.get_or_insert_default();
    let annotations = claim.metadata.annotations.get_or_insert_default();
    if spec.volume_name.as_deref().unwrap_or_default().is_empty() {
        spec.volume_name = volume.metadata.name.clone();
        annotations.insert(BOUND_BY_CONTROLLER.into(), "yes".into());
    }
    annotations.entry(BIND_COMPLETED.into()).or_insert_with(|| "yes".into());
    debug_assert!(names(&claim, volume));
    claim
}

pub fn bound(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
) -> PersistentVolumeClaimStatus {
    let mut status = claim.status.clone().unwrap_or_default();
    let Some(spec) = &volume.spec else { return status };
    // Of a claim that is bound already it may lag behind on purpose, while a volume grows.
    if status.phase.as_deref() != Some("Bound") {
        let storage = spec.capacity.as_ref().and_then(|all| all.get("storage").cloned());
        status.capacity = storage.map(|size| [("storage".to_owned(), size)].into());
        status.current_volume_attributes_class_name =
            spec.volume_attributes_class_name.clone().filter(|name| !name.is_empty());
    }
    status.phase = Some("Bound".into());
    status.access_modes = spec.access_modes.clone();
    status
}

pub fn waiting(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimStatus {
    in_phase(claim, "Pending")
}

pub fn lost(claim: &PersistentVolumeClaim) -> PersistentVolumeClaimStatus {
    in_phase(claim, "Lost")
}

/// Without a volume there is nothing to say of one.
fn in_phase(claim: &PersistentVolumeClaim, phase: &str) -> PersistentVolumeClaimStatus {
    let status = claim.status.clone().unwrap_or_default();
    PersistentVolumeClaimStatus {
        phase: Some(phase.into()),
        access_modes: None,
        capacity: None,
        current_volume_attributes_class_name: None,
        ..status
    }
}
