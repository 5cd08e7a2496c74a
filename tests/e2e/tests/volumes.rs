//! Configuration and data inside of a container.

use std::time::Duration;

use e2e::{Cluster, Host, eventually, eventually_within, kuard_pod};
use serde_json::json;

#[test]
fn a_changed_config_map_is_seen_in_the_volume() {
    let host = Host::new("config-map");
    let cluster = Cluster::start(&host);
    cluster
        .kubectl("create configmap conf --from-literal=mode=first --from-literal=other=kept")
        .ok();
    cluster.kubectl("create secret generic key --from-literal=password=hunter2").ok();
    let mut pod = kuard_pod("kuard");
    pod["spec"]["volumes"] = json!([
        { "name": "conf", "configMap": { "name": "conf" } },
        { "name": "key", "secret": { "secretName": "key", "defaultMode": 0o400 } },
        { "name": "scratch", "emptyDir": {} },
    ]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeMounts"] = json!([
        { "name": "conf", "mountPath": "/conf" },
        { "name": "key", "mountPath": "/key", "readOnly": true },
        { "name": "scratch", "mountPath": "/scratch" },
    ]);
    container["env"] = json!([
        { "name": "MODE", "valueFrom": { "configMapKeyRef": { "name": "conf", "key": "mode" } } },
        { "name": "POD", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
        { "name": "GREETING", "value": "$(MODE) of $(POD), $$(not)" },
    ]);
    container["envFrom"] = json!([{ "prefix": "SECRET_", "secretRef": { "name": "key" } }]);
    container["securityContext"] = json!({ "runAsUser": 0 });
    cluster.apply(&pod);
    cluster.wait_until_ready("kuard");

    let exec =
        |script: &str| cluster.kubectl_args(&["exec", "kuard", "--", "sh", "-c", script]).ok();
    assert_eq!(
        exec("cat /conf/mode; echo $GREETING; echo $SECRET_password"),
        "firstfirst of kuard, $(not)\nhunter2\n"
    );
    assert_eq!(exec("cat /key/password; stat -Lc %a /key/password"), "hunter2400\n");
    exec("echo kept > /scratch/file");
    cluster
        .kubectl_args(&["patch", "configmap", "conf", "-p", r#"{"data":{"mode":"second"}}"#])
        .ok();
    eventually("the volume shows the change", || exec("cat /conf/mode") == "second");
    assert_eq!(exec("cat /conf/other; cat /scratch/file"), "keptkept\n");
    // The token of the service account is there, and is believed.
    let token = exec("cat /var/run/secrets/kubernetes.io/serviceaccount/token");
    let authority = exec("cat /var/run/secrets/kubernetes.io/serviceaccount/ca.crt");
    let file = host.dir().join("ca.crt");
    std::fs::write(&file, authority).expect("the directory is writable");
    let server =
        cluster.kubectl("config view --minify -o jsonpath={.clusters[0].cluster.server}").ok();
    let mut whoami = cluster.kubectl_command();
    whoami.env("KUBECONFIG", "/dev/null").args(["auth", "whoami", "--token", &token]);
    whoami.args(["--server", &server, "--certificate-authority"]).arg(&file);
    let name = e2e::Outcome::of(&mut whoami, "").ok();
    assert!(name.contains("system:serviceaccount:default:default"), "{name}");
}

#[test]
fn an_image_is_a_volume_and_one_that_is_not_there_says_so() {
    let host = Host::new("image-volume");
    let cluster = Cluster::start(&host);
    let with_image = |name: &str, source: serde_json::Value| {
        let mut pod = kuard_pod(name);
        pod["spec"]["volumes"] = json!([{ "name": "files", "image": source }]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "files", "mountPath": "/files", "subPath": "bin" }]);
        pod
    };
    let image = kuard_pod("any")["spec"]["containers"][0]["image"].clone();
    cluster.apply(&with_image("reader", json!({ "reference": image })));
    cluster.wait_until_ready("reader");
    let exec =
        |script: &str| cluster.kubectl_args(&["exec", "reader", "--", "sh", "-c", script]).ok();
    assert_eq!(exec("cmp /files/sh /bin/sh && echo same"), "same\n");
    assert!(exec("touch /files/x 2>&1; true").contains("Read-only file system"));

    let never = json!({ "reference": "not.there/files:1", "pullPolicy": "Never" });
    cluster.apply(&with_image("waiting", never));
    let reason = "get pod waiting -o jsonpath={.status.containerStatuses[0].state.waiting.reason}";
    eventually("the pod says why it waits", || cluster.kubectl(reason).ok() == "ErrImageNeverPull");
}

