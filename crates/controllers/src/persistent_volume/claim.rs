//! What should become of a claim: bound, told to wait, handed to a provisioner, or lost.
//!
//! A claim and what it could have in, both sides as they should be out. Counterpart: `syncClaim` of
//! `pkg/controller/volume/persistentvolume`. Pure. Invariant: the volume is promised before the claim says that it is bound,
//! and a claim whose binding was complete never gets another volume.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus,
};
use k8s_openapi::api::storage::v1::StorageClass;

use super::facts::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, PROVISIONERS, SELECTED_NODE, annotation, best_match,
    claim_class, claim_ref, claim_spec, is_promised_to, misfit, names_no_class, promised_uid,
    reference_of, volume_name, volume_spec, waits_for_consumer,
};

/// Its volumes are made by hand only.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// What a claim could have.
#[derive(Default)]
pub struct Observed {
    /// The volume that it names, if there is one.
    pub named: Option<Arc<PersistentVolume>>,
    /// All there are; only looked at while the claim names none.
    pub volumes: Vec<Arc<PersistentVolume>>,
    pub class: Option<Arc<StorageClass>>,
    /// The class of claims that name none.
    pub default_class: Option<String>,
    /// Names of pods that use the claim and have no node yet.
    pub waiting_pods: Vec<String>,
}

/// Both sides as they should be, and what to tell the claim's user.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub claim: PersistentVolumeClaim,
    pub volume: Option<PersistentVolume>,
    pub told: Option<Told>,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

pub fn plan(claim: &PersistentVolumeClaim, observed: &Observed) -> Plan {
    let complete = annotation(&claim.metadata, BIND_COMPLETED).is_some();
    match (complete, volume_name(claim)) {
        (true, None) => lost(
            claim,
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        ),
        (true, Some(_)) => keep(claim, observed.named.as_deref()),
        (false, Some(_)) => take_named(claim, observed.named.as_deref()),
        (false, None) => find(claim, observed),
    }
}

/// A binding that was complete.
fn keep(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Plan {
    match volume {
        None => lost(
            claim,
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        ),
        Some(volume)
            if claim_ref(volume).is_none()
                || promised_uid(volume) == claim.metadata.uid.as_deref() =>
        {
            bind(claim, volume)
        }
        Some(_) => lost(
            claim,
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        ),
    }
}

/// The user asked for this very volume.
fn take_named(claim: &PersistentVolumeClaim, volume: Option<&PersistentVolume>) -> Plan {
    let Some(volume) = volume else { return pending(claim, None) };
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    match claim_ref(volume) {
        None => match misfit(volume, claim) {
            None => bind(claim, volume),
            Some(why) => {
                let message = format!("Cannot bind to requested volume {name:?}: {why}");
                pending(claim, Some(Told::warning("VolumeMismatch", message)))
            }
        },
        Some(_) if is_promised_to(volume, claim) => bind(claim, volume),
        Some(_) => {
            let message = format!("volume {name:?} already bound to a different claim.");
            pending(claim, Some(Told::warning("FailedBinding", message)))
        }
    }
}

/// Any volume that fits will do, or else a new one.
fn find(claim: &PersistentVolumeClaim, observed: &Observed) -> Plan {
    let class = observed.class.as_deref();
    let waits = class.is_some_and(waits_for_consumer)
        && annotation(&claim.metadata, SELECTED_NODE).is_none();
    if let Some(volume) = best_match(claim, &observed.volumes, !waits) {
        return bind(claim, volume);
    }
    match class {
        None if names_no_class(claim) && observed.default_class.is_some() => {
            let mut claim = claim.clone();
            claim.spec.get_or_insert_default().storage_class_name = observed.default_class.clone();
            pending(&claim, None)
        }
        _ if waits => pending(claim, Some(wait_for_consumer(&observed.waiting_pods))),
        None if claim_class(claim).is_empty() => {
            let message =
                "no persistent volumes available for this claim and no storage class is set";
            pending(claim, Some(Told::normal("FailedBinding", message)))
        }
        None => {
            let message = format!("storageclass.storage.k8s.io {:?} not found", claim_class(claim));
            pending(claim, Some(Told::warning("ProvisioningFailed", message)))
        }
        Some(class) if class.provisioner == NO_PROVISIONER => {
            let message = "no provisionable volume plugin matched";
            pending(claim, Some(Told::warning("ProvisioningFailed", message)))
        }
        Some(class) => hand_over(claim, &class.provisioner),
    }
}

/// Names the provisioner that is to make the volume. It sees the claim, and promises its volume to it.
fn hand_over(claim: &PersistentVolumeClaim, provisioner: &str) -> Plan {
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
    );
    let mut plan = pending(claim, Some(Told::normal("ExternalProvisioning", message)));
    let annotations = plan.claim.metadata.annotations.get_or_insert_default();
    for key in PROVISIONERS {
        annotations.insert(key.to_owned(), provisioner.to_owned());
    }
    plan
}

