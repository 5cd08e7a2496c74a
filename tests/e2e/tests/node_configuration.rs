//! A node that a file says how to be.

use std::net::SocketAddr;

use e2e::{Cluster, Host, http, kuard_pod};
use serde_json::{Value, json};

#[test]
fn a_node_is_as_its_configuration_file_says() {
    let host = Host::new("kubelet-config");
    let file = host.dir().join("kubelet.yaml");
    let head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n";
    let write = |text: &str| std::fs::write(&file, format!("{head}{text}")).expect("a file");
    let flag = format!("--server-arg=--kubelet-config={}", file.display());
    write(
        "maxPods: 7\npodPidsLimit: 60\nport: 10350\nkubeReserved: {cpu: 100m, memory: 64Mi}\n\
         allowedUnsafeSysctls: ['kernel.msg*']\nseccompDefault: true\n\
         cgroupDriver: systemd\nrotateCertificates: true\nhealthzPort: 10248\nhealthzBindAddress: 0.0.0.0\n",
    );
    let cluster = Cluster::start_with(&host, &[&flag]);
    let node = &cluster.get("nodes")["items"][0];
    assert_eq!(node["status"]["capacity"]["pods"], "7");
    assert_eq!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10350);
    let cpu = node["status"]["allocatable"]["cpu"].as_str().expect("a quantity");
    assert!(cpu.ends_with("900m"), "{cpu}");
    let address = node["status"]["addresses"][0]["address"].as_str().expect("an address");
    let health = SocketAddr::new(address.parse().expect("an IP address"), 10248);
    assert_eq!(host.inside(|| http::get(health, "/healthz")).expect("it is told"), "ok");
    let name = node["metadata"]["name"].as_str().expect("a name");
    let shown = cluster.kubectl(&format!("get --raw /api/v1/nodes/{name}/proxy/configz")).ok();
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["kubeletconfig"]["podPidsLimit"], 60);
    assert_eq!(shown["kubeletconfig"]["kubeReserved"], json!({ "cpu": "100m", "memory": "64Mi" }));

    let mut pod = kuard_pod("kuard");
    pod["spec"]["securityContext"] =
        json!({ "sysctls": [{ "name": "kernel.msgmax", "value": "4096" }] });
    cluster.apply(&pod);
    cluster.wait_until_ready("kuard");
    let told = "cat /proc/sys/kernel/msgmax; grep Seccomp: /proc/self/status";
    let told = cluster.kubectl_args(&["exec", "kuard", "--", "sh", "-c", told]).ok();
    assert_eq!(told, "4096\nSeccomp:\t2\n");
    let bomb = "i=0; while [ $i -lt 100 ]; do sleep 2 & i=$((i+1)); done; echo all of them";
    let bomb = cluster.kubectl_args(&["exec", "kuard", "--", "sh", "-c", bomb]);
    assert!(bomb.stderr.contains("fork") && !bomb.stdout.contains("all of them"), "{bomb:?}");

    write("maxPods: 7\nreadOnlyPort: 10255\n");
    let refused = Cluster::named(&host, "refused");
    let told = refused.skiff(&["start", &flag]).fails();
    assert!(told.contains("readOnlyPort is not supported by this node"), "{told}");
}
