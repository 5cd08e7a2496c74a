//! A cluster on a test's host, and kubectl against it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::host::Host;
use crate::run::{Outcome, eventually_within};

/// A debug build on a busy machine takes its time.
const RESTART_PATIENCE: Duration = Duration::from_secs(90);

/// Dropping it deletes the cluster, whatever became of the test.
pub struct Cluster<'a> {
    pub host: &'a Host,
    pub name: String,
}

impl<'a> Cluster<'a> {
    /// Starts a cluster with the sample app's blue image loaded.
    pub fn start(host: &'a Host) -> Cluster<'a> {
        Cluster::start_with(host, &[])
    }

    /// The same with further arguments for `skiff start`.
    pub fn start_with(host: &'a Host, args: &[&str]) -> Cluster<'a> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Cgroups are the machine's: names must differ between test processes.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let cluster = Cluster { host, name: format!("e2e-{}-{number}", std::process::id()) };
        cluster.skiff(&[&["start"], args].concat()).ok();
        cluster.load("kuard-blue.tar");
        cluster
    }

    /// A cluster that is not there yet.
    pub fn named(host: &'a Host, name: &str) -> Cluster<'a> {
        Cluster { host, name: format!("{name}-{}", std::process::id()) }
    }

    /// Runs `skiff ARGS --name NAME`.
    pub fn skiff(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.skiff_command().args(args).args(["--name", &self.name]), "")
    }

    pub fn skiff_command(&self) -> Command {
        let mut command = self.host.command(artifact("skiff"));
        command.env("SKIFF_ROOT", self.host.dir().join("root"));
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    pub fn load(&self, image: &str) {
        let archive = images().join(image);
        self.skiff(&["image", "load", &archive.display().to_string()]).ok();
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.host.dir().join(format!("{}.kubeconfig", self.name))
    }

    /// Runs kubectl; `args` are split at spaces.
    pub fn kubectl(&self, args: &str) -> Outcome {
        self.kubectl_with(args, "")
    }

    /// The same with something on standard input.
    pub fn kubectl_with(&self, args: &str, input: &str) -> Outcome {
        Outcome::of(self.kubectl_command().args(args.split(' ')), input)
    }

    /// For arguments with spaces.
    pub fn kubectl_args(&self, args: &[&str]) -> Outcome {
        Outcome::of(self.kubectl_command().args(args), "")
    }

    pub fn kubectl_command(&self) -> Command {
        let mut command = self.host.command(kubectl());
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.host.dir());
        command
    }

    /// Starts a kubectl that runs on, with its output piped.
    pub fn kubectl_running(&self, args: &str) -> Running {
        let mut command = self.kubectl_command();
        Running::start(command.args(args.split(' ')).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    pub fn apply(&self, object: &Value) {
        self.kubectl_with("apply -f -", &object.to_string()).ok();
    }

    pub fn get(&self, what: &str) -> Value {
        let text = self.kubectl(&format!("get {what} -o json")).ok();
        serde_json::from_str(&text).expect("kubectl prints JSON")
    }

    /// One field, as kubectl's JSONPath prints it; empty if there is no such object.
    pub fn field(&self, what: &str, path: &str) -> String {
        let args: Vec<&str> = std::iter::once("get").chain(what.split(' ')).collect();
        let template = format!("jsonpath={path}");
        self.kubectl_args(&[&args[..], &["--ignore-not-found", "-o", &template]].concat()).ok()
    }

    pub fn wait_for_rollout(&self, name: &str) {
        self.kubectl(&format!("rollout status {name} --timeout=60s")).ok();
    }

    pub fn wait_until_ready(&self, pod: &str) {
        self.kubectl(&format!("wait --for=condition=Ready pod/{pod} --timeout=60s")).ok();
    }

    pub fn node_address(&self) -> IpAddr {
        let path = "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        self.field("nodes", path).parse().expect("the node has an address")
    }

    /// A port on the node, as seen from the host.
    pub fn node_port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.node_address(), port)
    }

    /// The process that holds the node's namespaces.
    pub fn holder_pid(&self) -> i32 {
        let node = self.host.dir().join("root/clusters").join(&self.name).join("cluster.json");
        let state: Value = serde_json::from_slice(&std::fs::read(node).expect("it is running"))
            .expect("the state is JSON");
        let holder = state["node"]["pid"].as_i64().expect("the node has a process");
        i32::try_from(holder).expect("a process id")
    }

    /// The directory of the node's agent.
    pub fn kubelet_dir(&self) -> PathBuf {
        self.host.dir().join("root/clusters").join(&self.name).join("data/node/kubelet")
    }

    /// A command that runs on the node, beside the server, and goes on when the server is killed.
    pub fn node_command(&self, program: &str) -> Command {
        let mut command = self.host.command("nsenter");
        command.args(["--target", &self.holder_pid().to_string(), "--mount", "--", program]);
        command
    }

    /// Kills the server with all it has in memory, and waits until the node's holder has it running again.
    pub fn restart_server(&self) {
        kill(Pid::from_raw(self.server_pid()), Signal::SIGKILL).expect("the server is ours");
        eventually_within(RESTART_PATIENCE, "the server is back", || {
            self.kubectl("get --raw /readyz").code == Some(0)
        });
    }

    /// The process of the server.
    pub fn server_pid(&self) -> i32 {
        let holder = self.holder_pid();
        let children = std::fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"));
        let children = children.expect("the node is running");
        let servers = children.split_whitespace().filter_map(|pid| pid.parse().ok());
        servers.into_iter().find(|pid| is_server(*pid)).expect("the server is running")
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.host.dir().join("root/clusters").join(&self.name).join("node.log");
            let log = std::fs::read_to_string(log).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("--- the end of the node's log, backwards\n{}", tail.join("\n"));
        }
        let done = Outcome::of(self.skiff_command().args(["delete", "--name", &self.name]), "");
        if done.code != Some(0) {
            eprintln!("cannot delete cluster {}: {}", self.name, done.stderr);
        }
    }
}

/// A command that is ended when it is no longer needed.
pub struct Running(pub Child);

impl Running {
    pub fn start(command: &mut Command) -> Running {
        let command = command.stdin(Stdio::null());
        Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn is_server(pid: i32) -> bool {
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(1) == Some(b"server")
}

/// A binary of this repository: what `SKIFF_BIN_DIR` holds, else the release build.
pub fn artifact(name: &str) -> PathBuf {
    let dir =
        std::env::var_os("SKIFF_BIN_DIR").map_or_else(|| target().join("release"), PathBuf::from);
    let path = dir.join(name);
    assert!(path.exists(), "{} is missing: build it first", path.display());
    path
}

/// Where `cargo xtask image` puts its archives.
pub fn images() -> PathBuf {
    repository().join("target/images")
}

/// The newest kubectl that was fetched, else the machine's own.
pub fn kubectl() -> PathBuf {
    let fetched = repository().join("target/clients/kubectl");
    if let Some(chosen) = std::env::var_os("SKIFF_E2E_KUBECTL") {
        return chosen.into();
    }
    if fetched.exists() { fetched } else { "kubectl".into() }
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository().join("target"), PathBuf::from)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
