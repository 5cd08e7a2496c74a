//! The containers of one pod, as their parent process sees them.
//!
//! Consumes start, exec and attach requests, emits processes and the two files that tell their
//! fate: `run.json` before a start is answered, `exit.json` before an exit is announced.
//! Counterpart: containerd-shim's process table.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    libc,
    sys::{
        signal::{Signal, kill},
        socket::{AddressFamily, SockFlag, SockType, socketpair},
        wait::{WaitStatus, waitpid},
    },
    unistd::{Pid, pipe2},
};
use serde::{Deserialize, Serialize};

use super::{
    CONTAINER_SPEC_FILE, EXIT_FILE, RUN_FILE, log::LogFile, protocol::Failure, sandbox::Sandbox,
    stdio::Output,
};
use crate::{
    cgroup,
    cri::ContainerUser,
    files,
    process::{
        Child, ChildStdio, ContainerSpec, ExecChild, InitChild, Outside, PidNamespace, ProcessSpec,
        Report, clone_child, receive_terminal,
    },
    procfs::ProcessId,
};

/// What a start that failed exits with, as containerd has it.
const START_ERROR_CODE: i32 = 128;

/// A container that was started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRun {
    pub process: ProcessId,
    pub started_at: SystemTime,
    pub user: ContainerUser,
}

/// A container that ended, or could not start.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ExitRecord {
    /// 128 + signal when a signal ended it.
    pub exit_code: i32,
    pub oom_killed: bool,
    pub finished_at: SystemTime,
    /// Why it could not start.
    pub start_error: Option<String>,
}

pub(super) struct Container {
    pub id: String,
    pub outputs: Vec<Output>,
    pub log: LogFile,
    dir: PathBuf,
    cgroup: cgroup::Handle,
    namespace: PidNamespace,
    /// `None` once it was reaped.
    pid: Option<Pid>,
    /// The outer end: a pipe, or the terminal.
    stdin: Option<OwnedFd>,
}

/// The shim's ends of a container's streams.
struct Streams {
    stdin: Option<OwnedFd>,
    outputs: Vec<Output>,
}

// === impl Container ===

impl Container {
    pub fn start(sandbox: &Sandbox, id: &str) -> Result<Self, Failure> {
        let dir = sandbox.dir.join("containers").join(id);
        let spec: ContainerSpec = files::read_json(&dir.join(CONTAINER_SPEC_FILE))
            .map_err(internal)?
            .ok_or(Failure::NotFound)?;
        let result = Self::launch(sandbox, &dir, &spec);
        if let Err(Failure::Process(reason) | Failure::Internal(reason)) = &result {
            write_exit(&dir, &ExitRecord::not_started(reason.clone()));
        }
        result
    }

    fn launch(sandbox: &Sandbox, dir: &Path, spec: &ContainerSpec) -> Result<Self, Failure> {
        let log = LogFile::open(spec.stdio.log_path.clone()).map_err(|error| {
            Failure::Process(format!("open log {:?}: {error}", spec.stdio.log_path))
        })?;
        let (ours, theirs) =
            if spec.process.tty { terminal_socket()? } else { pipes(spec.stdio.stdin)? };
        let (reports, report) = pipe2(OFlag::O_CLOEXEC).map_err(internal)?;
        let users = sandbox.users.as_ref();
        let namespace = match spec.pid_namespace {
            // It is the pod's users', who are only entered there.
            PidNamespace::Own if users.is_some() => PidNamespace::Inherited,
            namespace => namespace,
        };
        let pid = match clone_child(namespace, &sandbox.home_pids).map_err(internal)? {
            Child::Inside => {
                let shm = sandbox.shm();
                let mounts = &sandbox.outside_mounts;
                let outside = Outside { mounts, shm: shm.as_deref(), users };
                InitChild { spec, outside, stdio: theirs, report: report.into() }.run()
            }
            Child::Parent(pid) => pid,
        };
        drop((theirs, report));
        let (pid, user) = await_exec(reports, pid)?;
        let process = ProcessId::of(pid.as_raw());
        let streams = ours.open()?;
        let process = process.ok_or_else(|| internal("the container's process has no identity"))?;
        let run = ContainerRun { process, started_at: SystemTime::now(), user };
        files::write_json(&dir.join(RUN_FILE), &run).map_err(internal)?;
        Ok(Container {
            id: spec.id.clone(),
            outputs: streams.outputs,
            log,
            dir: dir.to_owned(),
            cgroup: spec.cgroup.clone(),
            namespace: spec.pid_namespace,
            pid: Some(pid),
            stdin: streams.stdin,
        })
    }

