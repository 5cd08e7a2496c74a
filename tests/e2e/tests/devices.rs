//! Devices of a plugin that runs on the node, and of a driver that prepares claims.

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

const CDI: &str = "/var/run/cdi";
const CDI_SPEC: &str = r#"{ "cdiVersion": "0.6.0", "kind": "example.com/gpu", "devices": [
    { "name": "zero", "containerEdits": { "env": ["GPU=zero"], "deviceNodes": [{ "path": "/dev/gpu0", "hostPath": "/dev/zero" }] } }] }"#;

/// Leaves the directory as it was found, unless somebody else uses it.
struct CdiDirectory;

impl Drop for CdiDirectory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir(CDI);
    }
}

/// Runs a shell's script on the host.
fn shell(host: &Host, script: &str, input: &str) {
    e2e::Outcome::of(host.command("sh").args(["-c", script]), input).ok();
}

/// A slice with one device of the node, a class of such devices, and a template of claims.
fn offer_gpu(cluster: &Cluster<'_>) {
    let node = cluster.field("nodes", "{.items[0].metadata.name}");
    let object = |kind: &str, name: &str, spec: Value| {
        cluster.apply(&json!({ "apiVersion": "resource.k8s.io/v1", "kind": kind,
            "metadata": { "name": name }, "spec": spec }));
    };
    let pool = json!({ "name": "node", "generation": 1, "resourceSliceCount": 1 });
    object(
        "ResourceSlice",
        "gpus",
        json!({ "driver": "gpu.example.com", "nodeName": node, "pool": pool,
        "devices": [{ "name": "zero" }] }),
    );
    object(
        "DeviceClass",
        "gpu",
        json!({ "selectors": [{ "cel": { "expression": "device.driver == 'gpu.example.com'" } }] }),
    );
    let request = json!({ "name": "one", "exactly": { "deviceClassName": "gpu" } });
    object(
        "ResourceClaimTemplate",
        "gpu",
        json!({ "spec": { "devices": { "requests": [request] } } }),
    );
}

#[test]
fn a_claims_device_is_prepared_for_its_pod_and_given_back() {
    let _left = CdiDirectory;
    let host = Host::new("claims");
    // Seen by this test's machine alone.
    shell(&host, &format!("mkdir -p {CDI} && mount -t tmpfs tmpfs {CDI}"), "");
    shell(&host, &format!("cat > {CDI}/gpu.json"), CDI_SPEC);
    let cluster = Cluster::start(&host);
    offer_gpu(&cluster);
    let state = host.dir().join("gpus");
    std::fs::create_dir_all(&state).expect("the directory is writable");
    let mut command = cluster.node_command(env!("CARGO_BIN_EXE_dra-driver"));
    let _driver = Running::start(command.arg(cluster.kubelet_dir()).arg(&state));
    let mut pod = kuard_pod("user");
    pod["spec"]["resourceClaims"] = json!([{ "name": "gpu", "resourceClaimTemplateName": "gpu" }]);
    pod["spec"]["containers"][0]["resources"] = json!({ "claims": [{ "name": "gpu" }] });
    cluster.apply(&pod);
    cluster.wait_until_ready("user");
    let seen = cluster.kubectl_args(&[
        "exec",
        "user",
        "--",
        "sh",
        "-c",
        "echo $GPU; head -c 3 /dev/gpu0 | wc -c",
    ]);
    assert_eq!(seen.ok(), "zero\n3\n");
    cluster.restart_server();
    cluster.kubectl("delete pod user --timeout=60s").ok();
    let calls = || std::fs::read_to_string(state.join("calls")).unwrap_or_default();
    eventually("the claim is given back", || calls() == "prepare\ngive back\n");
    eventually("and gone", || cluster.kubectl("get resourceclaims -o name").ok().is_empty());
}
