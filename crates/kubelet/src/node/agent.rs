//! Registers the node and keeps its status true.
//!
//! Consumes readings of the machine and the runtime, emits the Node object, its status and the heartbeat.
//! Counterpart: `pkg/kubelet/kubelet_node_status.go`.
//! Invariant: the status is written when it changes and every five minutes, never more often; labels set by others
//! are left alone.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, NodeStatus},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    lease,
    status::{Readings, labels, node, patch, same, status},
};
use crate::{context::NodeContext, events::EventType};

const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>) {
    let api: Api<Node> = Api::all(ctx.client.clone());
    let mut registered = register(&ctx, &api).await;
    ctx.recorder.node(&ctx.config.node_name, EventType::Normal, "Starting", "Starting kubelet.");
    tokio::spawn(lease::keep(ctx.client.clone(), registered.clone(), ctx.config.lease_seconds));
    let mut reported = registered.status.take().unwrap_or_default();
    announce(&ctx, &NodeStatus::default(), &reported);
    let mut due = tokio::time::Instant::now();
    let mut conditions = ctx.conditions.subscribe();
    let mut in_use = ctx.csi.watch_in_use();
    let mut devices = ctx.devices.watch();
    let mut known_capacity = BTreeMap::new();
    loop {
        match known(&ctx, &api).await {
            Ok(capacity) => known_capacity = capacity,
            Err(error) => tracing::warn!(%error, "node not read"),
        }
        let readings = readings(&ctx, &known_capacity).await;
        let wanted = status(&ctx.config, &ctx.machine, &readings, &reported, Timestamp::now());
        if !same(&wanted, &reported) || due <= tokio::time::Instant::now() {
            match write(&ctx, &api, patch(&reported, &wanted)).await {
                Ok(()) => {
                    announce(&ctx, &reported, &wanted);
                    reported = wanted;
                    due = tokio::time::Instant::now() + ctx.config.status_report;
                }
                Err(error) => {
                    tracing::warn!(%error, "node status not written");
                    register(&ctx, &api).await;
                }
            }
        }
        tokio::select! {
            // The sender is the context's, which is alive.
            _ = conditions.changed() => {}
            _ = in_use.changed() => {}
            _ = devices.changed() => {}
            () = ctx.going.begins() => {}
            // The runtime is asked this often whether it is there; what is short is told as soon as it is known.
            () = tokio::time::sleep(ctx.config.status_update) => {}
        }
    }
}

/// Creates the node, or brings the labels of an existing one up to date; tries until it works.
async fn register(ctx: &NodeContext, api: &Api<Node>) -> Node {
    let mut retry = RETRY_AFTER;
    loop {
        match try_register(ctx, api).await {
            Ok(node) => return node,
            Err(error) => tracing::warn!(%error, "node not registered, will retry"),
        }
        tokio::time::sleep(retry).await;
        retry = (retry * 2).min(Duration::from_secs(7));
    }
}

/// The first status goes with the registration, so that a node is never seen without one.
async fn try_register(ctx: &NodeContext, api: &Api<Node>) -> kube::Result<Node> {
    let name = &ctx.config.node_name;
    let mut wanted = node(&ctx.config, &ctx.machine);
    let none = NodeStatus::default();
    wanted.status = Some(status(
        &ctx.config,
        &ctx.machine,
        &readings(ctx, &BTreeMap::new()).await,
        &none,
        Timestamp::now(),
    ));
    match api.create(&PostParams::default(), &wanted).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let body = json!({ "metadata": { "labels": labels(&ctx.config, &ctx.machine) } });
            api.patch(name, &PatchParams::default(), &Patch::Merge(body)).await
        }
        created => created,
    }
}

async fn write(ctx: &NodeContext, api: &Api<Node>, body: Value) -> kube::Result<()> {
    let body = Patch::Strategic(body);
    api.patch_status(&ctx.config.node_name, &PatchParams::default(), &body).await.map(drop)
}

/// The capacity in the Node object, to which others may add.
async fn known(ctx: &NodeContext, api: &Api<Node>) -> kube::Result<BTreeMap<String, Quantity>> {
    let node = api.get_opt(&ctx.config.node_name).await?;
    Ok(node.and_then(|node| node.status?.capacity).unwrap_or_default())
}

async fn readings(ctx: &NodeContext, known_capacity: &BTreeMap<String, Quantity>) -> Readings {
    let runtime = &ctx.runtime;
    let (version, unready, images, features) = tokio::join!(
        runtime.version(),
        runtime.unready(),
        runtime.list_images(),
        runtime.features()
    );
    let errors = [version.as_ref().err(), unready.as_ref().err(), images.as_ref().err()];
    let down = errors.into_iter().flatten().next();
    let runtime_error = down.map(|error| format!("container runtime is down: {error}"));
    Readings {
        images: images.unwrap_or_default(),
        runtime: version.ok(),
        features: features.unwrap_or_default(),
        runtime_error: runtime_error.or(unready.ok().flatten()),
        conditions: ctx.conditions.now(),
        going: ctx.going.is_going(),
        volumes_in_use: ctx.csi.volumes_in_use(),
        devices: ctx.devices.counts(),
        known_capacity: known_capacity.clone(),
    }
}

/// An event for every condition that flipped.
fn announce(ctx: &NodeContext, before: &NodeStatus, now: &NodeStatus) {
    let name = &ctx.config.node_name;
    for c in now.conditions.iter().flatten() {
        let was = before
            .conditions
            .iter()
            .flatten()
            .find(|b| b.type_ == c.type_)
            .map(|b| b.status.as_str());
        if was == Some(c.status.as_str()) {
            continue;
        }
        let reason = match (c.type_.as_str(), c.status.as_str()) {
            ("Ready", "True") => "NodeReady",
            ("Ready", _) => "NodeNotReady",
            ("MemoryPressure", "True") => "NodeHasInsufficientMemory",
            ("MemoryPressure", _) => "NodeHasSufficientMemory",
            ("DiskPressure", "True") => "NodeHasDiskPressure",
            ("DiskPressure", _) => "NodeHasNoDiskPressure",
            ("PIDPressure", "True") => "NodeHasInsufficientPID",
            _ => "NodeHasSufficientPID",
        };
        ctx.recorder.node(
            name,
            EventType::Normal,
            reason,
            format!("Node {name} status is now: {reason}"),
        );
    }
}
