//! The Lease that tells of the server, and those of servers that are gone.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::common::{self, Cluster, Events};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const IDENTITIES: &str =
    "?watch=1&labelSelector=apiserver.kubernetes.io%2Fidentity%3Dkube-apiserver";
const NODE: &str = "apiserver-nz4d7rk4anfwpugpkv4yv5ymby";

#[tokio::test]
async fn a_server_has_a_lease_while_it_runs() {
    let cluster = common::cluster().await;
    let mut events = identities(&cluster).await;
    let (running, stop) = keep(&cluster);
    let lease = next(&mut events, "ADDED", NODE).await;
    assert_eq!(lease["metadata"]["labels"]["kubernetes.io/hostname"], "node");
    assert_eq!(lease["metadata"]["managedFields"][0]["manager"], "kube-apiserver");
    assert_eq!(lease["spec"]["leaseDurationSeconds"], 3600);
    let holder = lease["spec"]["holderIdentity"].as_str().expect("a holder");
    assert!(holder.starts_with(&format!("{NODE}_")), "{holder}");
    stop.cancel();
    running.await.expect("it ends when told");
    next(&mut events, "DELETED", NODE).await;
}

#[tokio::test]
async fn the_lease_of_a_killed_server_is_replaced_when_it_starts_again() {
    let cluster = common::cluster().await;
    let mut events = identities(&cluster).await;
    let (killed, _) = keep(&cluster);
    let before = next(&mut events, "ADDED", NODE).await;
    killed.abort();
    assert!(killed.await.expect_err("it never ends by itself").is_cancelled());
    let _again = keep(&cluster);
    next(&mut events, "DELETED", NODE).await;
    let after = next(&mut events, "ADDED", NODE).await;
    assert_ne!(after["spec"]["holderIdentity"], before["spec"]["holderIdentity"]);
}

#[tokio::test]
async fn expired_leases_of_api_servers_are_collected_and_nothing_else_is() {
    let cluster = common::cluster().await;
    let admin = cluster.admin();
    let (old, later) = ("2026-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z");
    let of_server = json!({ "apiserver.kubernetes.io/identity": "kube-apiserver" });
    let elsewhere = LEASES.replace("kube-system", "default");
    let leases = [
        (LEASES, "apiserver-gone", &of_server, old),
        (LEASES, "apiserver-other", &of_server, later),
        (LEASES, "somebody", &Value::Null, old),
        (&elsewhere, "apiserver-gone", &of_server, old),
    ];
    for (path, name, labels, renewed) in leases {
        let lease = json!({ "metadata": { "name": name, "labels": labels },
            "spec": { "holderIdentity": name, "leaseDurationSeconds": 3600, "renewTime": renewed } });
        admin.post(path, &lease).await.created();
    }
    let mut events = identities(&cluster).await;
    next(&mut events, "ADDED", "apiserver-gone").await;
    next(&mut events, "ADDED", "apiserver-other").await;
    let (running, stop) = keep(&cluster);
    next(&mut events, "ADDED", NODE).await;
    next(&mut events, "DELETED", "apiserver-gone").await;
    stop.cancel();
    running.await.expect("it ends when told");
    for (path, name, ..) in &leases[1..] {
        admin.get(&format!("{path}/{name}")).await.ok();
    }
}

async fn identities(cluster: &Cluster) -> Events {
    cluster.admin().watch(&format!("{LEASES}{IDENTITIES}")).await
}

fn keep(cluster: &Cluster) -> (tokio::task::JoinHandle<()>, CancellationToken) {
    let (server, token) = (cluster.server.clone(), CancellationToken::new());
    let stop = token.clone();
    let running = async move { server.keep_identity("node", token.cancelled_owned()).await };
    (tokio::spawn(running), stop)
}

/// The object of the next event, which must be this one.
async fn next(events: &mut Events, kind: &str, name: &str) -> Value {
    let (of, object) = events.next().await;
    assert_eq!((of.as_str(), object["metadata"]["name"].as_str()), (kind, Some(name)));
    object
}
