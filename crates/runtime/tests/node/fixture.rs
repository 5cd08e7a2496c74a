//! A node of a test's own: a directory, a cgroup, a runtime; gone when the test is, however it
//! ends.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use skiff_cri::{CriServer, RemoteConfig, RemoteRuntime};
use skiff_runtime::{
    ContainerConfig, ContainerState, ContainerStatus, Embedded, EmbeddedConfig, ExecSyncOutput,
    ImageService, LoopbackOnly, PodSandboxConfig, PodSandboxMetadata, Runtime, SandboxNetwork,
    ShimCommand,
};
use tokio_util::sync::CancellationToken;

use crate::archive::{ImageBuilder, Packing, write_archive};

pub const IMAGE: &str = "busybox:test";

pub struct Node {
    /// What is tested: the embedded runtime itself, or the same by way of its CRI socket.
    pub runtime: Arc<dyn Runtime>,
    pub embedded: Arc<Embedded>,
    pub dir: PathBuf,
    pub cgroup: String,
}

/// Runs `test` twice: as it is, and with a CRI server and its client in between.
pub fn on_both<F: Future<Output = ()>>(test: impl Fn(&'static Node) -> F) {
    on_node(&test);
    on_node(async |node| test(Box::leak(Box::new(node.by_socket().await))).await);
}

/// Runs `test` on a node with the base image; says so and returns without root.
pub fn on_node<F: Future<Output = ()>>(test: impl FnOnce(&'static Node) -> F) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: making containers needs root");
        return;
    }
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut cleanup = None;
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        tokio.block_on(async {
            let node: &'static Node = Box::leak(Box::new(Node::new().await));
            cleanup = Some(Cleanup { dir: node.dir.clone(), cgroup: node.cgroup.clone() });
            test(node).await;
        });
    }));
    drop(tokio);
    drop(cleanup);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

impl Node {
    async fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("skiff-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        fs::create_dir_all(&dir).unwrap();
        let cgroup = format!("/{name}");
        let embedded = open(&dir, &cgroup, Arc::new(LoopbackOnly)).await;
        let node = Node { runtime: embedded.clone(), embedded, dir, cgroup };
        node.load(&ImageBuilder::new(IMAGE).oci(Packing::Plain)).await;
        node
    }

    /// The same node as a client of its CRI socket sees it.
    async fn by_socket(&self) -> Self {
        let socket = self.dir.join("cri.sock");
        let server = CriServer::bind(self.embedded.clone(), &socket).await.unwrap();
        tokio::spawn(server.serve(CancellationToken::new()));
        let config = RemoteConfig {
            runtime: socket.clone(),
            images: socket,
            cgroup_root: format!("{}/client", self.cgroup),
        };
        let runtime = RemoteRuntime::open(config).await.unwrap();
        let (embedded, dir) = (self.embedded.clone(), self.dir.clone());
        Node { runtime, embedded, dir, cgroup: self.cgroup.clone() }
    }

    pub async fn load(&self, files: &[(String, Vec<u8>)]) -> Vec<skiff_runtime::Image> {
        let path = self.dir.join("archive.tar");
        write_archive(&path, files);
        self.embedded.load_image(&path).await.unwrap()
    }

    /// A second daemon on the same directory, as after a restart.
    pub async fn reopen(&self) -> Arc<Embedded> {
        open(&self.dir, &self.cgroup, Arc::new(LoopbackOnly)).await
    }

    /// A daemon with another network.
    pub async fn reopen_with(&self, network: Arc<dyn SandboxNetwork>) -> Arc<Embedded> {
        open(&self.dir, &self.cgroup, network).await
    }

    pub fn sandbox_config(&self, name: &str) -> PodSandboxConfig {
        let mut config = PodSandboxConfig {
            metadata: PodSandboxMetadata {
                name: name.to_owned(),
                uid: format!("uid-{name}"),
                namespace: "default".to_owned(),
                attempt: 0,
            },
            hostname: name.to_owned(),
            log_directory: self.dir.join("logs"),
            resolv_conf: Some("nameserver 10.96.0.10\n".to_owned()),
            ..PodSandboxConfig::default()
        };
        config.linux.cgroup_parent = format!("/kubepods/pod{name}");
        config
    }

