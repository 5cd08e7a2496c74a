//! Carries out what the graph planned, against the API server's present state.
//!
//! `Work` in -> gets, patches and deletes, each bound to the uid (and version) that the decision was made for.
//! Counterpart: `attemptToDeleteItem`, `orphanDependents` and their patches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::graph::{FOREGROUND, ORPHAN, Owners, Policy, Verdict, Work, verdict};
use super::monitors::Kinds;
use super::{Kind, ObjectId};
use crate::runtime::{Error, Key, Result};

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    Settled,
    /// An owner is there that the graph does not show yet. Were it gone before its watch tells of it, nobody would look at
    /// the dependents again: they are to be looked at until the graph knows.
    GraphBehind,
}

pub async fn perform(client: &Client, kinds: &Kinds, work: Work) -> Result<Outcome> {
    match work {
        Work::Nothing | Work::DeleteBlocking(_) => {}
        Work::FinishForeground(object) => drop_finalizer(client, &object, FOREGROUND).await?,
        Work::Orphan { object, dependents } => {
            for dependent in &dependents {
                drop_owners(client, dependent, std::slice::from_ref(&object.uid)).await?;
            }
            drop_finalizer(client, &object, ORPHAN).await?;
        }
        Work::CheckOwners(owners) => return settle(client, kinds, owners).await,
    }
    Ok(Outcome::Settled)
}

async fn settle(client: &Client, kinds: &Kinds, owners: Owners) -> Result<Outcome> {
    let (mut absent, mut outcome) = (Vec::new(), Outcome::Settled);
    for reference in &owners.unknown {
        match ask_for(client, kinds, &owners.object, reference).await? {
            Owner::Absent => absent.push(reference.uid.clone()),
            Owner::Present => outcome = Outcome::GraphBehind,
            Owner::Unknowable => {}
        }
    }
    match verdict(&owners, &absent) {
        Verdict::Keep => {}
        Verdict::DropOwners(gone) => drop_owners(client, &owners.object, &gone).await?,
        Verdict::Delete(policy) => delete(client, &owners, policy).await?,
    }
    Ok(outcome)
}

/// What the API server knows of an owner that the graph does not.
enum Owner {
    Absent,
    Present,
    /// Of a kind that is not served (now), or named where it cannot be: no reason to delete anything.
    Unknowable,
}

async fn ask_for(
    client: &Client,
    kinds: &Kinds,
    dependent: &ObjectId,
    reference: &OwnerReference,
) -> Result<Owner> {
    let group = reference.api_version.split_once('/').map_or("", |(group, _)| group);
    let Some(kind) = kinds.get(&(group.to_owned(), reference.kind.clone())) else {
        return Ok(Owner::Unknowable);
    };
    if kind.namespaced && dependent.namespace.is_empty() {
        // Not a valid reference; deleting for it could hit an object that only looks orphaned.
        tracing::debug!(object = %dependent.name, owner = %reference.name, "cluster-scoped object names a namespaced owner");
        return Ok(Owner::Unknowable);
    }
    let namespace = if kind.namespaced { dependent.namespace.as_str() } else { "" };
    let owner = get(client, kind, namespace, &reference.name).await?;
    let is_it = owner.is_some_and(|meta| meta.uid.as_ref() == Some(&reference.uid));
    Ok(if is_it { Owner::Present } else { Owner::Absent })
}

async fn delete(client: &Client, owners: &Owners, policy: Policy) -> Result<()> {
    let object = &owners.object;
    let Some(live) = get_same(client, object).await? else { return Ok(()) };
    let named = live.owner_references.iter().flatten().map(|owner| &owner.uid);
    if !owners.are(named) || live.deletion_timestamp.is_some() {
        // The watch is behind: it will bring the newer state, which will be judged anew.
        return Ok(());
    }
    let params = match policy {
        Policy::Background => DeleteParams::background(),
        Policy::Foreground => DeleteParams::foreground(),
        Policy::Orphan => DeleteParams::orphan(),
    };
    let unchanged =
        Preconditions { uid: Some(object.uid.clone()), resource_version: live.resource_version };
    let answer = api(client, &object.kind, &object.namespace)
        .delete(&object.name, &params.preconditions(unchanged))
        .await;
    gone_is_fine("delete", object, answer.map(drop))
}

/// Removes references to these owners.
async fn drop_owners(client: &Client, object: &ObjectId, uids: &[String]) -> Result<()> {
    let Some(live) = get_same(client, object).await? else { return Ok(()) };
    let mut owners = live.owner_references.unwrap_or_default();
    let before = owners.len();
    owners.retain(|owner| !uids.contains(&owner.uid));
    if owners.len() == before {
        return Ok(());
    }
    patch(client, object, live.resource_version, "ownerReferences", json!(owners)).await
}

async fn drop_finalizer(client: &Client, object: &ObjectId, finalizer: &str) -> Result<()> {
    let Some(live) = get_same(client, object).await? else { return Ok(()) };
    let mut finalizers = live.finalizers.unwrap_or_default();
    let before = finalizers.len();
    finalizers.retain(|held| held != finalizer);
    if finalizers.len() == before {
        return Ok(());
    }
    patch(client, object, live.resource_version, "finalizers", json!(finalizers)).await
}

async fn patch(
    client: &Client,
    object: &ObjectId,
    version: Option<String>,
    field: &str,
    value: Value,
) -> Result<()> {
    let patch = json!({"metadata": {"uid": object.uid, "resourceVersion": version, field: value}});
    let api = api(client, &object.kind, &object.namespace);
    let answer =
        api.patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(patch)).await;
    gone_is_fine("patch", object, answer.map(drop))
}

/// The object as it is now, unless another one has taken its name.
async fn get_same(client: &Client, object: &ObjectId) -> Result<Option<ObjectMeta>> {
    let live = get(client, &object.kind, &object.namespace, &object.name).await?;
    Ok(live.filter(|meta| meta.uid.as_deref() == Some(&object.uid)))
}

async fn get(
    client: &Client,
    kind: &Kind,
    namespace: &str,
    name: &str,
) -> Result<Option<ObjectMeta>> {
    let answer = api(client, kind, namespace).get_metadata_opt(name).await;
    let what = || format!("{} {}", kind.resource.plural, Key::new(namespace, name));
    Ok(answer.map_err(|source| Error::Read { what: what(), source })?.map(|object| object.metadata))
}

fn api(client: &Client, kind: &Kind, namespace: &str) -> Api<DynamicObject> {
    match kind.namespaced {
        true => Api::namespaced_with(client.clone(), namespace, &kind.resource),
        false => Api::all_with(client.clone(), &kind.resource),
    }
}

fn gone_is_fine(
    verb: &'static str,
    object: &ObjectId,
    answer: Result<(), kube::Error>,
) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(source) => {
            let key = Key::new(&object.namespace, &object.name);
            let object = format!("{} {key}", object.kind.resource.kind.to_lowercase());
            Err(Error::Write { verb, object, source })
        }
        Ok(()) => Ok(()),
    }
}
