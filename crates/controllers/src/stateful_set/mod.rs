//! Keeps pods that are somebody: each with an ordinal, a name that stays, and storage that waits for it.
//!
//! A StatefulSet, its pods, claims and revisions in -> `plan` -> claims and pods, one after another -> status.
//! Counterpart: `pkg/controller/statefulset`. Invariant: no two pods of one ordinal exist at a time, since the API
//! server refuses the second of a name; a pod is made only when its forerunner is gone.

mod identity;
mod plan;
mod retention;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::FutureExt;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};

use crate::claims;
use crate::history;
use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Error, Key, Result};
use identity::{ordinal, ordinals, spec};
use plan::{Observed, Op, Version};

/// Where the revisions of a StatefulSet keep their hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

pub const DEF: ControllerDef = ControllerDef {
    name: "statefulset-controller",
    workers: 5,
    watches: |edges| {
        edges.primary::<StatefulSet>();
        edges.owned::<Pod, StatefulSet>();
        edges.mapped::<Pod>(|caches, delta| claims::adopters(caches, delta, takes));
        edges.owned::<ControllerRevision, StatefulSet>();
        edges.mapped::<PersistentVolumeClaim>(sets_of_claim);
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// A pod may wait for a claim to go, and a claim's owners for a policy: any set with a template of that name hears.
fn sets_of_claim(caches: &Caches, delta: &Delta<PersistentVolumeClaim>) -> Vec<Key> {
    let meta = &delta.latest().metadata;
    let name = meta.name.as_deref().unwrap_or_default();
    let sets = caches.store::<StatefulSet>();
    let sets = sets.in_namespace(meta.namespace.as_deref().unwrap_or_default());
    let claims = |set: &StatefulSet| {
        identity::claim_templates(set).iter().any(|template| {
            let volume = template.metadata.name.as_deref().unwrap_or_default();
            name.starts_with(&format!("{volume}-{}-", identity::set_name(set)))
        })
    };
    sets.iter().filter(|set| claims(set)).map(|set| Key::of(set.as_ref())).collect()
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(set) = ctx.lister::<StatefulSet>().get(&key) else { return Ok(Action::Done) };
    let candidates = claims::candidates::<StatefulSet, Pod>(&ctx, &set);
    let claims = claims::claims(set.as_ref(), &candidates, |pod| takes(&set, pod), |_| true);
    claims::settle(&ctx, set.as_ref(), claims).await?;
    let revisions = Revisions::of(&ctx, &set).await?;
    let outcome = carry_out(&ctx, &revisions.observe(&ctx, &set)).await;
    let seen = revisions.observe(&ctx, &set);
    let status = status::status(&seen, revisions.collisions);
    if set.status.as_ref() != Some(&status) {
        ctx.update_status(&StatefulSet { status: Some(status), ..set.as_ref().clone() }).await?;
    }
    revisions.truncate(&ctx, &seen).await?;
    outcome.map(|()| status::next_look(&seen))
}

/// Whether a pod is or may become the set's: selected, and named after it.
fn takes(set: &StatefulSet, pod: &Pod) -> bool {
    let selector = claims::selector(&spec(set).selector);
    claims::selects(selector.as_ref(), &pod.metadata) && ordinal(set, pod).is_some()
}

/// The revisions of a set, and which of them it comes from and goes to.
struct Revisions {
    all: Vec<Arc<ControllerRevision>>,
    current: Version,
    update: Version,
    collisions: i32,
}

fn version(revision: &ControllerRevision) -> Result<Version> {
    let name = Key::of(revision).name;
    match history::template_of(revision) {
        Some(template) => Ok(Version { name, template }),
        None => Err(Error::Invalid(format!("revision {name} holds no template"))),
    }
}

// === impl Revisions ===

impl Revisions {
    async fn of(ctx: &Ctx, set: &StatefulSet) -> Result<Revisions> {
        let selector = claims::selector(&spec(set).selector);
        let selected =
            |revision: &ControllerRevision| claims::selects(selector.as_ref(), &revision.metadata);
        let all = history::revisions(ctx, set, selected).await?;
        let status = set.status.as_ref();
        let mut collisions = status.and_then(|status| status.collision_count).unwrap_or(0);
        let newest = match set.metadata.deletion_timestamp {
            // Made now, it would only stand in the way of the deletion.
            Some(_) => all.last().cloned(),
            None => {
                let template = &spec(set).template;
                Some(history::current(ctx, set, template, &all, HASH_LABEL, &mut collisions).await?)
            }
        };
        let named = status.and_then(|status| status.current_revision.as_ref());
        let current = all.iter().find(|revision| revision.metadata.name.as_ref() == named);
        let update = match newest {
            Some(newest) => version(&newest)?,
            None => Version { name: String::new(), template: spec(set).template.clone() },
        };
        let current = current.map_or(Ok(update.clone()), |current| version(current))?;
        Ok(Revisions { all, current, update, collisions })
    }

    fn observe(&self, ctx: &Ctx, set: &Arc<StatefulSet>) -> Observed {
        let pods = claims::dependents::<StatefulSet, Pod>(ctx, set);
        let present = pods.iter().filter_map(|pod| ordinal(set, pod));
        let store = ctx.lister::<PersistentVolumeClaim>();
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let claims: BTreeMap<_, _> = ordinals(set)
            .chain(present)
            .flat_map(|at| {
                let templates = identity::claim_templates(set).iter();
                templates.map(move |template| identity::claim_name(set, template, at))
            })
            .filter_map(|name| Some((name.clone(), store.get(&Key::new(namespace, name))?)))
            .collect();
        Observed {
            set: set.clone(),
            current: self.current.clone(),
            update: self.update.clone(),
            pods,
            claims,
            now: ctx.now(),
        }
    }

    /// Deletes revisions beyond the limit that no pod and no running update needs.
    async fn truncate(&self, ctx: &Ctx, seen: &Observed) -> Result<()> {
        let Some(limit) = spec(&seen.set).revision_history_limit else { return Ok(()) };
        let Ok(limit) = usize::try_from(limit) else { return Ok(()) };
        let is_live = |revision: &ControllerRevision| {
            let name = revision.metadata.name.as_deref();
            name == Some(&self.current.name)
                || name == Some(&self.update.name)
                || seen.pods.iter().any(|pod| identity::revision(pod) == name)
        };
        history::delete_all(ctx, history::superfluous(&self.all, is_live, limit)).await
    }
}

// === deeds ===

async fn carry_out(ctx: &Ctx, seen: &Observed) -> Result<()> {
    for op in plan::plan(seen) {
        apply(ctx, seen, op).await?;
    }
    Ok(())
}

async fn apply(ctx: &Ctx, seen: &Observed, op: Op) -> Result<()> {
    let set = seen.set.as_ref();
    match op {
        Op::CreateClaim { pod, claim } => create_claim(ctx, set, &pod, &claim).await,
        Op::UpdateClaim { pod, claim } => match ctx.update(claim.as_ref()).await {
            Err(error) if !error.is_not_found() => tell(ctx, set, "Update", &pod, Err(error)),
            _ => Ok(()),
        },
        Op::CreatePod(pod) => {
            let outcome = ctx.create(pod.as_ref()).await.map(drop);
            let name = pod.metadata.name.as_deref().unwrap_or_default();
            match outcome {
                // Its forerunner is not gone yet: the cache lags, or the pod belongs to somebody else.
                Err(error) if error.status_code() == Some(409) || error.namespace_terminating() => {
                    Err(error)
                }
                outcome => tell(ctx, set, "Create", name, outcome),
            }
        }
        Op::UpdatePod(pod) => {
            let outcome = ctx.update(pod.as_ref()).await.map(drop);
            tell(ctx, set, "Update", pod.metadata.name.as_deref().unwrap_or_default(), outcome)
        }
        Op::DeletePod(pod) => {
            let outcome = match ctx.delete(pod.as_ref()).await {
                Err(error) if error.is_not_found() => Ok(()),
                outcome => outcome,
            };
            tell(ctx, set, "Delete", pod.metadata.name.as_deref().unwrap_or_default(), outcome)
        }
        Op::AwaitClaim { pod, claim } => {
            let going = Error::Invalid(format!("pvc {claim} is being deleted"));
            tell(ctx, set, "Create", &pod, Err(going))
        }
        Op::ForeignClaim { claim } => {
            let message = format!(
                "PersistentVolumeClaim {claim} has a conflicting OwnerReference that acts as a managing controller, \
                 the retention policy is ignored for this claim"
            );
            ctx.recorder.warning(set, "ConflictingController", message);
            Ok(())
        }
    }
}

async fn create_claim(
    ctx: &Ctx,
    set: &StatefulSet,
    pod: &str,
    claim: &PersistentVolumeClaim,
) -> Result<()> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    let of = format!("Claim {name} Pod {pod} in StatefulSet {}", identity::set_name(set));
    match ctx.create(claim).await {
        Ok(_) => ctx.recorder.normal(set, "SuccessfulCreate", format!("Create {of} success")),
        Err(error) => {
            if error.status_code() != Some(409) && !error.namespace_terminating() {
                let message = format!("Create {of} failed error: {}", error.message());
                ctx.recorder.warning(set, "FailedCreate", message);
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Records what came of a deed on a pod.
fn tell(
    ctx: &Ctx,
    set: &StatefulSet,
    verb: &'static str,
    pod: &str,
    outcome: Result<()>,
) -> Result<()> {
    let (done, failed) = match verb {
        "Create" => ("SuccessfulCreate", "FailedCreate"),
        "Update" => ("SuccessfulUpdate", "FailedUpdate"),
        _ => ("SuccessfulDelete", "FailedDelete"),
    };
    let of = format!("{verb} Pod {pod} in StatefulSet {}", identity::set_name(set));
    match &outcome {
        Ok(()) => ctx.recorder.normal(set, done, format!("{of} successful")),
        Err(error) => {
            let message = format!("{of} failed error: {}", error.message());
            ctx.recorder.warning(set, failed, message);
        }
    }
    outcome
}
