//! A machine for one test: network and mount namespaces that end with it.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// Dropping it ends its namespaces and removes its directory.
pub struct Host {
    /// Holds the namespaces open.
    holder: Child,
    dir: PathBuf,
}

impl Host {
    /// A machine with a loopback interface and nothing else.
    pub fn new(name: &str) -> Host {
        assert!(nix::unistd::geteuid().is_root(), "real nodes need root: run these tests as root");
        let dir = std::env::temp_dir().join(format!("skiff-e2e-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        let mut command = Command::new("sleep");
        command.arg("infinity").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // SAFETY: unshare, mount and prctl are single system calls.
        unsafe {
            command.pre_exec(|| {
                nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
                let none: Option<&str> = None;
                mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
                Ok(())
            });
        }
        let holder = command.spawn().expect("sleep can be run");
        let host = Host { holder, dir };
        let up = host.command("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("ip can be run").success(), "the loopback comes up");
        host
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A command that runs on this machine.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let [net, mnt] = ["net", "mnt"].map(|kind| self.namespace(kind));
        let mut command = Command::new(program.as_ref());
        // SAFETY: setns is a single system call on descriptors that the closure owns.
        unsafe {
            command.pre_exec(move || {
                setns(&net, CloneFlags::CLONE_NEWNET)?;
                setns(&mnt, CloneFlags::CLONE_NEWNS)?;
                Ok(())
            });
        }
        command
    }

    /// Runs a closure on a thread whose sockets belong to this machine.
    pub fn inside<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let net = self.namespace("net");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&net, CloneFlags::CLONE_NEWNET).expect("the namespace is open");
                act()
            });
            thread.join().expect("the closure does not panic")
        })
    }

    fn namespace(&self, kind: &str) -> File {
        let path = format!("/proc/{}/ns/{kind}", self.holder.id());
        File::open(&path).unwrap_or_else(|error: io::Error| panic!("{path}: {error}"))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