fn wait_for_consumer(pods: &[String]) -> Told {
    match pods {
        [] => Told::normal(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ),
        [pod] => {
            Told::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled"))
        }
        pods => Told::normal(
            "WaitForPodScheduled",
            format!("waiting for pods {} to be scheduled", pods.join(",")),
        ),
    }
}

fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Plan {
    Plan { claim: bound(claim, volume), volume: Some(promised(volume, claim)), told: None }
}

/// The volume with the claim's whole identity in it.
fn promised(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> PersistentVolume {
    let mut volume = volume.clone();
    if promised_uid(&volume) == claim.metadata.uid.as_deref() {
        return volume;
    }
    if claim_ref(&volume).is_none() {
        mark(&mut volume.metadata.annotations, BOUND_BY_CONTROLLER);
    }
    volume.spec.get_or_insert_default().claim_ref = Some(reference_of(claim));
    volume
}

/// The claim with the volume as its own.
fn bound(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> PersistentVolumeClaim {
    let mut claim = claim.clone();
    if volume_name(&claim).is_none() {
        mark(&mut claim.metadata.annotations, BOUND_BY_CONTROLLER);
        claim.spec.get_or_insert_default().volume_name = volume.metadata.name.clone();
    }
    mark(&mut claim.metadata.annotations, BIND_COMPLETED);
    let offered = volume_spec(volume);
    let class = claim_spec(&claim).volume_attributes_class_name.clone();
    let status = claim.status.get_or_insert_default();
    // Later, expansion says what the capacity is, and modification what the class is.
    if status.phase.as_deref() != Some("Bound") {
        status.phase = Some("Bound".into());
        status.capacity = offered.capacity.clone();
        status.current_volume_attributes_class_name = class.filter(|class| !class.is_empty());
    }
    status.access_modes = offered.access_modes.clone();
    claim
}

fn pending(claim: &PersistentVolumeClaim, told: Option<Told>) -> Plan {
    let status =
        PersistentVolumeClaimStatus { phase: Some("Pending".into()), ..Default::default() };
    Plan {
        claim: PersistentVolumeClaim { status: Some(status), ..claim.clone() },
        volume: None,
        told,
    }
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Plan {
    let mut claim = claim.clone();
    let status = claim.status.get_or_insert_default();
    let news = status.phase.as_deref() != Some("Lost");
    *status = PersistentVolumeClaimStatus { phase: Some("Lost".into()), ..Default::default() };
    Plan { claim, volume: None, told: news.then(|| Told::warning(reason, message)) }
}

fn mark(annotations: &mut Option<std::collections::BTreeMap<String, String>>, key: &str) {
    annotations.get_or_insert_default().insert(key.to_owned(), "yes".to_owned());
}

// === impl Told ===

impl Told {
    fn normal(reason: &'static str, message: impl Into<String>) -> Told {
        Told { warning: false, reason, message: message.into() }
    }

    pub fn warning(reason: &'static str, message: impl Into<String>) -> Told {
        Told { warning: true, reason, message: message.into() }
    }
}
