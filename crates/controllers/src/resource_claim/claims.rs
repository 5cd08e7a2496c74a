//! Giving back: reservations of pods that are done, then the devices, then claims that were made for such a pod.
//!
//! A claim and which of its consumers are gone in -> `release` -> a status update, the finalizer taken off, a deletion.
//! Invariant: a consumer that is not a pod, or that the API server still knows, keeps its reservation.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};

use super::{FINALIZER, is_allocated, is_done, reserved_for};
use crate::runtime::{Action, Ctx, Key, Result, controller_of};

/// What is to be taken from a claim; the parts are written one after the other.
#[derive(Debug, Default, PartialEq)]
struct Release {
    /// The reservations that stay, when some go.
    reserved_for: Option<Vec<ResourceClaimConsumerReference>>,
    deallocate: bool,
    unlock: bool,
}

pub async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(claim) = ctx.lister::<ResourceClaim>().get(&key) else { return Ok(Action::Done) };
    let mut staying = Vec::new();
    for consumer in reserved_for(&claim) {
        if needs_it(&ctx, &key.namespace, consumer).await? {
            staying.push(consumer.clone());
        }
    }
    let release = release(&claim, staying);
    let claim = carry_out(&ctx, claim, release).await?;
    let leftover = reserved_for(&claim).is_empty() && was_for_a_pod_that_is_done(&ctx, &claim);
    if leftover && claim.metadata.deletion_timestamp.is_none() {
        match ctx.delete(claim.as_ref()).await {
            Err(error) if error.is_not_found() => {}
            outcome => outcome?,
        }
    }
    Ok(Action::Done)
}

/// The cache may not show a pod yet that the scheduler has just reserved the claim for.
async fn needs_it(
    ctx: &Ctx,
    namespace: &str,
    consumer: &ResourceClaimConsumerReference,
) -> Result<bool> {
    let is_pod = consumer.api_group.as_deref().unwrap_or_default().is_empty();
    if !is_pod || consumer.resource != "pods" {
        return Ok(true);
    }
    let key = Key::new(namespace, &consumer.name);
    let is_it = |pod: &Pod| pod.metadata.uid.as_deref() == Some(&*consumer.uid);
    match ctx.lister::<Pod>().get(&key) {
        Some(pod) => Ok(is_it(&pod) && !is_done(&pod)),
        None => Ok(ctx.get_live::<Pod>(&key).await?.is_some_and(|pod| is_it(&pod))),
    }
}

fn release(claim: &ResourceClaim, staying: Vec<ResourceClaimConsumerReference>) -> Release {
    let locked = claim.metadata.finalizers.iter().flatten().any(|one| one == FINALIZER);
    let unused = staying.is_empty();
    if staying.len() < reserved_for(claim).len() {
        let deallocate = unused && locked && is_allocated(claim);
        let unlock = locked && (deallocate || !is_allocated(claim));
        return Release { reserved_for: Some(staying), deallocate, unlock };
    }
    // A claim that a driver had allocated and nobody used can still be deleted.
    let going = claim.metadata.deletion_timestamp.is_some() && locked && unused;
    Release { reserved_for: None, deallocate: going && is_allocated(claim), unlock: going }
}

async fn carry_out(
    ctx: &Ctx,
    claim: Arc<ResourceClaim>,
    release: Release,
) -> Result<Arc<ResourceClaim>> {
    let Release { reserved_for, deallocate, unlock } = release;
    let mut claim = claim;
    if reserved_for.is_some() || deallocate {
        let mut changed = claim.as_ref().clone();
        let status = changed.status.get_or_insert_default();
        if let Some(staying) = reserved_for {
            status.reserved_for = Some(staying);
        }
        if deallocate {
            status.allocation = None;
        }
        claim = ctx.update_status(&changed).await?;
    }
    if unlock {
        let mut changed = claim.as_ref().clone();
        changed.metadata.finalizers.get_or_insert_default().retain(|one| one != FINALIZER);
        claim = ctx.update(&changed).await?;
    }
    Ok(claim)
}

/// A pod that the cache does not show may come yet; if it is gone, the garbage collector takes the claim.
fn was_for_a_pod_that_is_done(ctx: &Ctx, claim: &ResourceClaim) -> bool {
    let Some(owner) = controller_of(&claim.metadata) else { return false };
    if owner.kind != "Pod" || owner.api_version != "v1" {
        return false;
    }
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let pod = ctx.lister::<Pod>().get(&Key::new(namespace, &owner.name));
    pod.is_some_and(|pod| pod.metadata.uid.as_ref() != Some(&owner.uid) || is_done(&pod))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::yaml;

    #[track_caller]
    fn check(claim: &str, staying: &[&str], expected: &str) {
        let claim: ResourceClaim = yaml(claim);
        let stay = |one: &&ResourceClaimConsumerReference| staying.contains(&one.name.as_str());
        let staying = reserved_for(&claim).iter().filter(stay).cloned().collect();
        let release = release(&claim, staying);
        let kept = release.reserved_for.as_ref().map(|kept| format!("keep {}", kept.len()));
        let deeds = [
            kept,
            release.deallocate.then(|| "deallocate".to_owned()),
            release.unlock.then(|| "unlock".to_owned()),
        ];
        assert_eq!(deeds.into_iter().flatten().collect::<Vec<_>>().join(", "), expected);
    }

    #[test]
    fn devices_go_with_the_last_pod_and_the_claim_is_unlocked() {
        let claim = |meta: &str, status: &str| {
            let (a, b) = ("{resource: pods, name: a, uid: a}", "{resource: pods, name: b, uid: b}");
            let status = status.replace("A", a).replace("B", b);
            format!(
                "{{metadata: {{name: c, finalizers: [{FINALIZER}]{meta}}}, spec: {{}}, status: {{{status}}}}}"
            )
        };
        let both = claim("", "allocation: {}, reservedFor: [A, B]");
        check(&both, &["a", "b"], "");
        check(&both, &["b"], "keep 1");
        check(&both, &[], "keep 0, deallocate, unlock");
        check(&claim("", "reservedFor: [A]"), &[], "keep 0, unlock");
        check(&claim("", "allocation: {}"), &[], "");
        let going = ", deletionTimestamp: '2026-01-01T00:00:00Z'";
        check(&claim(going, "allocation: {}"), &[], "deallocate, unlock");
        check(&claim(going, "allocation: {}, reservedFor: [A]"), &["a"], "");
        check(
            "{metadata: {name: c}, spec: {}, status: {allocation: {}, reservedFor: [{resource: pods, name: a, uid: a}]}}",
            &[],
            "keep 0",
        );
    }
}
