//! What should become of a volume: available, bound, released, or free of a promise that nobody keeps.
//!
//! A volume and the claim it is promised to in, the volume as it should be out. Counterpart: `syncVolume` of
//! `pkg/controller/volume/persistentvolume`. Pure. Invariant: a volume that belonged to a claim is never handed to another
//! one by itself: it stays Released until it is reclaimed.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PersistentVolumeStatus};

use super::claim::Told;
use super::facts::{
    BOUND_BY_CONTROLLER, PROVISIONED_BY, annotation, claim_ref, promised_uid, reclaim_policy,
    volume_name, volume_phase, volume_spec,
};

/// The volume as it should be, and what to tell about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub volume: PersistentVolume,
    pub told: Option<Told>,
}

/// `claim` is the one that the volume's promise names, whatever its uid.
pub fn plan(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Plan {
    let Some(uid) = promised_uid(volume) else { return phase(volume, "Available") };
    let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid));
    match claim.map(volume_name) {
        None => released(volume),
        // The claim's side is being written, or a volume of another mode keeps it from being.
        Some(None) => Plan { volume: volume.clone(), told: None },
        Some(Some(name)) if Some(name) == volume.metadata.name.as_deref() => phase(volume, "Bound"),
        Some(Some(_)) if is_throwaway(volume) => released(volume),
        Some(Some(_)) => free(volume),
    }
}

/// Made for its claim alone, and to be deleted after it.
fn is_throwaway(volume: &PersistentVolume) -> bool {
    annotation(&volume.metadata, PROVISIONED_BY).is_some() && reclaim_policy(volume) == "Delete"
}

/// The claim is gone: what happens to the data is the policy's to say, and a provisioner's to do.
fn released(volume: &PersistentVolume) -> Plan {
    let provisioned = annotation(&volume.metadata, PROVISIONED_BY).is_some();
    let foreign = volume_spec(volume).csi.is_some();
    match reclaim_policy(volume) {
        "Delete" if !provisioned && !foreign => {
            let why = "error getting deleter volume plugin: no deletable volume plugin matched";
            failed(volume, "VolumeFailedDelete", why)
        }
        "Recycle" => {
            failed(volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
        }
        _ if volume_phase(volume) == "Failed" => Plan { volume: volume.clone(), told: None },
        _ => phase(volume, "Released"),
    }
}

fn failed(volume: &PersistentVolume, reason: &'static str, why: &str) -> Plan {
    if volume_phase(volume) == "Failed" {
        return Plan { volume: volume.clone(), told: None };
    }
    let mut plan = phase(volume, "Failed");
    let status = plan.volume.status.get_or_insert_default();
    (status.reason, status.message) = (Some(reason.to_owned()), Some(why.to_owned()));
    Plan { told: Some(Told::warning(reason, why)), ..plan }
}

/// Takes back a promise whose claim chose another volume; what its user wrote of it stays.
fn free(volume: &PersistentVolume) -> Plan {
    let mut volume = volume.clone();
    let ours = annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_some();
    if let Some(annotations) = volume.metadata.annotations.as_mut() {
        annotations.remove(BOUND_BY_CONTROLLER);
    }
    let spec = volume.spec.get_or_insert_default();
    if ours {
        spec.claim_ref = None;
    } else if let Some(to) = spec.claim_ref.as_mut() {
        (to.uid, to.resource_version) = (None, None);
    }
    phase(&volume, "Available")
}

fn phase(volume: &PersistentVolume, phase: &str) -> Plan {
    let mut volume = volume.clone();
    if volume_phase(&volume) != phase {
        let before = volume.status.take().unwrap_or_default();
        volume.status = Some(PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            last_phase_transition_time: before.last_phase_transition_time,
            ..PersistentVolumeStatus::default()
        });
    }
    Plan { volume, told: None }
}

/// The claim that the volume is promised to.
pub fn claim_key(volume: &PersistentVolume) -> Option<crate::runtime::Key> {
    let to = claim_ref(volume)?;
    Some(crate::runtime::Key::new(to.namespace.as_deref()?, to.name.as_deref()?))
}
