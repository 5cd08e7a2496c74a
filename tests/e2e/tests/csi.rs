//! Volumes of a CSI driver that runs on the node and mounts for real.

use std::path::{Path, PathBuf};

use e2e::{Cluster, Host, Running, eventually, kuard_pod};
use serde_json::{Value, json};

const DRIVER: &str = "disk.example.com";

/// The driver of these tests, running on the node.
struct Disk<'a> {
    cluster: &'a Cluster<'a>,
    state: PathBuf,
    process: Running,
}

// === impl Disk ===

impl<'a> Disk<'a> {
    fn start(cluster: &'a Cluster<'a>) -> Self {
        let state = cluster.host.dir().join("disks");
        std::fs::create_dir_all(&state).expect("the directory is writable");
        let mut command = cluster.node_command(env!("CARGO_BIN_EXE_csi-driver"));
        let process = Running::start(command.arg(cluster.kubelet_dir()).arg(&state));
        let disk = Disk { cluster, state, process };
        eventually("the driver is registered", || disk.registered() == DRIVER);
        disk
    }

    fn registered(&self) -> String {
        self.cluster.field("csinodes", "{.items[*].spec.drivers[*].name}")
    }

    /// What it was asked about volumes, a line each.
    fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.state.join("calls")).unwrap_or_default();
        calls.lines().map(|line| line.trim().to_owned()).collect()
    }

    fn count(&self, call: &str) -> usize {
        self.calls().iter().filter(|known| known.starts_with(call)).count()
    }

    /// As the registrar beside a driver does when it ends.
    fn leave(mut self) {
        let _ = self.process.0.kill();
        let socket = self.cluster.kubelet_dir().join("plugins_registry/disk.sock");
        std::fs::remove_file(socket).expect("its socket is there");
        eventually("the driver is gone", || self.registered().is_empty());
    }
}

fn describe_driver(cluster: &Cluster<'_>) {
    cluster.apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver", "metadata": { "name": DRIVER },
        "spec": { "attachRequired": false, "podInfoOnMount": true, "fsGroupPolicy": "File",
                  "volumeLifecycleModes": ["Persistent", "Ephemeral"] },
    }));
}

/// A claim `data`, bound to a volume of the driver.
fn create_claim(cluster: &Cluster<'_>) {
    cluster.apply(&json!({
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": { "name": "disks" },
        "provisioner": DRIVER, "allowVolumeExpansion": true,
    }));
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "disk-1" },
        "spec": { "capacity": { "storage": "1Gi" }, "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
                  "claimRef": { "namespace": "default", "name": "data" },
                  "csi": { "driver": DRIVER, "volumeHandle": "one" } },
    }));
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "storageClassName": "disks",
                  "resources": { "requests": { "storage": "1Gi" } } },
    }));
    eventually("the claim is bound", || cluster.field("pvc data", "{.status.phase}") == "Bound");
}

fn with_volume(name: &str, source: Value) -> Value {
    let mut volume = source;
    volume["name"] = "data".into();
    let mut pod = kuard_pod(name);
    pod["spec"]["volumes"] = json!([volume]);
    pod["spec"]["securityContext"] = json!({ "runAsUser": 1000, "fsGroup": 2000 });
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "data", "mountPath": "/data" }]);
    pod
}

fn with_claim(name: &str) -> Value {
    with_volume(name, json!({ "persistentVolumeClaim": { "claimName": "data" } }))
}

fn delete(cluster: &Cluster<'_>, pod: &str) {
    cluster.kubectl(&format!("delete pod {pod} --timeout=60s")).ok();
}

/// What the node says of the pod's volume.
fn statistics(cluster: &Cluster<'_>, pod: &str) -> Value {
    let node = cluster.field("nodes", "{.items[0].metadata.name}");
    let path = format!("get --raw /api/v1/nodes/{node}/proxy/stats/summary");
    let summary: Value = serde_json::from_str(&cluster.kubectl(&path).ok()).expect("JSON");
    let pods = summary["pods"].as_array().cloned().unwrap_or_default();
    let found = pods.into_iter().find(|it| it["podRef"]["name"] == pod);
    let volumes = found.and_then(|pod| pod["volume"].as_array().cloned()).unwrap_or_default();
    volumes.into_iter().find(|volume| volume["name"] == "data").unwrap_or_default()
}

