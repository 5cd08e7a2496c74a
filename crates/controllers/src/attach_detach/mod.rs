//! Attaches volumes of CSI drivers to the nodes whose pods use them, and detaches them afterwards.
//!
//! A node with its pods in -> [`plan`] -> VolumeAttachments made and deleted, `status.volumesAttached` of the node. What is to be
//! done about an attachment is its driver's part. Counterpart: `pkg/controller/volume/attachdetach`. Differs from upstream: reacts
//! to changes, and keeps no picture of the world besides the objects.
//! Invariant: an attachment that this controller would not have made is never deleted; one whose volume the node still uses
//! stays, unless the node has been lost for [`FORCE_AFTER`].

mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::json;

use crate::runtime::{Action, Caches, ControllerDef, Ctx, Delta, Key, Result, Store};
use crate::{node, pod};
use plan::{Attachable, Op, Picture, Plan};

/// How long a lost node keeps its volumes: it may still be writing to them.
const FORCE_AFTER: Duration = Duration::from_secs(360);

pub const DEF: ControllerDef = ControllerDef {
    name: "attachdetach-controller",
    workers: 4,
    watches: |edges| {
        edges.mapped::<Pod>(|caches, delta| {
            let pod = delta.latest();
            let node = pod::node_name(pod).filter(|_| uses_driver(caches, pod));
            node.map(Key::cluster).into_iter().collect()
        });
        edges.mapped::<PersistentVolumeClaim>(nodes_of_claim);
        edges.mapped::<VolumeAttachment>(nodes_of_attachment);
        edges.mapped::<Node>(|_, delta| {
            let differs = match (delta.old, delta.new) {
                (Some(old), Some(new)) => says(old) != says(new),
                _ => true,
            };
            differs.then(|| Key::of(delta.latest().as_ref())).into_iter().collect()
        });
        edges.reads::<PersistentVolume>();
        edges.mapped::<CSIDriver>(|caches, _| {
            let attachments = caches.store::<VolumeAttachment>().all();
            attachments.iter().map(|it| Key::cluster(it.spec.node_name.as_str())).collect()
        });
    },
    reconcile: |ctx, key| reconcile(ctx, key).boxed(),
};

/// What of a node matters here.
fn says(node: &Node) -> (bool, Option<&[String]>) {
    let in_use = node.status.as_ref().and_then(|status| status.volumes_in_use.as_deref());
    (node::is_ready(node), in_use)
}

fn uses_driver(caches: &Caches, pod: &Pod) -> bool {
    let claims = caches.store::<PersistentVolumeClaim>();
    let mut bound = volumes(claims, caches.store::<PersistentVolume>(), pod);
    bound.any(|volume| volume.spec.as_ref().is_some_and(|spec| spec.csi.is_some()))
}

/// The volumes that the pod's claims are bound to.
fn volumes(
    claims: Arc<Store<PersistentVolumeClaim>>,
    volumes: Arc<Store<PersistentVolume>>,
    pod: &Pod,
) -> impl Iterator<Item = Arc<PersistentVolume>> + use<> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let names: Vec<String> = pod::claims(pod).collect();
    names.into_iter().filter_map(move |name| {
        let claim = claims.get(&Key::new(&namespace, name))?;
        let bound = claim.status.as_ref()?.phase.as_deref() == Some("Bound");
        let volume = claim.spec.as_ref()?.volume_name.as_deref().filter(|_| bound)?;
        volumes.get(&Key::cluster(volume))
    })
}

/// A claim that is bound at last lets the volume be attached.
fn nodes_of_claim(caches: &Caches, delta: &Delta<PersistentVolumeClaim>) -> Vec<Key> {
    let claim = delta.latest();
    let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    nodes_using(caches, namespace, name)
}

fn nodes_using(caches: &Caches, namespace: &str, claim: &str) -> Vec<Key> {
    let pods = caches.store::<Pod>().in_namespace(namespace);
    let users = pods.iter().filter(|pod| pod::claims(pod).any(|name| name == claim));
    users.filter_map(|pod| pod::node_name(pod).map(Key::cluster)).collect()
}

/// Its own node; and when it is gone, those that waited for their turn.
fn nodes_of_attachment(caches: &Caches, delta: &Delta<VolumeAttachment>) -> Vec<Key> {
    let attachment = delta.latest();
    let mut keys = vec![Key::cluster(attachment.spec.node_name.as_str())];
    let volume = attachment.spec.source.persistent_volume_name.as_deref();
    let volume = volume.filter(|_| delta.new.is_none());
    let volume =
        volume.and_then(|name| caches.store::<PersistentVolume>().get(&Key::cluster(name)));
    let claim = volume.as_ref().and_then(|volume| volume.spec.as_ref()?.claim_ref.as_ref());
    if let Some(claim) = claim {
        let (namespace, name) = (claim.namespace.as_deref(), claim.name.as_deref());
        keys.extend(nodes_using(caches, namespace.unwrap_or_default(), name.unwrap_or_default()));
    }
    keys
}

