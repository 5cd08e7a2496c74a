//! A real `skiff server` in a directory of its own: started, asked, killed.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

const START_LIMIT: Duration = Duration::from_secs(60);

/// A server process, killed when dropped.
pub struct Server {
    process: Child,
    kubeconfig: PathBuf,
}

/// What the last server in a directory said of itself.
const LOG: &str = "server.log";

pub struct Scratch(pub PathBuf);

// === impl Server ===

impl Server {
    pub fn start(directory: &Path) -> Server {
        let mut command = Command::new(env!("CARGO_BIN_EXE_skiff"));
        Server::launch(&mut command, directory)
    }

    /// Started by `command`, which may be another program that becomes the server.
    pub fn launch(command: &mut Command, directory: &Path) -> Server {
        let kubeconfig = directory.join("kubeconfig");
        let _ = std::fs::remove_file(&kubeconfig);
        let log = std::fs::File::create(directory.join(LOG)).expect("a log");
        let process = command
            .args(["server", "--no-node", "--no-controllers", "--bind-address", "127.0.0.1"])
            .args(["--port", "0"])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--write-kubeconfig")
            .arg(&kubeconfig)
            .env("SKIFF_LOG", "warn")
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the server starts");
        Server { process, kubeconfig }
    }

    pub async fn client(&self) -> Client {
        let began = Instant::now();
        while !self.kubeconfig.exists() {
            assert!(began.elapsed() < START_LIMIT, "the server is not ready: {}", self.log());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let file = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(file, &options).await.expect("a config");
        Client::try_from(config).expect("a client")
    }

    /// A path as the server sees it, which may have mounts of its own.
    pub fn own_view(&self, path: &Path) -> PathBuf {
        let root = PathBuf::from(format!("/proc/{}/root", self.process.id()));
        root.join(path.strip_prefix("/").expect("an absolute path"))
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.kubeconfig.with_file_name(LOG)).expect("a log")
    }

    pub fn kill(&mut self) {
        self.process.kill().expect("the server is running");
        self.process.wait().expect("it ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a scratch directory");
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
