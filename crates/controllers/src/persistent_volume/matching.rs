//! Which volume is fit for a claim.
//!
//! Counterpart: `FindMatchingVolume`, `checkVolumeSatisfyClaim`. Pure.
//! Invariant: of those that fit, the one with the fewest access modes and then the smallest is taken.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeSpec,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::core::{Selector, SelectorExt};
use skiff_api::quantity;

/// Class by annotation, from before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub fn phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// None if the claim leaves the choice to the cluster.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> Option<&str> {
    let old = claim.metadata.annotations.as_ref().and_then(|all| all.get(OLD_CLASS));
    let new = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    old.or(new).map(String::as_str)
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let old = volume.metadata.annotations.as_ref().and_then(|all| all.get(OLD_CLASS));
    let new = volume.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    old.or(new).map_or("", String::as_str)
}

/// Why a volume that a claim asks for by name is not fit for it.
pub fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<&'static str> {
    let (offer, asked) = (volume.spec.as_ref()?, claim.spec.as_ref()?);
    if size(offer) < requested(asked) {
        return Some("requested PV is too small");
    }
    if class_of_volume(volume) != class_of_claim(claim).unwrap_or("") {
        return Some("storageClassName does not match");
    }
    if !same_mode(offer, asked) {
        return Some("incompatible volumeMode");
    }
    if !same_attributes(offer, asked) {
        return Some("volumeAttributesClassName does not match");
    }
    (!offers_modes(offer, asked)).then_some("incompatible accessMode")
}

/// The best free volume.
pub fn best(
    volumes: &[Arc<PersistentVolume>],
    claim: &PersistentVolumeClaim,
) -> Option<Arc<PersistentVolume>> {
    let fits = |volume: &&Arc<PersistentVolume>| {
        let Some(spec) = &volume.spec else { return false };
        spec.claim_ref.is_none()
            && phase(volume) == "Available"
            && volume.metadata.deletion_timestamp.is_none()
            && mismatch(volume, claim).is_none()
            && selects(claim, volume)
    };
    let rank = |volume: &&Arc<PersistentVolume>| {
        let spec = volume.spec.as_ref();
        let modes = spec.and_then(|spec| spec.access_modes.as_ref()).map_or(0, Vec::len);
        (modes, spec.map_or(0, size), volume.metadata.name.clone())
    };
    volumes.iter().filter(fits).min_by_key(rank).cloned()
}

fn selects(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let Some(selector) = claim.spec.as_ref().and_then(|spec| spec.selector.clone()) else {
        return true;
    };
    let nothing = BTreeMap::new();
    let labels = volume.metadata.labels.as_ref().unwrap_or(&nothing);
    Selector::try_from(selector).is_ok_and(|selector| selector.matches(labels))
}

/// What even a volume that was promised to the claim must be.
pub fn is_enough(volume: &PersistentVolumeSpec, claim: &PersistentVolumeClaimSpec) -> bool {
    size(volume) >= requested(claim) && same_mode(volume, claim) && same_attributes(volume, claim)
}

fn same_mode(volume: &PersistentVolumeSpec, claim: &PersistentVolumeClaimSpec) -> bool {
    let mode = |mode: &Option<String>| mode.clone().unwrap_or_else(|| "Filesystem".into());
    mode(&volume.volume_mode) == mode(&claim.volume_mode)
}

fn same_attributes(volume: &PersistentVolumeSpec, claim: &PersistentVolumeClaimSpec) -> bool {
    let name = |name: &Option<String>| name.clone().unwrap_or_default();
    name(&volume.volume_attributes_class_name) == name(&claim.volume_attributes_class_name)
}

fn offers_modes(volume: &PersistentVolumeSpec, claim: &PersistentVolumeClaimSpec) -> bool {
    let offered = volume.access_modes.as_deref().unwrap_or_default();
    claim.access_modes.iter().flatten().all(|mode| offered.contains(mode))
}

fn size(volume: &PersistentVolumeSpec) -> i64 {
    bytes(volume.capacity.as_ref())
}

fn requested(claim: &PersistentVolumeClaimSpec) -> i64 {
    bytes(claim.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn bytes(all: Option<&BTreeMap<String, Quantity>>) -> i64 {
    let storage = all.and_then(|all| all.get("storage"));
    let quantity = storage.and_then(|text| text.0.parse::<quantity::Quantity>().ok());
    quantity.map_or(0, quantity::Quantity::units)
}
