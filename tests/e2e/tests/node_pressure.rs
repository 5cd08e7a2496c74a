//! A node that runs short, and pods that take more of its disk than they may.

use std::time::Duration;

use e2e::{Cluster, Host, Outcome, eventually_within, kuard_pod};
use serde_json::{Value, json};

/// A few looks of the node, ten seconds apart.
const PATIENCE: Duration = Duration::from_secs(60);

fn scratch_pod(name: &str, volume: Value) -> Value {
    let mut pod = kuard_pod(name);
    pod["spec"]["volumes"] = json!([{ "name": "scratch", "emptyDir": volume }]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "scratch", "mountPath": "/scratch" }]);
    pod
}

fn fill(cluster: &Cluster<'_>, pod: &str, mebibytes: u32) {
    let script = format!("dd if=/dev/zero of=/scratch/data bs=1048576 count={mebibytes}");
    cluster.kubectl_args(&["exec", pod, "--", "sh", "-c", &script]).ok();
}

fn wait_for_eviction(cluster: &Cluster<'_>, pod: &str) -> String {
    let pod = format!("pod {pod}");
    eventually_within(PATIENCE, "the pod is evicted", || {
        cluster.field(&pod, "{.status.phase} {.status.reason}") == "Failed Evicted"
    });
    cluster.field(&pod, "{.status.message}")
}

#[test]
fn a_pod_that_fills_the_nodes_disk_is_evicted_and_the_others_stay() {
    let host = Host::new("disk-pressure");
    // A disk of its own, so that nobody else fills it.
    let disk = host.dir().join("root");
    std::fs::create_dir_all(&disk).expect("the directory is writable");
    let mut mount = host.command("mount");
    Outcome::of(mount.args(["-t", "tmpfs", "-o", "size=400m", "tmpfs"]).arg(&disk), "").ok();
    let cluster = Cluster::start_with(
        &host,
        &[
            "--server-arg=--eviction-hard=nodefs.available<100Mi",
            "--server-arg=--eviction-pressure-transition-period=12",
        ],
    );
    for name in ["greedy", "modest"] {
        cluster.apply(&scratch_pod(name, json!({})));
        cluster.wait_until_ready(name);
    }
    let container = cluster.field("pod modest", "{.status.containerStatuses[0].containerID}");
    let left = Outcome::of(host.command("stat").args(["-f", "-c", "%f %S"]).arg(&disk), "").ok();
    let left: Vec<u64> = left.split_whitespace().map(|n| n.parse().expect("a number")).collect();
    let left = u32::try_from((left[0] * left[1]) >> 20).expect("a small disk");
    assert!(left > 150, "only {left} MiB are left before the test has begun");
    fill(&cluster, "modest", 1);
    fill(&cluster, "greedy", left - 60);

    let message = wait_for_eviction(&cluster, "greedy");
    let expected =
        "The node was low on resource: ephemeral-storage. Threshold quantity: 100Mi, available: ";
    assert!(message.starts_with(expected), "{message}");
    let disrupted = "{.status.conditions[?(@.type==\"DisruptionTarget\")].reason}";
    assert_eq!(cluster.field("pod greedy", disrupted), "TerminationByKubelet");
    let pressure = "{.items[0].status.conditions[?(@.type==\"DiskPressure\")].status}";
    let taints = "{.items[0].spec.taints[*].key}";
    eventually_within(PATIENCE, "the pressure is over", || {
        cluster.field("nodes", pressure) == "False" && cluster.field("nodes", taints).is_empty()
    });
    let events =
        cluster.field("events --field-selector involvedObject.kind=Node", "{.items[*].reason}");
    for event in ["NodeHasDiskPressure", "EvictionThresholdMet", "NodeHasNoDiskPressure"] {
        assert!(events.contains(event), "{event} is not told: {events}");
    }
    assert_eq!(
        cluster.field("pod modest", "{.status.containerStatuses[0].containerID}"),
        container
    );
    assert_eq!(cluster.field("pod modest", "{.status.phase}"), "Running");
}

#[test]
fn pods_beyond_their_limits_of_disk_are_evicted() {
    let host = Host::new("disk-limits");
    let cluster = Cluster::start(&host);
    cluster.apply(&scratch_pod("volume", json!({ "sizeLimit": "5Mi" })));
    let mut limited = scratch_pod("container", json!({}));
    limited["spec"]["containers"][0]["resources"] =
        json!({ "limits": { "ephemeral-storage": "10Mi" } });
    cluster.apply(&limited);
    cluster.apply(&scratch_pod("within", json!({ "sizeLimit": "50Mi" })));
    for (pod, mebibytes) in [("volume", 6), ("container", 12), ("within", 6)] {
        cluster.wait_until_ready(pod);
        fill(&cluster, pod, mebibytes);
    }
    assert_eq!(
        wait_for_eviction(&cluster, "volume"),
        "Usage of EmptyDir volume \"scratch\" exceeds the limit \"5Mi\". "
    );
    assert_eq!(
        wait_for_eviction(&cluster, "container"),
        "Pod ephemeral local storage usage exceeds the total limit of containers 10Mi. "
    );
    assert_eq!(cluster.field("pod within", "{.status.phase}"), "Running");
}
