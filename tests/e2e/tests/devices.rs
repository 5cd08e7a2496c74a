//! Devices of a plugin that runs on the node.

use std::path::PathBuf;

use e2e::{Cluster, Host, Running, eventually, kuard_pod};
use serde_json::{Value, json};

const RESOURCE: &str = "example.com/dongle";

fn start_plugin(cluster: &Cluster<'_>, devices: &str) -> (Running, PathBuf) {
    let state = cluster.host.dir().join("dongles");
    std::fs::create_dir_all(&state).expect("the directory is writable");
    std::fs::write(state.join("devices"), devices).expect("the directory is writable");
    let mut command = cluster.node_command(env!("CARGO_BIN_EXE_device-plugin"));
    (Running::start(command.arg(cluster.kubelet_dir()).arg(&state)), state)
}

fn with_dongle(name: &str) -> Value {
    let mut pod = kuard_pod(name);
    pod["spec"]["containers"][0]["resources"] = json!({ "limits": { RESOURCE: "1" } });
    pod
}

/// Capacity and allocatable of the node.
fn dongles(cluster: &Cluster<'_>) -> (String, String) {
    let of = |list: &str| {
        cluster.field("nodes", &format!("{{.items[0].status.{list}.example\\.com/dongle}}"))
    };
    (of("capacity"), of("allocatable"))
}

fn has(cluster: &Cluster<'_>, capacity: &str, allocatable: &str) {
    eventually(&format!("the node has {capacity} and may give {allocatable}"), || {
        dongles(cluster) == (capacity.to_owned(), allocatable.to_owned())
    });
}

#[test]
fn pods_get_devices_that_nobody_else_has_also_after_the_server_was_killed() {
    let host = Host::new("devices");
    let cluster = Cluster::start(&host);
    let (plugin, state) = start_plugin(&cluster, "a Healthy\nb Unhealthy\nc Healthy\n");
    has(&cluster, "3", "2");
    cluster.apply(&with_dongle("first"));
    cluster.wait_until_ready("first");
    let exec = |pod: &str, script: &str| {
        cluster.kubectl_args(&["exec", pod, "--", "sh", "-c", script]).ok()
    };
    assert_eq!(
        exec("first", "echo $DONGLES; cat /dongle/devices | wc -l; head -c 4 /dev/dongle | wc -c"),
        "a\n3\n4\n"
    );
    let container = || cluster.field("pod first", "{.status.containerStatuses[0].containerID}");
    let before = container();

    cluster.restart_server();
    has(&cluster, "3", "2");
    cluster.apply(&with_dongle("second"));
    cluster.wait_until_ready("second");
    assert_eq!(exec("second", "echo $DONGLES"), "c\n", "the first pod still has the other");
    assert_eq!(container(), before);

    let mut third = with_dongle("third");
    third["spec"]["nodeName"] = cluster.field("nodes", "{.items[0].metadata.name}").into();
    cluster.apply(&third);
    eventually("the third is turned away", || {
        cluster.field("pod third", "{.status.reason}") == "UnexpectedAdmissionError"
    });
    let message = cluster.field("pod third", "{.status.message}");
    let why = "Allocate failed due to requested number of devices unavailable for example.com/dongle. Requested: 1, Available: 0, \
               which is unexpected";
    assert!(message.ends_with(why), "{message}");

    std::fs::write(state.join("devices"), "a Healthy\nc Unhealthy\n").expect("writable");
    has(&cluster, "2", "1");
    drop(plugin);
    has(&cluster, "2", "0");
}
