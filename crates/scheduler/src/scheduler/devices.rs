//! Devices of claims between the choice of a node and the claim that says so: counted at once, written beside the task,
//! given back when it comes to nothing.
//!
//! Counterpart: Reserve, Unreserve and the in-flight allocations of `plugins/dynamicresources`.
//! Invariant: a chosen device counts as taken until its claim is seen to have it, or never will.

use std::sync::Arc;

use tokio::time::Instant;

use super::Scheduler;
use crate::devices::{ClaimInfo, Reservation};
use crate::framework::ClusterEvent;
use crate::informer::Change;
use crate::listers::{Allocating, Key, Listed};
use crate::pod_info::PodInfo;

impl Scheduler {
    pub(super) fn apply_resource_claims(&mut self, change: Change<Listed<ClaimInfo>>) {
        let told = told(&self.listers.resource_claims, &change);
        if matches!(change, Change::Replaced(_)) {
            self.complete.insert("ResourceClaim".into());
        }
        self.listers.resource_claims.apply(change);
        self.listers.settle_allocating();
        let now = Instant::now();
        self.queue.look_at_gated(&self.listers, now);
        for ((namespace, name), frees) in &told {
            let event = ClusterEvent::ResourceClaim { namespace, name, frees: *frees };
            self.queue.happened(&event, now);
        }
    }

    /// Counts the chosen devices as taken.
    pub(super) fn take_devices(&mut self, reservations: &[Reservation]) {
        for reservation in reservations.iter().filter(|one| one.allocation.is_some()) {
            let key = (reservation.namespace.clone(), reservation.claim.clone());
            let (claim, devices) = (reservation.uid.clone(), reservation.devices.clone());
            self.listers.allocating.insert(key, Allocating { claim, devices });
        }
    }

    /// The pod will not be bound: its claims are free for others, and what was only chosen is not taken any more.
    pub(super) fn give_back_devices(&mut self, pod: &Arc<PodInfo>) {
        for claim in pod.device_claims.iter().filter_map(|entry| entry.claim()) {
            let key = (pod.namespace.clone(), claim.to_owned());
            self.listers.allocating.remove(&key);
            let (writer, pod, claim) = (self.writer.clone(), pod.clone(), claim.to_owned());
            tokio::spawn(async move {
                if let Err(error) = writer.unreserve(&pod, &claim).await {
                    tracing::debug!(namespace = pod.namespace, claim, %error, "claim stays reserved");
                }
            });
        }
    }

    /// Has a claim's devices taken from it; when that is heard, the pod is tried again.
    pub(super) fn deallocate(&self, pod: &Arc<PodInfo>, (_, claim): Key) {
        let (writer, pod) = (self.writer.clone(), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = writer.deallocate(&pod, &claim).await {
                tracing::debug!(namespace = pod.namespace, claim, %error, "claim stays allocated");
            }
        });
    }
}

/// Which claims changed, and whether others than those who name them may gain by it.
fn told(
    known: &crate::listers::Lister<ClaimInfo>,
    change: &Change<Listed<ClaimInfo>>,
) -> Vec<(Key, bool)> {
    let allocated = |claim: &ClaimInfo| claim.allocation.is_some();
    let was_allocated = |key: &Key| known.get(&key.0, &key.1).is_some_and(allocated);
    match change {
        Change::Set(listed) => {
            let frees = was_allocated(&listed.key) && !allocated(&listed.facts);
            vec![(listed.key.clone(), frees)]
        }
        Change::Deleted(listed) => vec![(listed.key.clone(), was_allocated(&listed.key))],
        Change::Replaced(all) => all.iter().map(|listed| (listed.key.clone(), true)).collect(),
    }
}