async fn reconcile(ctx: Arc<Ctx>, key: Key) -> Result<Action> {
    let node = ctx.lister::<Node>().get(&key);
    let attachments = ctx.lister::<VolumeAttachment>().all();
    let wanted = wanted(&ctx, &key.name);
    let Plan { ops, attached, look_again } =
        decide(&ctx, &key.name, node.as_deref(), &wanted, &attachments);
    for op in ops {
        carry_out(&ctx, &key.name, op).await?;
    }
    if let Some(node) = &node {
        report(&ctx, node, &attached).await?;
    }
    Ok(look_again.map_or(Action::Done, Action::After))
}

fn decide<'a>(
    ctx: &Ctx,
    name: &'a str,
    node: Option<&'a Node>,
    wanted: &'a [(Attachable, Arc<Pod>)],
    attachments: &'a [Arc<VolumeAttachment>],
) -> Plan<'a> {
    let (waits, now) = (ctx.memory::<Waits>(), ctx.now());
    let known = |volume: &str| {
        let volume = ctx.lister::<PersistentVolume>().get(&Key::cluster(volume))?;
        Attachable::of(&volume)
    };
    let lost_for = |attachment: &str| waits.since(attachment, now);
    let picture = Picture { name, node, wanted, attachments, known: &known, lost_for: &lost_for };
    plan::plan(&picture, FORCE_AFTER)
}

/// What the pods of a node need attached, each with a pod to tell of it.
fn wanted(ctx: &Ctx, node: &str) -> Vec<(Attachable, Arc<Pod>)> {
    let mut pods = ctx.lister::<Pod>().all();
    pods.retain(|pod| pod::node_name(pod) == Some(node) && !pod::is_terminal(pod));
    let mut wanted: Vec<(Attachable, Arc<Pod>)> = Vec::new();
    for pod in pods {
        for volume in volumes(ctx.lister(), ctx.lister(), &pod) {
            let Some(volume) = Attachable::of(&volume) else { continue };
            let driver = ctx.lister::<CSIDriver>().get(&Key::cluster(volume.driver.as_str()));
            let is_attached = driver.and_then(|it| it.spec.attach_required).unwrap_or(true);
            if is_attached && wanted.iter().all(|(known, _)| known.name != volume.name) {
                wanted.push((volume, pod.clone()));
            }
        }
    }
    wanted
}

async fn carry_out(ctx: &Ctx, node: &str, op: Op<'_>) -> Result<()> {
    match op {
        Op::Attach(volume) => {
            let attachment = VolumeAttachment {
                metadata: ObjectMeta {
                    name: Some(volume.attachment(node)),
                    ..ObjectMeta::default()
                },
                spec: VolumeAttachmentSpec {
                    attacher: volume.driver.clone(),
                    node_name: node.to_owned(),
                    source: VolumeAttachmentSource {
                        persistent_volume_name: Some(volume.name.clone()),
                        ..VolumeAttachmentSource::default()
                    },
                },
                status: None,
            };
            match ctx.create(&attachment).await {
                // Made before the cache could show it.
                Err(error) if error.status_code() == Some(409) => Ok(()),
                made => made.map(drop),
            }
        }
        Op::Detach(attachment) => match ctx.delete(attachment).await {
            Err(error) if error.is_not_found() => Ok(()),
            deleted => deleted,
        },
        Op::Tell { pod, reason, message } => {
            match reason {
                plan::ATTACHED => ctx.recorder.normal(pod, reason, message),
                _ => ctx.recorder.warning(pod, reason, message),
            }
            Ok(())
        }
    }
}

/// Says on the node what is attached to it, for its agent to read.
async fn report(ctx: &Ctx, node: &Node, attached: &[String]) -> Result<()> {
    let known = node.status.iter().flat_map(|status| status.volumes_attached.iter().flatten());
    if known.map(|volume| &volume.name).eq(attached) {
        return Ok(());
    }
    let volumes: Vec<_> =
        attached.iter().map(|name| json!({ "name": name, "devicePath": "" })).collect();
    let patch = json!({ "status": { "volumesAttached": volumes } });
    match ctx.patch_status::<Node>(&Key::of(node), &patch).await {
        Err(error) if error.is_not_found() => Ok(()),
        patched => patched.map(drop),
    }
}

/// Since when attachments are only kept because a lost node may use them.
#[derive(Default)]
struct Waits(Mutex<HashMap<String, Timestamp>>);

// === impl Waits ===

impl Waits {
    /// How long by now; it begins with the first question.
    fn since(&self, attachment: &str, now: Timestamp) -> Duration {
        let mut waits = self.0.lock().expect("no panic happens while the map is locked");
        let since = *waits.entry(attachment.to_owned()).or_insert(now);
        Duration::from_secs(u64::try_from(now.as_second() - since.as_second()).unwrap_or(0))
    }
}