#[test]
fn a_host_path_outlives_the_pod() {
    let host = Host::new("host-path");
    let cluster = Cluster::start(&host);
    let dir = host.dir().join("data");
    let mut pod = kuard_pod("writer");
    pod["spec"]["volumes"] =
        json!([{ "name": "data", "hostPath": { "path": dir, "type": "DirectoryOrCreate" } }]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "data", "mountPath": "/data" }]);
    pod["spec"]["containers"][0]["securityContext"] = json!({ "runAsUser": 0 });
    cluster.apply(&pod);
    cluster.wait_until_ready("writer");
    cluster.kubectl_args(&["exec", "writer", "--", "sh", "-c", "echo there > /data/file"]).ok();
    cluster.kubectl("delete pod writer --grace-period=0 --force").ok();
    assert_eq!(std::fs::read_to_string(dir.join("file")).expect("it was written"), "there\n");
}

#[test]
fn a_claim_gets_storage_that_outlives_its_pods_and_goes_with_it() {
    let host = Host::new("claim");
    let cluster = Cluster::start(&host);
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "data" },
        "spec": { "accessModes": ["ReadWriteOnce"], "resources": { "requests": { "storage": "1Gi" } } },
    }));
    let claim = |path: &str| cluster.kubectl(&format!("get pvc data -o jsonpath={path}")).ok();
    eventually("the claim is bound", || claim("{.status.phase}") == "Bound");
    assert_eq!(claim("{.spec.storageClassName}"), "standard");
    let volume = claim("{.spec.volumeName}");
    let directory =
        cluster.kubectl(&format!("get pv {volume} -o jsonpath={{.spec.local.path}}")).ok();
    let with_claim = |name: &str| {
        let mut pod = kuard_pod(name);
        pod["spec"]["volumes"] =
            json!([{ "name": "data", "persistentVolumeClaim": { "claimName": "data" } }]);
        pod["spec"]["containers"][0]["volumeMounts"] =
            json!([{ "name": "data", "mountPath": "/data" }]);
        cluster.apply(&pod);
        cluster.wait_until_ready(name);
    };
    with_claim("writer");
    cluster.kubectl_args(&["exec", "writer", "--", "sh", "-c", "echo there > /data/file"]).ok();
    cluster.kubectl("delete pod writer --grace-period=0 --force").ok();
    with_claim("reader");
    assert_eq!(cluster.kubectl("exec reader -- cat /data/file").ok(), "there\n");
    let larger = r#"{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}"#;
    cluster.kubectl_args(&["patch", "pvc", "data", "-p", larger]).ok();
    eventually("the claim has grown", || claim("{.status.capacity.storage}") == "2Gi");
    assert_eq!(claim("{.status.conditions}"), "", "nothing is left to be done");
    assert_eq!(cluster.field(&format!("pv {volume}"), "{.spec.capacity.storage}"), "2Gi");
    cluster.kubectl("delete pvc data --wait=false").ok();
    assert_ne!(claim("{.metadata.deletionTimestamp}"), "", "it is in use, and stays");
    cluster.kubectl("delete pod reader --grace-period=0 --force").ok();
    eventually("the volume is gone", || {
        cluster.kubectl("get pv -o name").ok().is_empty()
            && !std::path::Path::new(&directory).exists()
    });
}

