//! Keeps one pod on every node that a DaemonSet is for.
//!
//! A DaemonSet, the nodes, its pods and revisions in -> `plan` -> creates and deletes -> status.
//! Counterpart: `pkg/controller/daemon`. Differs from upstream: two revisions of one template are not made one.
//! Invariant: heartbeats of nodes cost nothing; only their labels, taints and names matter.

mod back_off;
mod nodes;
mod plan;
mod status;
#[cfg(test)]
mod tests;
mod update;

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::claims;
use crate::history::{self, REVISION_LABEL};
use crate::pod;
use crate::pod_control::{BURST, create_pods, delete_pods};
use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Key, Result};
use back_off::{FailedPods, Place};
use nodes::{fit, new_pod, node_of, spec, taints};
use plan::{Observed, Plan};

pub const DEF: ControllerDef = ControllerDef {
    name: "daemon-set-controller",
    workers: 2,
    watches: |edges| {
        edges.primary::<DaemonSet>();
        edges.owned::<Pod, DaemonSet>();
        edges.mapped::<Pod>(|caches, delta| claims::adopters(caches, delta, selects));
        edges.owned::<ControllerRevision, DaemonSet>();
        edges.mapped::<Node>(sets_of_node);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

fn sets_of_node(caches: &Caches, delta: &Delta<Node>) -> Vec<Key> {
    if let (Some(old), Some(new)) = (delta.old, delta.new)
        && old.metadata.labels == new.metadata.labels
        && taints(old) == taints(new)
    {
        return Vec::new();
    }
    caches.store::<DaemonSet>().all().iter().map(|set| Key::of(set.as_ref())).collect()
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(set) = ctx.lister::<DaemonSet>().get(&key) else { return Ok(Action::Done) };
    if set.metadata.deletion_timestamp.is_some() {
        return Ok(Action::Done);
    }
    let candidates = claims::candidates::<DaemonSet, Pod>(&ctx, &set);
    let claims = claims::claims(set.as_ref(), &candidates, |pod| selects(&set, pod), |_| true);
    claims::settle(&ctx, set.as_ref(), claims).await?;
    let revisions = Revisions::of(&ctx, &set).await?;
    let hash = &revisions.hash;
    let (seen, _) = observe(&ctx, &set, hash);
    let outcome = carry_out(&ctx, &set, hash, plan::plan(&seen)).await;
    let (seen, retry) = observe(&ctx, &set, hash);
    let mut status = status::status(&seen, revisions.collisions);
    if outcome.is_err() {
        // The spec is not observed before what it asks for could be done.
        status.observed_generation = set.status.as_ref().and_then(|old| old.observed_generation);
    }
    if set.status.as_ref() != Some(&status) {
        ctx.update_status(&DaemonSet { status: Some(status), ..set.as_ref().clone() }).await?;
    }
    outcome?;
    truncate(&ctx, &seen, &revisions.all).await?;
    let wait: Option<Duration> = [retry, status::next_available(&seen)].into_iter().flatten().min();
    Ok(wait.map_or(Action::Done, Action::After))
}

fn selects(set: &DaemonSet, pod: &Pod) -> bool {
    claims::selects(claims::selector(&spec(set).selector).as_ref(), &pod.metadata)
}

/// The revisions of a set, and the hash of the present one.
struct Revisions {
    all: Vec<Arc<ControllerRevision>>,
    hash: String,
    collisions: i32,
}

// === impl Revisions ===

impl Revisions {
    async fn of(ctx: &Ctx, set: &DaemonSet) -> Result<Revisions> {
        let selector = claims::selector(&spec(set).selector);
        let selected =
            |revision: &ControllerRevision| claims::selects(selector.as_ref(), &revision.metadata);
        let all = history::revisions(ctx, set, selected).await?;
        let status = set.status.as_ref();
        let mut collisions = status.and_then(|status| status.collision_count).unwrap_or(0);
        let template = &spec(set).template;
        let current =
            history::current(ctx, set, template, &all, REVISION_LABEL, &mut collisions).await?;
        Ok(Revisions { all, hash: hash_of(&current).to_owned(), collisions })
    }
}

fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(REVISION_LABEL)).map(String::as_str).unwrap_or_default()
}

/// What there is, and when a node may be tried again.
fn observe(ctx: &Ctx, set: &Arc<DaemonSet>, hash: &str) -> (Observed, Option<Duration>) {
    let now = ctx.now();
    let pods = claims::dependents::<DaemonSet, Pod>(ctx, set);
    let mut seen = Observed::new(set.clone(), hash.to_owned(), pods, now);
    let nodes = ctx.lister::<Node>().all();
    seen.nodes = nodes.iter().map(|node| (Key::of(node.as_ref()).name, fit(set, node))).collect();
    let uid = set.metadata.uid.as_deref().unwrap_or_default();
    let generation = set.metadata.generation.unwrap_or(0);
    let (waiting, retry) = ctx.memory::<FailedPods>().waiting(uid, generation, now);
    seen.waiting = waiting;
    (seen, retry)
}

async fn truncate(ctx: &Ctx, seen: &Observed, revisions: &[Arc<ControllerRevision>]) -> Result<()> {
    let limit = spec(&seen.set).revision_history_limit;
    let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else { return Ok(()) };
    let in_use = |revision: &ControllerRevision| {
        let hash = hash_of(revision);
        let mut labels =
            seen.pods.values().flatten().filter_map(|pod| pod.metadata.labels.as_ref());
        labels.any(|labels| labels.get(REVISION_LABEL).is_some_and(|label| label == hash))
    };
    let is_current = |revision: &ControllerRevision| hash_of(revision) == seen.hash;
    // Old revisions in use count against the limit.
    let kept =
        revisions.iter().filter(|revision| !is_current(revision) && in_use(revision)).count();
    let is_live = |revision: &ControllerRevision| is_current(revision) || in_use(revision);
    let excess = history::superfluous(revisions, is_live, limit.saturating_sub(kept));
    history::delete_all(ctx, excess).await
}

// === deeds ===

async fn carry_out(ctx: &Ctx, set: &Arc<DaemonSet>, hash: &str, plan: Plan) -> Result<()> {
    for pod in &plan.ended {
        tell_of_end(ctx, set, pod);
    }
    let mut deletes: Vec<_> = plan.ended.into_iter().chain(plan.delete).collect();
    deletes.truncate(BURST);
    let creates = plan.create.iter().take(BURST).map(|node| new_pod(set, hash, node)).collect();
    let created = create_pods(ctx, set.as_ref(), creates).await;
    delete_pods(ctx, set.as_ref(), deletes).await?;
    created
}

fn tell_of_end(ctx: &Ctx, set: &DaemonSet, pod: &Pod) {
    let node = node_of(pod).unwrap_or_default();
    let name = Key::of(pod);
    if pod::phase(pod) != "Failed" {
        let message =
            format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
        return ctx.recorder.normal(set, "SucceededDaemonPod", message);
    }
    let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
    ctx.recorder.warning(set, "FailedDaemonPod", message);
    let place = Place {
        uid: set.metadata.uid.clone().unwrap_or_default(),
        generation: set.metadata.generation.unwrap_or(0),
        node,
    };
    ctx.memory::<FailedPods>().note(place, ctx.now());
}
