//! Pods that a node runs by itself, from files.

use std::path::Path;

use e2e::{Cluster, Host, eventually, kuard_pod};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// By rename, as anybody who replaces a file with care.
fn put(dir: &Path, name: &str, pod: &Value) {
    let text = pod.to_string();
    std::fs::write(dir.join(".new"), text).expect("the directory is writable");
    std::fs::rename(dir.join(".new"), dir.join(name)).expect("it is there");
}

#[test]
fn a_static_pod_follows_its_file_and_not_its_mirror() {
    let host = Host::new("static-pods");
    let manifests = host.dir().join("manifests");
    std::fs::create_dir_all(&manifests).expect("the directory is writable");
    let path = format!("--server-arg=--pod-manifest-path={}", manifests.display());
    let cluster = Cluster::start_with(&host, &[&path]);
    put(&manifests, "kuard.json", &kuard_pod("kuard"));
    let name = format!("kuard-{}", cluster.name);
    let pod = format!("pod {name}");
    eventually("the mirror pod is there", || !cluster.field(&pod, "{.metadata.uid}").is_empty());
    cluster.wait_until_ready(&name);
    assert_eq!(cluster.kubectl(&format!("exec {name} -- echo there")).ok(), "there\n");
    let container = || cluster.field(&pod, "{.status.containerStatuses[0].containerID}");
    let uid = || cluster.field(&pod, "{.metadata.uid}");
    let (first, mirror) = (container(), uid());

    cluster.kubectl(&format!("delete {} --wait=false", pod.replace(' ', "/"))).ok();
    eventually("another mirror pod stands for the same containers", || {
        let now = uid();
        !now.is_empty() && now != mirror && container() == first
    });

    kill(Pid::from_raw(cluster.server_pid()), Signal::SIGKILL).expect("the server is ours");
    eventually("the server is back", || cluster.kubectl("get --raw /readyz").code == Some(0));
    cluster.wait_until_ready(&name);
    assert_eq!(container(), first);

    let mut changed = kuard_pod("kuard");
    changed["spec"]["containers"][0]["env"] = serde_json::json!([{ "name": "A", "value": "b" }]);
    put(&manifests, "kuard.json", &changed);
    eventually("the changed file has another container", || {
        let now = container();
        !now.is_empty() && now != first
    });
    cluster.wait_until_ready(&name);
    assert_eq!(cluster.kubectl_args(&["exec", &name, "--", "sh", "-c", "echo $A"]).ok(), "b\n");

    std::fs::remove_file(manifests.join("kuard.json")).expect("it is there");
    eventually("the mirror pod is gone", || uid().is_empty());
}
