//! Rolls a Deployment's pods from one template to the next, through one ReplicaSet per template.
//!
//! Deployment, its ReplicaSets and pods in -> the next steps of the rollout (`plan`) -> status with progress conditions.
//! Counterpart: `pkg/controller/deployment`. Each reconcile takes one step; the change it makes is what calls the next.
//! Invariant: no step lets available pods fall below `replicas - maxUnavailable` or total pods rise above
//! `replicas + maxSurge`.

mod plan;
mod replica_sets;
mod status;

use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;

use crate::claims;
use crate::pod;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result, controller_of};
use plan::Op;
use replica_sets::Rollout;

pub const DEF: ControllerDef = ControllerDef {
    name: "deployment-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<Deployment>();
        edges.owned::<ReplicaSet, Deployment>();
        edges.mapped::<ReplicaSet>(|caches, delta| claims::adopters(caches, delta, selects));
        // Recreate waits for the last old pod to be gone, and nothing else says when that is.
        edges.mapped::<Pod>(|caches, delta| {
            let pod = delta.latest();
            if delta.new.is_some_and(|pod| pod::is_active(pod)) {
                return Vec::new();
            }
            let Some(owner) =
                controller_of(&pod.metadata).filter(|owner| owner.kind == "ReplicaSet")
            else {
                return Vec::new();
            };
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let set = caches.store::<ReplicaSet>().get(&Key::new(namespace, &owner.name));
            let deployment = set.as_deref().and_then(|set| controller_of(&set.metadata));
            deployment.map(|owner| Key::new(namespace, &owner.name)).into_iter().collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(deployment) = ctx.lister::<Deployment>().get(&key) else { return Ok(Action::Done) };
    claim_sets(&ctx, &deployment).await?;
    let rollout = observe(&ctx, &deployment);
    if deployment.metadata.deletion_timestamp.is_none() {
        for op in plan::plan(&rollout, ctx.now()) {
            apply(&ctx, &deployment, op).await?;
        }
    }
    // The steps changed what is there, and perhaps the Deployment's own annotations.
    let Some(deployment) = ctx.lister::<Deployment>().get(&key) else { return Ok(Action::Done) };
    let rollout = observe(&ctx, &deployment);
    let now = ctx.now();
    let status = status::status(&rollout, now);
    if deployment.status.as_ref() != Some(&status) {
        ctx.update_status(&Deployment {
            status: Some(status.clone()),
            ..deployment.as_ref().clone()
        })
        .await?;
    }
    Ok(status::next_look(&rollout, &status, now))
}

async fn claim_sets(ctx: &Ctx, deployment: &Deployment) -> Result<()> {
    let candidates = claims::candidates::<Deployment, ReplicaSet>(ctx, deployment);
    let selected = |set: &ReplicaSet| selects(deployment, set);
    claims::settle(ctx, deployment, claims::claims(deployment, &candidates, selected, |_| true))
        .await
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let selector = deployment.spec.as_ref().and_then(|spec| claims::selector(&spec.selector));
    claims::selects(selector.as_ref(), &set.metadata)
}

fn observe(ctx: &Ctx, deployment: &Arc<Deployment>) -> Rollout {
    let sets = claims::dependents::<Deployment, ReplicaSet>(ctx, deployment);
    let pods = ctx.lister::<Pod>();
    let live_pods = |set: &ReplicaSet| {
        let pods = pods.owned_by(set.metadata.uid.as_deref().unwrap_or_default());
        pods.iter().any(|pod| !pod::is_terminal(pod))
    };
    let old_pods_running = sets
        .iter()
        .filter(|set| !replica_sets::same_template(deployment, set))
        .any(|set| live_pods(set));
    Rollout::new(deployment.clone(), sets, old_pods_running)
}

async fn apply(ctx: &Ctx, deployment: &Deployment, op: Op) -> Result<()> {
    match op {
        Op::Create(set) => create(ctx, deployment, *set).await,
        Op::Update(set) => ctx.update(set.as_ref()).await.map(drop),
        Op::Scale { set, from, to } => scale(ctx, deployment, *set, from, to).await,
        Op::Delete(set) => match ctx.delete(set.as_ref()).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        },
        Op::SetRevision(revision) => {
            let mut shown = deployment.clone();
            let annotations = shown.metadata.annotations.get_or_insert_default();
            annotations.insert(replica_sets::REVISION.into(), revision.to_string());
            ctx.update(&shown).await.map(drop)
        }
    }
}

async fn create(ctx: &Ctx, deployment: &Deployment, set: ReplicaSet) -> Result<()> {
    match ctx.create(&set).await {
        Ok(created) => {
            if let Some(to) = created
                .spec
                .as_ref()
                .and_then(|spec| spec.replicas)
                .filter(|replicas| *replicas > 0)
            {
                let name = created.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Scaled up replica set {name} from 0 to {to}");
                ctx.recorder.normal(deployment, "ScalingReplicaSet", message);
            }
            Ok(())
        }
        Err(error) if error.status_code() == Some(409) => {
            resolve_collision(ctx, deployment, &set, error).await
        }
        Err(error) => {
            if !error.namespace_terminating() {
                let message = format!(
                    "Failed to create new replica set {:?}: {}",
                    Key::of(&set).name,
                    error.message()
                );
                ctx.recorder.warning(deployment, "ReplicaSetCreateError", message);
            }
            Err(error)
        }
    }
}

/// The name is taken: by our own ReplicaSet that the cache has not shown yet, or by another template with this hash.
async fn resolve_collision(
    ctx: &Ctx,
    deployment: &Deployment,
    set: &ReplicaSet,
    taken: Error,
) -> Result<()> {
    let key = Key::of(set);
    let api = kube::Api::<ReplicaSet>::namespaced(ctx.client.clone(), &key.namespace);
    let present = api
        .get(&key.name)
        .await
        .map_err(|source| Error::Read { what: format!("replica set {key}"), source })?;
    let ours = claims::is_controlled_by(deployment, &present.metadata);
    if ours && replica_sets::same_template(deployment, &present) {
        return Err(taken);
    }
    let mut status = deployment.status.clone().unwrap_or_default();
    status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
    ctx.update_status(&Deployment { status: Some(status), ..deployment.clone() }).await?;
    Err(taken)
}

async fn scale(
    ctx: &Ctx,
    deployment: &Deployment,
    set: ReplicaSet,
    from: i32,
    to: i32,
) -> Result<()> {
    ctx.update(&set).await?;
    if from != to {
        let direction = if from < to { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        ctx.recorder.normal(deployment, "ScalingReplicaSet", message);
    }
    Ok(())
}