    pub async fn sandbox(&self, name: &str) -> String {
        self.runtime.run_pod_sandbox(self.sandbox_config(name)).await.unwrap()
    }

    /// Creates and starts.
    pub async fn start(&self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.runtime.create_container(sandbox, config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }

    /// Runs a shell script in a container of its own; answers its exit code and its log.
    pub async fn run(&self, config: ContainerConfig) -> (i32, String) {
        let sandbox = self.sandbox(&config.metadata.name).await;
        let id = self.start(&sandbox, config).await;
        let status = exited(&*self.runtime, &id).await;
        let log = content(&status.log_path);
        // The next container of this name starts with an empty one.
        fs::remove_file(&status.log_path).unwrap();
        self.runtime.remove_pod_sandbox(&sandbox).await.unwrap();
        (status.exit_code.unwrap(), log)
    }

    pub async fn exec(&self, id: &str, script: &str) -> ExecSyncOutput {
        let command = ["sh", "-c", script].map(str::to_owned);
        self.runtime.exec_sync(id, &command, Some(Duration::from_secs(20))).await.unwrap()
    }

    /// Standard output of a script in a running container.
    pub async fn output(&self, id: &str, script: &str) -> String {
        let output = self.exec(id, script).await;
        assert_eq!(output.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn cgroup_dirs(&self) -> Vec<PathBuf> {
        hierarchies()
            .into_iter()
            .map(|mount| mount.join(self.cgroup.trim_start_matches('/')))
            .collect()
    }
}

/// A container that runs a shell script.
pub fn script(name: &str, text: &str) -> ContainerConfig {
    let mut config = ContainerConfig {
        image: IMAGE.to_owned(),
        command: ["sh", "-c", text].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log").into(),
        ..ContainerConfig::default()
    };
    config.metadata.name = name.to_owned();
    config
}

pub async fn exited(runtime: &dyn Runtime, id: &str) -> ContainerStatus {
    let mut events = runtime.events();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let status = runtime.container_status(id).await.unwrap();
        if status.state == ContainerState::Exited {
            return status;
        }
        assert!(Instant::now() < deadline, "container {} does not exit", status.metadata.name);
        // The event, or a look now and then should the subscription have come too late.
        let _ = tokio::time::timeout(Duration::from_millis(200), events.recv()).await;
    }
}

pub async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(Instant::now() < deadline, "{what} does not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What a CRI log says, without its times and tags.
pub fn content(log: &Path) -> String {
    let mut text = String::new();
    for line in fs::read_to_string(log).unwrap_or_default().lines() {
        let mut fields = line.splitn(4, ' ');
        let (tag, rest) = (fields.nth(2).unwrap(), fields.next().unwrap());
        text.push_str(rest);
        text.push_str(if tag == "F" { "\n" } else { "" });
    }
    text
}

async fn open(dir: &Path, cgroup: &str, network: Arc<dyn SandboxNetwork>) -> Arc<Embedded> {
    let config = EmbeddedConfig {
        root: dir.join("root"),
        cgroup_root: cgroup.to_owned(),
        network,
        shim: ShimCommand { program: env!("CARGO_BIN_EXE_skiff-shim").into(), args: Vec::new() },
        registries: Some(dir.join("registries.yaml")),
    };
    Embedded::open(config).await.unwrap()
}

fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let cgroups = mounts.lines().filter(|line| line.contains(" - cgroup"));
    cgroups.filter_map(|line| line.split(' ').nth(4).map(PathBuf::from)).collect()
}

/// Ends whatever a test left: its processes by its cgroup, then the groups and the directory.
struct Cleanup {
    dir: PathBuf,
    cgroup: String,
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        for mount in hierarchies() {
            let dir = mount.join(self.cgroup.trim_start_matches('/'));
            for _ in 0..50 {
                kill_below(&dir);
                remove_below(&dir);
                if !dir.exists() {
                    break;
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn kill_below(dir: &Path) {
    below(dir).iter().for_each(|child| kill_below(child));
    for pid in fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default().lines() {
        let pid = nix::unistd::Pid::from_raw(pid.parse().unwrap());
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

fn remove_below(dir: &Path) {
    below(dir).iter().for_each(|child| remove_below(child));
    let _ = fs::remove_dir(dir);
}
