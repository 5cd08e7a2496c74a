//! The heartbeat: one Lease, renewed every ten seconds unless the node is configured otherwise. Counterpart: `k8s.io/component-helpers/apimachinery/lease`.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;

pub const NAMESPACE: &str = "kube-node-lease";
/// A lease is renewed so many times before it ends.
const RENEWALS: u32 = 4;
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// Renews for ever; a failure is tried again soon, and twice as late each time up to the usual distance.
pub async fn keep(client: Client, node: Node, seconds: u32) {
    let api: Api<Lease> = Api::namespaced(client, NAMESPACE);
    let mut retry = RETRY_AFTER;
    let renew_every = Duration::from_secs(seconds.into()) / RENEWALS;
    let seconds = i32::try_from(seconds).unwrap_or(i32::MAX);
    loop {
        let wait = match renew(&api, &node, seconds).await {
            Ok(()) => {
                retry = RETRY_AFTER;
                renew_every
            }
            Err(error) => {
                tracing::warn!(%error, "node lease not renewed");
                retry = (retry * 2).min(renew_every);
                retry
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Makes the lease if there is none; it is good for so many seconds.
pub async fn renew(api: &Api<Lease>, node: &Node, seconds: i32) -> kube::Result<()> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let now = MicroTime(Timestamp::now());
    let spec = json!({ "holderIdentity": name, "leaseDurationSeconds": seconds, "renewTime": now });
    let patch = Patch::Merge(json!({ "spec": spec }));
    match api.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            create(api, node, seconds, now).await
        }
        other => other.map(drop),
    }
}

async fn create(api: &Api<Lease>, node: &Node, seconds: i32, now: MicroTime) -> kube::Result<()> {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: name.into(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some(NAMESPACE.into()),
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.into()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    api.create(&PostParams::default(), &lease).await.map(drop)
}