/// The external resizer's part: the volume has grown, and it is the node's turn.
fn grow(cluster: &Cluster<'_>, size: &str) {
    let patch = |what: &[&str], patch: Value| {
        cluster
            .kubectl_args(&[&["patch"], what, &["--type=merge", "-p", &patch.to_string()]].concat())
            .ok()
    };
    let storage = json!({ "storage": size });
    patch(&["pvc", "data"], json!({ "spec": { "resources": { "requests": storage } } }));
    patch(&["pv", "disk-1"], json!({ "spec": { "capacity": storage } }));
    let status = json!({ "allocatedResources": storage,
        "allocatedResourceStatuses": { "storage": "NodeResizePending" },
        "conditions": [{ "type": "FileSystemResizePending", "status": "True" }] });
    patch(&["pvc", "data", "--subresource=status"], json!({ "status": status }));
}

#[test]
fn a_drivers_volume_goes_from_pod_to_pod_over_a_killed_server_and_grows() {
    let host = Host::new("csi");
    let cluster = Cluster::start(&host);
    describe_driver(&cluster);
    let disk = Disk::start(&cluster);
    create_claim(&cluster);
    cluster.apply(&with_claim("writer"));
    cluster.wait_until_ready("writer");
    let exec = |pod: &str, script: &str| {
        cluster.kubectl_args(&["exec", pod, "--", "sh", "-c", script]).ok()
    };
    exec("writer", "echo there > /data/file");
    assert_eq!(exec("writer", "stat -c %g /data /data/file"), "2000\n2000\n", "the pod's group");
    let volume = disk.state.join("volumes/one");
    assert_eq!(std::fs::read_to_string(volume.join("file")).expect("it is there"), "there\n");
    let told = statistics(&cluster, "writer");
    assert_eq!((&told["usedBytes"], &told["capacityBytes"]), (&json!(6), &json!(1 << 30)));
    assert_eq!(told["pvcRef"]["name"], "data");

    cluster.restart_server();
    eventually("it runs on with its volume", || {
        cluster.kubectl("exec writer -- cat /data/file").stdout == "there\n"
    });
    delete(&cluster, "writer");
    eventually("the volume has left the node", || disk.count("unstage one") == 1);
    assert_eq!(disk.calls(), ["stage one", "publish one writer", "unpublish one", "unstage one"]);

    grow(&cluster, "2Gi");
    cluster.apply(&with_claim("reader"));
    cluster.wait_until_ready("reader");
    assert_eq!(exec("reader", "cat /data/file"), "there\n");
    assert_eq!(disk.count("expand one 2147483648"), 1);
    assert_eq!(cluster.field("pvc data", "{.status.capacity.storage}"), "2Gi");
    assert_eq!(cluster.field("pvc data", "{.status.conditions}"), "");
    let waiting = "waiting for an external controller to expand this PVC";
    assert!(cluster.kubectl("get events").ok().contains(waiting));
    delete(&cluster, "reader");
    eventually("the volume has left the node", || disk.count("unstage one") == 2);
    assert!(mounts_below(&cluster, &disk.state).is_empty());
}

/// What the node still has mounted of the driver's directories.
fn mounts_below(cluster: &Cluster<'_>, state: &Path) -> Vec<String> {
    let path = format!("/proc/{}/mountinfo", cluster.holder_pid());
    let mounts = std::fs::read_to_string(path).expect("the node is there");
    let root = state.display().to_string();
    mounts.lines().filter(|line| line.contains(&root)).map(str::to_owned).collect()
}

#[test]
fn an_inline_volume_lives_as_long_as_its_pod_and_waits_for_its_driver() {
    let host = Host::new("csi-inline");
    let cluster = Cluster::start(&host);
    describe_driver(&cluster);
    let inline = |name: &str| with_volume(name, json!({ "csi": { "driver": DRIVER } }));
    cluster.apply(&inline("early"));
    let said = "MountVolume.SetUp failed for volume \"data\" : kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: \
                driver name disk.example.com not found in the list of registered CSI drivers";
    eventually("the pod says what it waits for", || {
        cluster.field("events", "{.items[*].message}").contains(said)
    });
    let disk = Disk::start(&cluster);
    cluster.wait_until_ready("early");
    let exec =
        |script: &str| cluster.kubectl_args(&["exec", "early", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("echo x > /data/x; stat -f -c %T /data"), "tmpfs\n");
    assert!(disk.calls()[0].ends_with(" early"), "the driver knows its pod: {:?}", disk.calls());
    delete(&cluster, "early");
    eventually("it is taken back", || disk.count("unpublish") == 1);
    assert_eq!(disk.count("stage"), 0);
    disk.leave();
}