    pub fn is_running(&self) -> bool {
        self.pid.is_some()
    }

    pub fn is(&self, pid: Pid) -> bool {
        self.pid == Some(pid)
    }

    pub fn signal(&self, signal: i32, all: bool) -> Result<(), Failure> {
        let pid = self.pid.ok_or(Failure::NotRunning)?;
        if all {
            self.cgroup.kill_all();
        }
        // SAFETY: plain numbers, and a real-time signal is one too. The pid is our child's and not
        // yet reaped.
        Errno::result(unsafe { libc::kill(pid.as_raw(), signal) }).map(drop).map_err(internal)
    }

    /// Starts another process inside. Answers its pid and the outer end of its terminal.
    pub fn exec(
        &self,
        sandbox: &Sandbox,
        process: &ProcessSpec,
        stdio: [Option<OwnedFd>; 3],
    ) -> Result<(Pid, Option<OwnedFd>), Failure> {
        let target = self.pid.ok_or(Failure::NotRunning)?;
        let namespace = match self.namespace {
            PidNamespace::Inherited => PidNamespace::Inherited,
            _ => PidNamespace::Of(target.as_raw()),
        };
        let (terminal, stdio) = match process.tty {
            true => {
                let (ours, theirs) = socket_pair()?;
                (Some(ours), ChildStdio::Terminal(theirs))
            }
            false => {
                let [stdin, stdout, stderr] = stdio;
                (None, ChildStdio::Pipes { stdin, stdout, stderr })
            }
        };
        let (reports, report) = pipe2(OFlag::O_CLOEXEC).map_err(internal)?;
        let pid = match clone_child(namespace, &sandbox.home_pids).map_err(internal)? {
            Child::Inside => {
                let (cgroup, target) = (&self.cgroup, target.as_raw());
                let users = sandbox.users.as_ref();
                ExecChild { process, cgroup, target, users, stdio, report: report.into() }.run()
            }
            Child::Parent(pid) => pid,
        };
        drop((stdio, report));
        await_exec(reports, pid)?;
        let terminal =
            terminal.map(|socket| receive_terminal(&socket)).transpose().map_err(internal)?;
        Ok((pid, terminal.flatten()))
    }

    /// Copies the outputs, as marked, to `sinks`; answers the container's stdin.
    pub fn attach(
        &mut self,
        streams: [bool; 2],
        sinks: Vec<OwnedFd>,
    ) -> Result<Option<OwnedFd>, Failure> {
        if !self.is_running() {
            return Err(Failure::NotRunning);
        }
        let mut sinks = sinks.into_iter();
        for (at, _) in streams.iter().enumerate().filter(|(_, wanted)| **wanted) {
            // A terminal is one output: what goes to standard error is in it already.
            if let (Some(sink), Some(output)) = (sinks.next(), self.outputs.get_mut(at)) {
                output.tap(sink).map_err(internal)?;
            }
        }
        self.stdin
            .as_ref()
            .map(|stdin| stdin.as_fd().try_clone_to_owned())
            .transpose()
            .map_err(internal)
    }

    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// The first process was reaped: ends what it left behind and writes down how it ended.
    pub fn finish(&mut self, exit_code: i32) {
        self.pid = None;
        self.stdin = None;
        // In a PID namespace of its own the kernel has done this already.
        if self.namespace != PidNamespace::Own {
            self.cgroup.kill_all();
        }
        self.outputs.iter_mut().for_each(|output| output.drain(&mut self.log));
        let oom_killed = self.cgroup.oom_kills() > 0;
        let record =
            ExitRecord { exit_code, oom_killed, finished_at: SystemTime::now(), start_error: None };
        write_exit(&self.dir, &record);
    }

