//! Mirror pods: what the API server shows of the pods a node runs by itself.
//!
//! Consumes the static pods and the mirror pods there are, emits creations and deletions until each has the one that is
//! its own. Counterpart: `tryReconcileMirrorPods` of `pkg/kubelet` and `pkg/kubelet/pod/mirror_client.go`.
//! Invariant: a mirror pod is deleted without grace, since nothing runs behind it, and only under its own uid.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use tokio::sync::watch;

use super::{HASH, MIRROR, Pods, annotation};
use crate::{context::NodeContext, pod::desired::PodKey};

const FIRST_RETRY: Duration = Duration::from_millis(200);
const LAST_RETRY: Duration = Duration::from_secs(10);

/// What there is, and what there should be.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    pub statics: Pods,
    pub mirrors: Pods,
    /// The pods of the API server have been listed: before that, none is missing.
    pub listed: bool,
}

#[derive(Debug, PartialEq)]
enum Op {
    Create(Arc<Pod>),
    Delete(PodKey),
}

/// Runs until nobody says any more what there is.
pub async fn keep(ctx: Arc<NodeContext>, mut state: watch::Receiver<Mirrors>) {
    let mut retry = FIRST_RETRY;
    loop {
        let ops = plan(&state.borrow_and_update());
        let mut done = true;
        for op in &ops {
            if let Err(error) = carry_out(&ctx, op).await {
                tracing::debug!(?op, %error, "mirror pod not kept, will retry");
                done = false;
            }
        }
        retry = if done { FIRST_RETRY } else { (retry * 2).min(LAST_RETRY) };
        let changed = match done {
            true => state.changed().await,
            false => tokio::time::timeout(retry, state.changed()).await.unwrap_or(Ok(())),
        };
        if changed.is_err() {
            return;
        }
    }
}

fn plan(state: &Mirrors) -> Vec<Op> {
    if !state.listed {
        return Vec::new();
    }
    let unwanted = state.mirrors.iter().filter(|(name, mirror)| {
        let own = state.statics.get(*name).is_some_and(|pod| stands_for(mirror, pod));
        !own || mirror.metadata.deletion_timestamp.is_some()
    });
    let missing = state.statics.iter().filter(|(name, _)| !state.mirrors.contains_key(*name));
    unwanted
        .map(|(_, mirror)| Op::Delete(PodKey::of(mirror)))
        .chain(missing.map(|(_, pod)| Op::Create(pod.clone())))
        .collect()
}

/// A mirror pod carries the hash of the pod it was made for.
fn stands_for(mirror: &Pod, pod: &Pod) -> bool {
    annotation(mirror, MIRROR) == annotation(pod, HASH)
}

async fn carry_out(ctx: &NodeContext, op: &Op) -> kube::Result<()> {
    match op {
        Op::Create(pod) => {
            let nodes: Api<Node> = Api::all(ctx.client.clone());
            let node = nodes.get(&ctx.config.node_name).await?;
            let mirror = mirror_of(pod, &node);
            let namespace = mirror.metadata.namespace.as_deref().unwrap_or_default();
            let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
            pods.create(&PostParams::default(), &mirror).await.map(drop)
        }
        Op::Delete(key) => {
            let pods: Api<Pod> = Api::namespaced(ctx.client.clone(), &key.namespace);
            let own = Preconditions { uid: Some(key.uid.clone()), resource_version: None };
            let params = DeleteParams::default().grace_period(0).preconditions(own);
            match pods.delete(&key.name, &params).await {
                // Gone already, or another's by now.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                deleted => deleted.map(drop),
            }
        }
    }
}

/// It belongs to its node: when that goes, so does the mirror.
fn mirror_of(pod: &Pod, node: &Node) -> Pod {
    let mut mirror = pod.clone();
    let meta = &mut mirror.metadata;
    let hash = annotation(pod, HASH).unwrap_or_default().to_owned();
    meta.annotations.get_or_insert_default().insert(MIRROR.into(), hash);
    meta.uid = None;
    meta.creation_timestamp = None;
    meta.owner_references = Some(vec![OwnerReference {
        api_version: "v1".into(),
        controller: Some(true),
        kind: "Node".into(),
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    }]);
    mirror.status = None;
    mirror
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::static_pods::full_name;

    fn pods(all: &[Value]) -> Pods {
        let pods = all.iter().map(|pod| serde_json::from_value(pod.clone()).expect("a pod"));
        pods.map(|pod: Pod| (full_name(&pod), Arc::new(pod))).collect()
    }

    fn of_file(name: &str, hash: &str) -> Value {
        json!({ "metadata": { "name": name, "namespace": "ns", "uid": hash, "annotations": {
            (HASH): hash, "kubernetes.io/config.source": "file",
        } } })
    }

    fn mirror(name: &str, uid: &str, hash: &str) -> Value {
        json!({ "metadata": { "name": name, "namespace": "ns", "uid": uid, "annotations": { (MIRROR): hash } } })
    }

    fn words(statics: &[Value], mirrors: &[Value]) -> Vec<String> {
        let state = Mirrors { statics: pods(statics), mirrors: pods(mirrors), listed: true };
        let name = |op: &Op| match op {
            Op::Create(pod) => format!("create {}", pod.metadata.name.as_deref().unwrap_or("")),
            Op::Delete(key) => format!("delete {} {}", key.name, key.uid),
        };
        plan(&state).iter().map(name).collect()
    }

    #[test]
    fn every_static_pod_gets_its_own_mirror() {
        let none: [&str; 0] = [];
        assert_eq!(words(&[of_file("a", "1")], &[]), ["create a"]);
        assert_eq!(words(&[of_file("a", "1")], &[mirror("a", "m", "1")]), none);
        assert_eq!(words(&[of_file("a", "2")], &[mirror("a", "m", "1")]), ["delete a m"]);
        assert_eq!(words(&[], &[mirror("a", "m", "1")]), ["delete a m"]);
        let mut dying = mirror("a", "m", "1");
        dying["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(words(&[of_file("a", "1")], &[dying]), ["delete a m"]);
    }

    #[test]
    fn nothing_is_missing_before_the_list() {
        let state = Mirrors { statics: pods(&[of_file("a", "1")]), ..Mirrors::default() };
        assert_eq!(plan(&state), []);
    }

    #[test]
    fn a_mirror_is_its_nodes() {
        let (pod, node) = (of_file("a", "1"), json!({ "metadata": { "name": "n", "uid": "nu" } }));
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let mirror = mirror_of(&pod, &serde_json::from_value(node).expect("a node"));
        assert!(crate::static_pods::is_mirror(&mirror) && !crate::static_pods::is_static(&mirror));
        assert!(stands_for(&mirror, &pod));
        let owners = mirror.metadata.owner_references.expect("it has one");
        assert_eq!((owners[0].uid.as_str(), owners[0].controller), ("nu", Some(true)));
        assert_eq!(mirror.metadata.uid, None);
    }
}
