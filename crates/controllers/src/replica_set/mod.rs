//! Keeps as many pods of one template running as a ReplicaSet or a ReplicationController asks for.
//!
//! A set and the pods of its namespace in -> claims, creates, deletes -> status.
//! Counterpart: `pkg/controller/replicaset` and `pkg/controller/replication`. Differs from upstream: no expectations
//! ledger; the shared cache already shows our own writes (see `runtime::store`).
//! Invariant: a pod is only deleted while this set is its controller.

mod kinds;
mod plan;
mod status;
#[cfg(test)]
mod testing;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{Pod, ReplicationController};

use crate::claims;
use crate::pod;
use crate::pod_control::{create_pods, delete_pods, pod_from_template};
use crate::runtime::{Action, ControllerDef, Ctx, Edges, Error, Key, Result, controller_of};
use kinds::Replicated;
use plan::Scale;

pub const DEF: ControllerDef = def::<ReplicaSet>("replicaset-controller");
pub const REPLICATION_CONTROLLER: ControllerDef =
    def::<ReplicationController>("replication-controller");

const fn def<K: Replicated>(name: &'static str) -> ControllerDef {
    ControllerDef {
        name,
        workers: 5,
        watches: watches::<K>,
        reconcile: |ctx, key| reconcile::<K>(ctx, key).boxed(),
    }
}

fn watches<K: Replicated>(edges: &mut Edges) {
    edges.primary::<K>();
    edges.owned::<Pod, K>();
    edges.mapped::<Pod>(|caches, delta| claims::adopters(caches, delta, selects::<K>));
}

async fn reconcile<K: Replicated>(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(set) = ctx.lister::<K>().get(&key) else {
        return Ok(Action::Done);
    };
    let set = set.as_ref();
    let mut pods = claim_pods(&ctx, set).await?;
    let mut failure = None;
    if let Some(scale) = plan::scale(set, &pods, || siblings(&ctx, set)) {
        failure = apply(&ctx, set, scale).await.err();
        pods = claims::dependents(&ctx, set);
    }
    let now = ctx.now();
    let mut told = set.clone();
    told.set_status(status::status(set, &pods, failure.as_ref(), now));
    if told != *set {
        ctx.update_status(&told).await?;
    }
    match failure {
        Some(error) if !error.namespace_terminating() => Err(error),
        _ => Ok(status::next_look(set, &pods, now)),
    }
}

/// Adopts and releases; gives the set's pods as they are then.
async fn claim_pods<K: Replicated>(ctx: &Ctx, set: &K) -> Result<Vec<Arc<Pod>>> {
    let selector = set.selector();
    let selected = |pod: &Pod| claims::selects(selector.as_ref(), &pod.metadata);
    let mut candidates = claims::candidates(ctx, set);
    let claims = claims::claims(set, &candidates, selected, pod::is_active);
    if claims.is_empty() {
        candidates.retain(|pod| claims::is_controlled_by(set, &pod.metadata));
        return Ok(candidates);
    }
    claims::settle(ctx, set, claims).await?;
    Ok(claims::dependents(ctx, set))
}

fn selects<K: Replicated>(set: &K, pod: &Pod) -> bool {
    claims::selects(set.selector().as_ref(), &pod.metadata)
}

/// Every pod of the sets of the same owner: where they run decides which of ours goes first.
fn siblings<K: Replicated>(ctx: &Ctx, set: &K) -> Vec<Arc<Pod>> {
    let Some(owner) = controller_of(set.meta()) else {
        return claims::dependents(ctx, set);
    };
    let sets = ctx.lister::<K>().owned_by(&owner.uid);
    sets.iter().flat_map(|sibling| claims::dependents(ctx, sibling.as_ref())).collect()
}

async fn apply<K: Replicated>(ctx: &Ctx, set: &K, scale: Scale) -> Result<()> {
    match scale {
        Scale::Create(count) => {
            let template = set
                .template()
                .ok_or_else(|| Error::Invalid(format!("{} without a template", K::kind(&()))))?;
            create_pods(ctx, set, vec![pod_from_template(template, set); count]).await
        }
        Scale::Delete(pods) => delete_pods(ctx, set, pods).await,
    }
}
