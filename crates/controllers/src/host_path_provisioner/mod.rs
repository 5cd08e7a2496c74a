//! Makes volumes for claims out of directories of nodes, and removes them after their claims.
//!
//! Claims handed over by the binder (see `persistent_volume`) in; a directory on the node and a volume that is promised to the
//! claim out. Released volumes in; neither directory nor volume out. Counterpart: minikube's storage-provisioner and the
//! local path provisioner; like them it is one provisioner among others, known by its name in a StorageClass.
//! Invariant: a volume object exists for as long as its directory does, so that a directory is never forgotten.

mod expand;
mod plan;

use std::sync::Arc;

use futures::FutureExt;
use http::{Method, Request};
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use serde::Deserialize;
use serde_json::json;

use crate::persistent_volume::facts::claim_class;
use crate::runtime::{Action, ControllerDef, Ctx, Error, Key, Result};
use plan::{Disposal, Refusal};

/// The name that StorageClasses know it by.
pub const PROVISIONER: &str = "skiff.dev/host-path";
/// Its service account in `kube-system`.
pub const NAME: &str = "host-path-provisioner";

pub use expand::DEF as EXPANSION;

pub const CLAIMS: ControllerDef = ControllerDef {
    name: NAME,
    workers: 4,
    watches: |edges| {
        edges.primary::<PersistentVolumeClaim>();
        edges.reads::<StorageClass>();
        edges.mapped::<Node>(|caches, delta| {
            // Only a node that came may let a claim in that found none.
            let claims = match delta.old {
                None => caches.store::<PersistentVolumeClaim>().all(),
                Some(_) => Vec::new(),
            };
            let waiting = claims.iter().filter(|claim| plan::is_ours(claim));
            waiting.map(|claim| Key::of(claim.as_ref())).collect()
        });
        edges.reads::<PersistentVolume>();
    },
    reconcile: |ctx, key| provision(ctx, key).boxed(),
};

pub const VOLUMES: ControllerDef = ControllerDef {
    name: NAME,
    workers: 4,
    watches: |edges| {
        edges.primary::<PersistentVolume>();
        edges.reads::<Node>();
    },
    reconcile: |ctx, key| dispose(ctx, key).boxed(),
};

/// What the node says of a directory.
#[derive(Deserialize)]
struct Directory {
    path: String,
}

async fn provision(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(claim) = ctx.lister::<PersistentVolumeClaim>().get(&key) else {
        return Ok(Action::Done);
    };
    let class = ctx.lister::<StorageClass>().get(&Key::cluster(claim_class(&claim)));
    let Some(class) =
        class.filter(|class| class.provisioner == PROVISIONER && plan::is_ours(&claim))
    else {
        return Ok(Action::Done);
    };
    let name = plan::volume_name(&claim);
    if ctx.lister::<PersistentVolume>().get(&Key::cluster(&name)).is_some() {
        return Ok(Action::Done);
    }
    match make(&ctx, &claim, &class).await {
        Ok(()) => {
            let message = format!("Successfully provisioned volume {name}");
            ctx.recorder.normal(claim.as_ref(), "ProvisioningSucceeded", message);
            Ok(Action::Done)
        }
        Err(error) => {
            let why = error.message();
            let message = format!(
                "failed to provision volume with StorageClass {:?}: {why}",
                claim_class(&claim)
            );
            ctx.recorder.warning(claim.as_ref(), "ProvisioningFailed", message);
            match error {
                // What the claim or its class asks for does not change by itself.
                Error::Invalid(_) => Ok(Action::Done),
                error => Err(error),
            }
        }
    }
}

async fn make(ctx: &Ctx, claim: &PersistentVolumeClaim, class: &StorageClass) -> Result<()> {
    let volumes = ctx.lister::<PersistentVolume>().all();
    let refused = |Refusal(why): Refusal| Error::Invalid(why);
    plan::check(claim, class).map_err(refused)?;
    let nodes = ctx.lister::<Node>().all();
    let node = plan::choose_node(claim, class, &nodes, &volumes).map_err(refused)?;
    let directory = plan::directory(claim);
    let Directory { path } = at_node(ctx, Method::PUT, &node, &directory).await?;
    match ctx.create(&plan::volume(claim, class, &node, &path)).await {
        // Made before, by a process that ended before it could see it.
        Err(error) if error.status_code() == Some(409) => Ok(()),
        made => made.map(drop),
    }
}

async fn dispose(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let Some(volume) = ctx.lister::<PersistentVolume>().get(&key) else { return Ok(Action::Done) };
    let disposal = plan::disposal(&volume);
    if disposal == Disposal::Keep {
        return Ok(Action::Done);
    }
    if disposal == Disposal::Remove {
        if let Err(error) = remove_directory(&ctx, &volume).await {
            ctx.recorder.warning(volume.as_ref(), "VolumeFailedDelete", error.message());
            return Err(error);
        }
        if volume.metadata.deletion_timestamp.is_none() {
            ctx.delete(volume.as_ref()).await?;
        }
    }
    let left = plan::other_finalizers(&volume);
    let patch = json!({ "metadata": { "finalizers": left } });
    match ctx.patch::<PersistentVolume>(&key, &patch).await {
        Err(error) if error.is_not_found() => Ok(Action::Done),
        done => done.map(|_| Action::Done),
    }
}

/// A node that is gone has taken the directory with it.
async fn remove_directory(ctx: &Ctx, volume: &PersistentVolume) -> Result<()> {
    let Some((node, directory)) = plan::place(volume) else { return Ok(()) };
    if ctx.lister::<Node>().get(&Key::cluster(&node)).is_none() {
        return Ok(());
    }
    at_node(ctx, Method::DELETE, &node, &directory).await.map(drop)
}

/// Asks the node's kubelet, by way of the API server.
async fn at_node(ctx: &Ctx, method: Method, node: &str, directory: &str) -> Result<Directory> {
    let verb = if method == Method::PUT { "make" } else { "remove" };
    let object = format!("directory {directory} of node {node}");
    let path = format!("/api/v1/nodes/{node}/proxy/hostPathVolumes/{directory}");
    let request = Request::builder().method(method).uri(path).body(Vec::new());
    let request = request.map_err(|error| Error::Invalid(error.to_string()))?;
    let answer = ctx.client.request::<Directory>(request).await;
    answer.map_err(|source| Error::Write { verb, object, source })
}
