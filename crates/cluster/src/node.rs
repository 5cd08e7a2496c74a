//! The process that holds a node: its namespaces, its cgroup, and the server in it.
//!
//! `skiff start` runs it detached. It makes the namespaces, waits for the host's end of the
//! network, runs `skiff server` and runs it again if it dies; pods live on meanwhile, because the
//! namespaces they hang in are held here. Counterpart: the node container of kind, and systemd in it.
//!
//! Invariant: single-threaded and small; it knows no Kubernetes.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname};

use crate::cgroup::NodeCgroup;
use crate::layout::Layout;
use crate::report::{Report, Reporter};

/// The descriptors a node process is started with.
pub const REPORT_FD: RawFd = 3;
pub const GO_FD: RawFd = 4;
pub const LISTEN_FD: RawFd = 5;

/// How long the server gets to end by itself.
const DRAIN: Duration = Duration::from_secs(20);

/// Runs the node until it is told to stop. `server` are the arguments of `skiff server`.
pub fn run(name: &str, server: &[String]) -> ExitCode {
    // SAFETY: `start` passes these descriptors, and nothing has used them yet.
    let (reporter, go) = unsafe { (Reporter::inherited(REPORT_FD), OwnedFd::from_raw_fd(GO_FD)) };
    match hold(name, server, &reporter, go) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("node {name}: {error}");
            reporter.tell(Report::Failed(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn hold(name: &str, server: &[String], reporter: &Reporter, go: OwnedFd) -> io::Result<()> {
    let signals = block_signals()?;
    // Shims outlive a server that dies; somebody has to collect them.
    set_child_subreaper(true)?;
    let layout = Layout::of(name).map_err(io::Error::other)?;
    NodeCgroup::at(&layout.cgroup()).enter("system")?;
    enter_namespaces(name)?;
    reporter.tell(Report::Namespaces);
    wait_for_go(go)?;
    supervise(server, &signals)
}

/// Network, mounts and host name of its own; mounts made here are not seen outside.
fn enter_namespaces(name: &str) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS)?;
    let none: Option<&str> = None;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)?;
    // Before mounts are shared: taking the borrowed place away would take its twin away too.
    remount_sysfs()?;
    // What pods mount inside of the node propagates among them, as on a machine of its own.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none)?;
    sethostname(name)?;
    Ok(())
}

/// `/sys/class/net` shows the network namespace in which sysfs was mounted. The cgroup mounts
/// below it must stay visible, so they are moved over.
fn remount_sysfs() -> io::Result<()> {
    let none: Option<&str> = None;
    let keep = "/sys/fs/cgroup";
    let aside = "/mnt";
    mount(Some(keep), aside, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
    mount(Some(aside), keep, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)?;
    nix::mount::umount2(aside, nix::mount::MntFlags::MNT_DETACH)?;
    Ok(())
}

/// The starter has moved the node's interface in, or has died.
fn wait_for_go(go: OwnedFd) -> io::Result<()> {
    let mut byte = [0];
    match File::from(go).read(&mut byte)? {
        1 => Ok(()),
        _ => Err(io::Error::other("the command that started the node ended before it was set up")),
    }
}

/// Runs the server, and runs it again when it dies, until SIGTERM or SIGINT.
fn supervise(server: &[String], signals: &SigSet) -> io::Result<()> {
    let mut pause = Duration::from_millis(50);
    loop {
        let started = Instant::now();
        let child = spawn_server(server)?;
        match wait(child, signals)? {
            Outcome::Told => return Ok(()),
            Outcome::Died(How::Exited(USAGE)) => {
                return Err(io::Error::other("the server does not take its arguments"));
            }
            Outcome::Died(how) => eprintln!("the server ended ({how}); starting it again"),
        }
        // The first run reports; a later one has nobody waiting for it.
        if started.elapsed() > Duration::from_secs(30) {
            pause = Duration::from_millis(50);
        }
        if sleep_unless_told(pause, signals)? {
            return Ok(());
        }
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

/// What a program exits with whose arguments are wrong: they would be wrong the next time too.
const USAGE: i32 = 2;

enum Outcome {
    Told,
    Died(How),
}

/// How a process ended.
enum How {
    Exited(i32),
    Killed(Signal),
}

impl fmt::Display for How {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            How::Exited(code) => write!(f, "exit code {code}"),
            How::Killed(signal) => write!(f, "signal {signal}"),
        }
    }
}

fn spawn_server(server: &[String]) -> io::Result<Pid> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("skiff").arg("server").args(server);
    // SAFETY: only async-signal-safe calls: signal mask and descriptor flags.
    unsafe {
        command.pre_exec(|| {
            SigSet::empty().thread_set_mask()?;
            for fd in [REPORT_FD, LISTEN_FD] {
                keep_open(fd);
            }
            Ok(())
        });
    }
    Ok(Pid::from_raw(command.spawn()?.id() as i32))
}

/// Lets a descriptor survive exec; one that is closed already is none of our business.
fn keep_open(fd: RawFd) {
    // SAFETY: borrowed for the call only.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    let _ = fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()));
}

/// Waits for the server to end, or for the word to stop it.
fn wait(child: Pid, signals: &SigSet) -> io::Result<Outcome> {
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(how) = reap(child)? {
                    return Ok(Outcome::Died(how));
                }
            }
            _ => {
                let _ = kill(child, Signal::SIGTERM);
                drain(child)?;
                return Ok(Outcome::Told);
            }
        }
    }
}

/// Collects every child that ended; orphans of the server (shims whose pods are gone) too.
fn reap(server: Pid) -> io::Result<Option<How>> {
    let mut ended = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) if pid == server => {
                ended = Some(How::Exited(code));
            }
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == server => {
                ended = Some(How::Killed(signal));
            }
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(ended),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn drain(child: Pid) -> io::Result<()> {
    let deadline = Instant::now() + DRAIN;
    while reap(child)?.is_none() {
        if Instant::now() > deadline {
            let _ = kill(child, Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn block_signals() -> io::Result<SigSet> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT] {
        signals.add(signal);
    }
    signals.thread_block()?;
    Ok(signals)
}

/// True if the word to stop came meanwhile.
fn sleep_unless_told(pause: Duration, signals: &SigSet) -> io::Result<bool> {
    let pending = SignalFd::new(signals)?;
    let mut poll = [PollFd::new(pending.as_fd(), PollFlags::POLLIN)];
    let millis = u16::try_from(pause.as_millis()).unwrap_or(u16::MAX);
    if nix::poll::poll(&mut poll, PollTimeout::from(millis))? == 0 {
        return Ok(false);
    }
    let signal = pending.read_signal()?;
    Ok(signal.is_some_and(|info| info.ssi_signo != Signal::SIGCHLD as u32))
}
