//! Debian's containerd with crun on a test's host.
//!
//! Everything it keeps is below the host's directory, its networks are the host's, and `/run` is the host's own, so that a
//! containerd of the machine is not met. Invariant: dropping it leaves no shim, no container and no cgroup.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cluster::Running;
use crate::host::Host;
use crate::run::{Outcome, eventually};

pub struct Containerd<'a> {
    host: &'a Host,
    dir: PathBuf,
    /// Below which all its containers' groups are.
    pub cgroup: String,
    process: Option<Running>,
}

// === impl Containerd ===

impl<'a> Containerd<'a> {
    pub fn start(host: &'a Host) -> Self {
        let dir = host.dir().join("containerd");
        fs::create_dir_all(dir.join("cni")).expect("the host's directory is writable");
        run(host.command("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
        leave_one_hierarchy(host);
        fs::write(dir.join("config.toml"), config(&dir)).expect("writable");
        fs::write(dir.join("cni/10-test.conflist"), network(&dir)).expect("writable");
        let cgroup = format!("/skiff-e2e-containerd-{}", std::process::id());
        let mut containerd = Containerd { host, dir, cgroup, process: None };
        containerd.resume();
        containerd
    }

    /// Starts the daemon over what it left.
    pub fn resume(&mut self) {
        let log = fs::File::create(self.dir.join("log")).expect("writable");
        let mut command = self.host.command("containerd");
        command.arg("--config").arg(self.dir.join("config.toml"));
        self.process = Some(Running::start(command.stdout(Stdio::null()).stderr(log)));
        eventually("containerd answers", || self.ctr(&["version"]).code == Some(0));
    }

    /// Ends the daemon alone; its containers run on.
    pub fn kill(&mut self) {
        self.process = None;
    }

    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    fn socket(&self) -> PathBuf {
        self.dir.join("sock")
    }

    /// Runs `ctr` where Kubernetes' containers are.
    pub fn ctr(&self, args: &[&str]) -> Outcome {
        let mut command = self.host.command("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]).args(args);
        Outcome::of(&mut command, "")
    }

    pub fn import(&self, archive: &Path) {
        self.ctr(&["images", "import", &archive.display().to_string()]).ok();
    }
}

impl Drop for Containerd<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!("--- the end of containerd's log, backwards\n{}", tail.join("\n"));
        }
        self.process = None;
        shims(&self.socket()).into_iter().for_each(end);
        for hierarchy in below("/sys/fs/cgroup".as_ref()) {
            let group = hierarchy.join(self.cgroup.trim_start_matches('/'));
            for _ in 0..100 {
                clear(&group);
                if !group.exists() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        }
    }
}

/// crun takes a version 2 hierarchy with controllers beside version 1 for a mixture it does not know.
fn leave_one_hierarchy(host: &Host) {
    let (v1, v2) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup/unified"));
    if v1.exists() && v2.exists() {
        run(host.command("umount").arg(v2));
    }
}

fn config(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        r#"version = 2
root = "{dir}/root"
state = "{dir}/state"
[grpc]
  address = "{dir}/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "docker.io/library/pause:test"
  restrict_oom_score_adj = true
  disable_apparmor = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    default_runtime_name = "crun"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.crun.options]
        BinaryName = "crun"
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{dir}/cni"
"#
    )
}

fn network(dir: &Path) -> String {
    let addresses = serde_json::json!({
        "type": "host-local",
        "dataDir": dir.join("addresses"),
        "ranges": [[{ "subnet": "10.42.0.0/24" }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    let bridge = serde_json::json!({
        "type": "bridge",
        "bridge": "cni0",
        "isGateway": true,
        "ipMasq": true,
        "hairpinMode": true,
        "ipam": addresses,
    });
    serde_json::json!({ "cniVersion": "0.4.0", "name": "test", "plugins": [bridge] }).to_string()
}

fn run(command: &mut Command) {
    Outcome::of(command, "").ok();
}

/// The shims that were started by the containerd of a socket.
fn shims(socket: &Path) -> Vec<i32> {
    let ours = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        line.contains("containerd-shim") && line.contains(&socket.display().to_string())
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(ours).collect()
}

fn end(pid: i32) {
    // Gone already is fine.
    let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
}

/// Ends what is in a group and removes it, children first.
fn clear(group: &Path) {
    below(group).iter().for_each(|child| clear(child));
    let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    processes.lines().filter_map(|pid| pid.parse().ok()).for_each(end);
    let _ = fs::remove_dir(group);
}

fn below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}
