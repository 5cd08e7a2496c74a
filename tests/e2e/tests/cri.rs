//! A node whose pods are run by containerd and crun, over CRI.

use std::process::Stdio;

use e2e::containerd::Containerd;
use e2e::{Host, Outcome, Running, artifact, eventually, images, kuard_pod, kubectl};
use serde_json::{Value, json};

/// No loopback address, so that pods reach the node.
const ADDRESS: &str = "192.0.2.10";

/// A server whose node uses a container runtime of its own.
struct Server<'a> {
    host: &'a Host,
    args: Vec<String>,
    process: Option<Running>,
}

impl<'a> Server<'a> {
    fn start(host: &'a Host, containerd: &Containerd) -> Self {
        let (data, kubeconfig) = (host.dir().join("data"), host.dir().join("kubeconfig"));
        let args = [
            format!("--data-dir={}", data.display()),
            format!("--write-kubeconfig={}", kubeconfig.display()),
            format!("--node-ip={ADDRESS}"),
            "--node-name=over-cri".to_owned(),
            format!("--cgroup-root={}", containerd.cgroup),
            format!("--container-runtime-endpoint={}", containerd.endpoint()),
        ];
        let mut server = Server { host, args: args.to_vec(), process: None };
        server.resume();
        server
    }

    fn resume(&mut self) {
        let log = std::fs::File::create(self.host.dir().join("server.log")).expect("writable");
        let mut command = self.host.command(artifact("skiff"));
        command.arg("server").args(&self.args).stdout(Stdio::null()).stderr(log);
        self.process = Some(Running::start(&mut command));
        eventually("the node is ready", || {
            self.kubectl("wait --for=condition=Ready node/over-cri --timeout=5s").code == Some(0)
        });
    }

    fn kill(&mut self) {
        self.process = None;
    }

    fn kubectl(&self, args: &str) -> Outcome {
        self.kubectl_args(&args.split(' ').collect::<Vec<_>>(), "")
    }

    fn kubectl_args(&self, args: &[&str], input: &str) -> Outcome {
        let mut command = self.host.command(kubectl());
        command.env("KUBECONFIG", self.host.dir().join("kubeconfig")).env("HOME", self.host.dir());
        Outcome::of(command.args(args), input)
    }

    fn apply(&self, object: &Value) {
        self.kubectl_args(&["apply", "-f", "-"], &object.to_string()).ok();
    }

    fn exec(&self, script: &str) -> Outcome {
        self.kubectl_args(&["exec", "kuard", "--", "sh", "-c", script], "")
    }

    fn field(&self, what: &str, path: &str) -> String {
        self.kubectl(&format!("get {what} --ignore-not-found -o jsonpath={path}")).ok()
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.host.dir().join("server.log"));
            let log = log.unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of the server's log, backwards\n{}", tail.join("\n"));
        }
    }
}

fn probed_pod() -> Value {
    let mut pod = kuard_pod("kuard");
    let container = &mut pod["spec"]["containers"][0];
    container["resources"] = json!({ "limits": { "memory": "64Mi" } });
    let alive = json!({ "path": "/healthy", "port": 8080 });
    container["livenessProbe"] = json!({ "httpGet": alive, "periodSeconds": 1 });
    container["readinessProbe"] =
        json!({ "exec": { "command": ["sh", "-c", "true"] }, "periodSeconds": 1 });
    pod
}

fn crashing_pod() -> Value {
    let mut pod = kuard_pod("crash");
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", "echo up; exit 3"]);
    pod
}

#[test]
fn pods_live_in_containerd_as_they_do_in_the_runtime_that_is_built_in() {
    let host = Host::new("cri");
    let mut containerd = Containerd::start(&host);
    Outcome::of(host.command("ip").args(["addr", "add", "192.0.2.10/32", "dev", "lo"]), "").ok();
    containerd.import(&images().join("pause.tar"));
    containerd.import(&images().join("kuard-blue.tar"));
    let mut server = Server::start(&host, &containerd);
    let runtime = server.field("node/over-cri", "{.status.nodeInfo.containerRuntimeVersion}");
    assert!(runtime.starts_with("containerd://"), "{runtime}");

    server.apply(&probed_pod());
    server.apply(&crashing_pod());
    server.kubectl("wait --for=condition=Ready pod/kuard --timeout=60s").ok();
    assert!(server.field("pod/kuard", "{.status.podIP}").starts_with("10.42.0."));
    let status =
        |path: &str| server.field("pod/kuard", &format!("{{.status.containerStatuses[0].{path}}}"));
    let container = status("containerID");
    assert!(container.starts_with("containerd://"), "{container}");

    // Streams, logs and names.
    let ended = server.exec("echo out; echo err >&2; exit 7");
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(7), "out\n"));
    assert!(ended.stderr.starts_with("err\n"), "{}", ended.stderr);
    let echoed = server.kubectl_args(&["exec", "-i", "kuard", "--", "cat"], "there and back");
    assert_eq!(echoed.ok(), "there and back");
    assert!(server.kubectl("logs kuard").ok().contains("Starting kuard version: blue"));
    server.kubectl("expose pod kuard --port=80 --target-port=8080").ok();
    eventually("a Service is found by its name", || {
        server.exec("wget -qO- http://kuard.default.svc.cluster.local/healthy").stdout == "ok"
    });

    // A container that crashes is started again, with what is known of its end.
    eventually("the crash is told and mended", || {
        let path = "{.status.containerStatuses[0].lastState.terminated.exitCode}";
        server.field("pod/crash", path) == "3"
            && server.field("pod/crash", "{.status.containerStatuses[0].restartCount}") != "0"
    });

    // Neither daemon's end is a container's.
    server.kill();
    containerd.kill();
    containerd.resume();
    server.resume();
    server.kubectl("wait --for=condition=Ready pod/kuard --timeout=60s").ok();
    let status =
        |path: &str| server.field("pod/kuard", &format!("{{.status.containerStatuses[0].{path}}}"));
    assert_eq!((status("containerID"), status("restartCount")), (container, "0".to_owned()));
    assert_eq!(server.exec("echo alive").ok(), "alive\n");

    server.kubectl("delete pods --all --timeout=60s").ok();
    eventually("no container is left", || {
        containerd.ctr(&["containers", "ls", "-q"]).stdout.is_empty()
    });
    assert_eq!(containerd.ctr(&["tasks", "ls", "-q"]).ok(), "");
}