    /// Kills everything and waits for the end.
    pub fn destroy(&mut self) {
        let Some(pid) = self.pid else { return };
        let _ = kill(pid, Signal::SIGKILL);
        self.cgroup.kill_all();
        let code = waitpid(pid, None).ok().and_then(|status| exit_code(&status)).unwrap_or(137);
        self.finish(code);
    }
}

impl ExitRecord {
    fn not_started(reason: String) -> Self {
        ExitRecord {
            exit_code: START_ERROR_CODE,
            oom_killed: false,
            finished_at: SystemTime::now(),
            start_error: Some(reason),
        }
    }
}

/// As shells and CRI count: 128 + signal. `None` while it is not an end.
pub(super) fn exit_code(status: &WaitStatus) -> Option<i32> {
    match status {
        WaitStatus::Exited(_, code) => Some(*code),
        WaitStatus::Signaled(_, signal, _) => Some(128 + *signal as i32),
        _ => None,
    }
}

/// The container's directory may be gone already if it is being removed; then nobody will ask.
fn write_exit(dir: &Path, record: &ExitRecord) {
    if let Err(error) = files::write_json(&dir.join(EXIT_FILE), record) {
        eprintln!("{error}");
    }
}

/// Waits until the child has become its program, or says why not. Its pipe closes on exec. Answers which process it is
/// and as whom it runs.
fn await_exec(reports: OwnedFd, mut pid: Pid) -> Result<(Pid, ContainerUser), Failure> {
    let mut user = None;
    let mut failure = None;
    for line in BufReader::new(File::from(reports)).lines().map_while(Result::ok) {
        match serde_json::from_str(&line) {
            Ok(Report::RunsAs(found)) => user = Some(found),
            Ok(Report::Is(other)) => {
                let _ = waitpid(pid, None);
                pid = Pid::from_raw(other);
            }
            Ok(Report::Failed(reason)) => failure = Some(reason),
            Err(error) => failure = Some(error.to_string()),
        }
    }
    match (failure, user) {
        (None, Some(user)) => Ok((pid, user)),
        (failure, _) => {
            let status = waitpid(pid, None);
            Err(Failure::Process(
                failure.unwrap_or_else(|| format!("the process died while starting: {status:?}")),
            ))
        }
    }
}

// === streams ===

/// The shim's ends before the child has run: a terminal does not exist yet.
enum Ours {
    Ready(Streams),
    Terminal(OwnedFd),
}

impl Ours {
    fn open(self) -> Result<Streams, Failure> {
        match self {
            Ours::Ready(streams) => Ok(streams),
            Ours::Terminal(socket) => {
                let terminal = receive_terminal(&socket)
                    .map_err(internal)?
                    .ok_or_else(|| internal("no terminal came"))?;
                let stdin = Some(terminal.try_clone().map_err(internal)?);
                Ok(Streams {
                    stdin,
                    outputs: vec![Output::new(terminal, "stdout").map_err(internal)?],
                })
            }
        }
    }
}

fn terminal_socket() -> Result<(Ours, ChildStdio), Failure> {
    let (ours, theirs) = socket_pair()?;
    Ok((Ours::Terminal(ours), ChildStdio::Terminal(theirs)))
}

fn socket_pair() -> Result<(OwnedFd, OwnedFd), Failure> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
        .map_err(internal)
}

fn pipes(with_stdin: bool) -> Result<(Ours, ChildStdio), Failure> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).map_err(internal);
    let (stdin, their_stdin) = match with_stdin {
        true => {
            let (read, write) = pipe()?;
            (Some(write), Some(read))
        }
        false => (None, None),
    };
    let ((stdout, their_stdout), (stderr, their_stderr)) = (pipe()?, pipe()?);
    let outputs = vec![
        Output::new(stdout, "stdout").map_err(internal)?,
        Output::new(stderr, "stderr").map_err(internal)?,
    ];
    let theirs = ChildStdio::Pipes {
        stdin: their_stdin,
        stdout: Some(their_stdout),
        stderr: Some(their_stderr),
    };
    Ok((Ours::Ready(Streams { stdin, outputs }), theirs))
}

pub(super) fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::Internal(error.to_string())
}