#[test]
fn a_block_volume_is_a_device_in_the_container() {
    let host = Host::new("block");
    let Some(disk) = Loop::new(&host.dir().join("disk")) else {
        eprintln!("skipped: this machine has no loop devices");
        return;
    };
    let cluster = Cluster::start(&host);
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": "raw" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "4Mi" }, "volumeMode": "Block",
            "storageClassName": "raw", "local": { "path": disk.0 },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [{
                "key": "kubernetes.io/os", "operator": "In", "values": ["linux"],
            }] }] } },
        },
    }));
    cluster.apply(&json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": { "name": "raw" },
        "spec": {
            "accessModes": ["ReadWriteOnce"], "volumeMode": "Block", "storageClassName": "raw",
            "resources": { "requests": { "storage": "4Mi" } },
        },
    }));
    let mut pod = kuard_pod("writer");
    pod["spec"]["volumes"] =
        json!([{ "name": "disk", "persistentVolumeClaim": { "claimName": "raw" } }]);
    let container = &mut pod["spec"]["containers"][0];
    container["volumeDevices"] = json!([{ "name": "disk", "devicePath": "/dev/xvda" }]);
    container["securityContext"] = json!({ "runAsUser": 0 });
    cluster.apply(&pod);
    cluster.wait_until_ready("writer");
    let write = "test -b /dev/xvda && printf there | dd of=/dev/xvda conv=fsync 2>/dev/null && \
                 head -c 5 /dev/xvda; head -c 1 /dev/loop-control 2>&1 | grep -c 'No such'";
    let told = cluster.kubectl_args(&["exec", "writer", "--", "sh", "-c", write]).ok();
    assert_eq!(told, "there1\n");
    let file = std::fs::read(host.dir().join("disk")).expect("readable");
    assert_eq!(&file[..5], b"there");

    // The same as a file system is a mistake, which is told.
    let mut wrong = kuard_pod("wrong");
    wrong["spec"]["volumes"] = pod["spec"]["volumes"].clone();
    wrong["spec"]["containers"][0]["volumeMounts"] =
        json!([{ "name": "disk", "mountPath": "/data" }]);
    cluster.apply(&wrong);
    eventually("the mistake is told", || {
        let events = cluster.kubectl("get events --field-selector involvedObject.name=wrong").ok();
        events.contains("volume disk has volumeMode Block, but is specified in volumeMounts")
    });
}

#[test]
fn an_export_that_cannot_be_mounted_says_so_and_leaves_with_its_pod() {
    let host = Host::new("nfs");
    let cluster = Cluster::start(&host);
    let mut pod = kuard_pod("reader");
    // Nothing listens there, so that no kernel gets far.
    pod["spec"]["volumes"] = json!([
        { "name": "files", "nfs": { "server": "127.0.0.1", "path": "/export", "readOnly": true } },
    ]);
    cluster.apply(&pod);
    let events = || cluster.field("events", "{.items[*].message}");
    let said = "MountVolume.SetUp failed for volume \"files\" : mount failed: ";
    // At once where there is no helper; a helper tries for two minutes.
    let patience = Duration::from_secs(200);
    eventually_within(patience, "the pod says why it waits", || events().contains(said));
    assert!(
        events().contains("Mounting arguments: -t nfs -o ro 127.0.0.1:/export "),
        "{}",
        events()
    );
    let known = std::fs::read_to_string("/proc/filesystems").expect("a Linux");
    let unknown = "The kernel of this node does not support NFS";
    assert_eq!(events().contains(unknown), !known.contains("nfs"), "{}", events());
    cluster.kubectl("delete pod reader --timeout=200s").ok();
}

/// A disk made of a file, given back whatever happens.
struct Loop(String);

impl Loop {
    fn new(file: &std::path::Path) -> Option<Self> {
        std::fs::File::create(file).and_then(|file| file.set_len(4 << 20)).expect("writable");
        let made =
            std::process::Command::new("losetup").args(["--find", "--show"]).arg(file).output();
        let made = made.ok().filter(|made| made.status.success())?;
        Some(Loop(String::from_utf8(made.stdout).ok()?.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
