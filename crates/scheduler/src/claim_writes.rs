//! What the scheduler writes about devices: allocations and reservations into claims, and taking them back.
//!
//! Counterpart: `bindClaim`, Unreserve and PostFilter of `plugins/dynamicresources`. A claim is read anew and written as a
//! whole, so that what happened to it meanwhile is never overwritten.
//! Invariant: an allocated claim has the finalizer that keeps it, before it says so.

use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

use crate::api_writes::Writer;
use crate::devices::Reservation;
use crate::pod_info::PodInfo;

const FINALIZER: &str = "resource.kubernetes.io/delete-protection";

/// How often a claim is read anew when somebody else wrote it at the same time.
const TRIES: usize = 5;

#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error("{doing} claim {claim}: {source}")]
    Api { doing: &'static str, claim: String, source: Box<kube::Error> },
    #[error("claim {claim} got {what} in the meantime")]
    Meanwhile { claim: String, what: &'static str },
}

// === impl Writer ===

impl Writer {
    /// Enters the pod, and the devices if there are new ones, into the claim.
    pub async fn reserve(
        &self,
        pod: &PodInfo,
        reservation: &Reservation,
        now: Timestamp,
    ) -> Result<(), ClaimError> {
        let mut tries = 1;
        loop {
            match self.try_reserve(pod, reservation, now).await {
                Err(ClaimError::Api { source, .. }) if tries < TRIES && is_conflict(&source) => {
                    tries += 1;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_reserve(
        &self,
        pod: &PodInfo,
        reservation: &Reservation,
        now: Timestamp,
    ) -> Result<(), ClaimError> {
        let name = format!("{}/{}", reservation.namespace, reservation.claim);
        let failed = |doing| {
            let claim = name.clone();
            move |source| ClaimError::Api { doing, claim, source: Box::new(source) }
        };
        let _permit = self.permit().await;
        let api = Api::<ResourceClaim>::namespaced(self.client(), &reservation.namespace);
        let mut claim = api.get(&reservation.claim).await.map_err(failed("get"))?;
        if let Some(what) = happened(&claim, reservation) {
            return Err(ClaimError::Meanwhile { claim: name, what });
        }
        let locked = claim.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER);
        if reservation.allocation.is_some() && !locked {
            claim.metadata.finalizers.get_or_insert_default().push(FINALIZER.into());
            let replaced = api.replace(&reservation.claim, &PostParams::default(), &claim).await;
            claim = replaced.map_err(failed("add finalizer to"))?;
        }
        enter(&mut claim, pod, reservation, now);
        let doing = match reservation.allocation {
            Some(_) => "add allocation and reservation to",
            None => "add reservation to",
        };
        let params = PostParams::default();
        let written = api.replace_status(&reservation.claim, &params, &claim).await;
        written.map(drop).map_err(failed(doing))
    }

    /// Takes the pod out of the claim; the devices stay the claim's.
    pub async fn unreserve(&self, pod: &PodInfo, claim: &str) -> Result<(), kube::Error> {
        let _permit = self.permit().await;
        let gone = json!({"$patch": "delete", "uid": pod.uid});
        let patch = json!({"status": {"reservedFor": [gone]}});
        let api = Api::<ResourceClaim>::namespaced(self.client(), &pod.namespace);
        let params = PatchParams::default();
        api.patch_status(claim, &params, &Patch::Strategic(patch)).await.map(drop)
    }

    /// Takes its devices from a claim that nobody but perhaps the pod uses.
    pub async fn deallocate(&self, pod: &PodInfo, claim: &str) -> Result<(), kube::Error> {
        let _permit = self.permit().await;
        let api = Api::<ResourceClaim>::namespaced(self.client(), &pod.namespace);
        let mut found = api.get(claim).await?;
        let status = found.status.get_or_insert_default();
        if status.reserved_for.iter().flatten().any(|consumer| consumer.uid != pod.uid) {
            return Ok(());
        }
        *status = Default::default();
        api.replace_status(claim, &PostParams::default(), &found).await.map(drop)
    }
}

/// What happened to the claim since the node was chosen, if the choice does not hold any more.
fn happened(claim: &ResourceClaim, reservation: &Reservation) -> Option<&'static str> {
    let allocated = claim.status.as_ref().is_some_and(|status| status.allocation.is_some());
    let same = claim.metadata.uid.as_ref() == Some(&reservation.uid);
    if !same || claim.metadata.deletion_timestamp.is_some() {
        return Some("deleted");
    }
    match (&reservation.allocation, allocated) {
        (Some(_), true) => Some("allocated elsewhere"),
        (None, false) => Some("deallocated elsewhere"),
        _ => None,
    }
}

fn enter(claim: &mut ResourceClaim, pod: &PodInfo, reservation: &Reservation, now: Timestamp) {
    let status = claim.status.get_or_insert_default();
    if let Some(allocation) = &reservation.allocation {
        status.allocation = Some(allocation.clone());
    }
    if let Some(allocation) = &mut status.allocation {
        allocation.allocation_timestamp.get_or_insert(Time(now));
    }
    let consumers = status.reserved_for.get_or_insert_default();
    if consumers.iter().all(|one| one.uid != pod.uid) {
        consumers.push(ResourceClaimConsumerReference {
            api_group: None,
            resource: "pods".into(),
            name: pod.name.clone(),
            uid: pod.uid.clone(),
        });
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}
