//! Input that is wrong gets upstream's kind of answer, and nothing is stored.

use std::fs;

use e2e::{Cluster, Host, eventually, kuard_pod};
use serde_json::json;

#[test]
fn what_is_wrong_is_named_and_not_stored() {
    let host = Host::new("bad-objects");
    let cluster = Cluster::start(&host);
    let refused = |input: &str, words: &[&str]| {
        let said = cluster.kubectl_with("create -f -", input).fails();
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    };
    refused("{\"kind\": \"Pod\", \"apiVersion\": ", &["error"]);
    refused("kind: [Pod\n", &["yaml"]);
    refused(
        &json!({"apiVersion": "v1", "kind": "Pdo", "metadata": {"name": "x"}}).to_string(),
        &["no matches for kind \"Pdo\""],
    );
    let mut pod = kuard_pod("x");
    pod["spec"]["replicas"] = json!(3);
    refused(&pod.to_string(), &["unknown field \"spec.replicas\""]);
    refused(&kuard_pod("Not_A_Name").to_string(), &["Invalid value: \"Not_A_Name\"", "RFC 1123"]);
    let mut pod = kuard_pod("x");
    pod["spec"]["containers"][0].as_object_mut().expect("a container").remove("image");
    refused(&pod.to_string(), &["spec.containers[0].image", "Required value"]);
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"},
        "spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "c"}}, "spec": kuard_pod("x")["spec"]},
        },
    });
    refused(&deployment.to_string(), &["`selector` does not match template `labels`"]);
    let big = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "big"},
        "data": {"x": "y".repeat(4 << 20)},
    });
    refused(&big.to_string(), &["too large"]);
    assert_eq!(
        cluster.kubectl("get pods,deployments,configmaps -o name").ok(),
        "configmap/kube-root-ca.crt\n"
    );
    assert_eq!(cluster.skiff(&["status"]).code, Some(0), "the server lives");
}

#[test]
fn a_corrupt_image_archive_leaves_nothing() {
    let host = Host::new("bad-image");
    let cluster = Cluster::start(&host);
    // The colours share a layer, and one that is there already is not read again.
    cluster.skiff(&["image", "rm", "kuard:blue"]).ok();
    let before = cluster.skiff(&["image", "ls"]).ok();
    let broken = host.dir().join("broken.tar");
    let load = || cluster.skiff(&["image", "load", &broken.display().to_string()]).fails();
    fs::write(&broken, b"this is no archive").expect("writable");
    assert!(load().contains("error"));
    let whole = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/images/kuard-green.tar");
    let mut bytes = fs::read(whole).expect("the image was packed");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0xff;
    fs::write(&broken, &bytes).expect("writable");
    load();
    bytes.truncate(middle);
    fs::write(&broken, &bytes).expect("writable");
    load();
    assert_eq!(cluster.skiff(&["image", "ls"]).ok(), before);
}

#[test]
fn commands_say_what_stands_in_their_way() {
    let host = Host::new("bad-commands");
    let cluster = Cluster::named(&host, "none");
    assert!(cluster.skiff(&["stop"]).fails().contains("does not exist"));
    assert!(cluster.skiff(&["image", "ls"]).fails().contains("is not running"));
    let taken = host.inside(|| std::net::TcpListener::bind("127.0.0.1:7443").expect("it is free"));
    let said = cluster.skiff(&["start", "--port", "7443"]).fails();
    assert!(said.contains("port 7443") && said.contains("taken"), "{said}");
    drop(taken);
    let bad = e2e::Outcome::of(cluster.skiff_command().args(["start", "--name", "Not/A/Name"]), "");
    assert!(bad.fails().contains("is no cluster name"));

    let mut command = host.command("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    command.arg(cluster.skiff_command().get_program()).args(["start", "--name", &cluster.name]);
    let said = e2e::Outcome::of(&mut command, "").fails();
    assert!(said.contains("needs root"), "{said}");
}

#[test]
fn a_full_disk_refuses_writes_and_loses_none() {
    let host = Host::new("full-disk");
    let data = host.dir().join("small");
    fs::create_dir_all(&data).expect("writable");
    let mount = |options: &str| {
        let mut mount = host.command("mount");
        mount.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&data);
        e2e::Outcome::of(&mut mount, "").ok();
    };
    mount("size=24m");
    let cluster = Cluster::named(&host, "full-disk");
    let serve = || {
        let mut command = cluster.skiff_command();
        command.args(["server", "--no-node", "--no-controllers", "--bind-address", "127.0.0.1"]);
        command.arg("--data-dir").arg(data.join("server"));
        command.arg("--write-kubeconfig").arg(cluster.kubeconfig());
        let server = e2e::Running::start(&mut command);
        eventually("the API answers", || cluster.kubectl("get --raw /readyz").code == Some(0));
        server
    };
    let server = serve();
    let write = |number: usize| {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("fill-{number}")},
            "data": {"x": "y".repeat(900 << 10)},
        });
        cluster.kubectl_with("create --validate=false -f -", &object.to_string())
    };
    let refused_at = (0..60).find(|number| write(*number).code != Some(0)).expect("it gets full");
    assert!(write(refused_at + 1).fails().contains("error"), "it goes on refusing");
    let stored = || cluster.kubectl("get configmaps -o name").ok().lines().count();
    assert_eq!(stored(), refused_at, "what was acknowledged can be read");
    drop(server);
    mount("remount,size=128m");
    let _server = serve();
    assert_eq!(stored(), refused_at, "and is there after a restart");
    write(refused_at + 2).ok();
}
