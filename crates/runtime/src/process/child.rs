//! The child's side of the fork: enter the namespaces, give up what is not granted, become the
//! program.
//!
//! Consumes a spec and its pipes, emits a [`Report`] on the report pipe: who it runs as, then
//! either silence (exec closed the pipe: success) or the sentence users will read. Counterpart:
//! runc's `standard_init_linux.go` and `setns_init_linux.go`.
//! Order is law: cgroup, namespaces and mounts need every privilege; without `no_new_privs` a
//! seccomp filter needs SYS_ADMIN and so goes before the capabilities; with it, the filter goes
//! last and sees as little as possible.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    libc,
    sched::{CloneFlags, setns, unshare},
    sys::resource::{Resource, getrlimit, setrlimit},
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    sys::stat::{Mode, umask},
    unistd::{AccessFlags, Gid, Uid, access, chdir, execve, setgid, setgroups, setresuid, setsid},
};
use serde::{Deserialize, Serialize};

use super::{
    clone::{Child, fork},
    rootfs::{self, Outside, Step},
    spec::{ContainerSpec, PidNamespace, ProcessSpec},
    terminal::{bind_console, take_terminal},
    user::{self, Account},
    users::{PodUsers, become_root},
};
use crate::{cgroup, cri::ContainerUser};

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What the child tells the shim, one JSON document a line.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The container's process is another than the one that was started.
    Is(i32),
    RunsAs(ContainerUser),
    Failed(String),
}

/// The child's ends of its streams. A missing one becomes `/dev/null`.
pub(crate) enum ChildStdio {
    Pipes {
        stdin: Option<OwnedFd>,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    },
    /// Where to send the outer end of the terminal.
    Terminal(OwnedFd),
}

/// A container's first process.
pub(crate) struct InitChild<'a> {
    pub spec: &'a ContainerSpec,
    pub outside: Outside<'a>,
    pub stdio: ChildStdio,
    pub report: File,
}

/// One more process in a running container.
pub(crate) struct ExecChild<'a> {
    pub process: &'a ProcessSpec,
    pub cgroup: &'a cgroup::Handle,
    /// The container's first process, as the shim sees it.
    pub target: i32,
    /// The pod's own users, if it has any.
    pub users: Option<&'a PodUsers>,
    pub stdio: ChildStdio,
    pub report: File,
}

// === impl InitChild ===

impl InitChild<'_> {
    pub fn run(mut self) -> ! {
        let result = self.become_container();
        fail(&mut self.report, result)
    }

    fn become_container(&mut self) -> Result<(), String> {
        start_afresh()?;
        self.spec.cgroup.join().step(|| "join the cgroup".into())?;
        set_oom_score(self.spec.process.oom_score_adj)?;
        let parts = rootfs::gather(self.spec, &self.outside)?;
        if let Some(users) = self.outside.users {
            self.stdio.belong_to(users.root);
            self.enter_users(users)?;
        }
        unshare(CloneFlags::CLONE_NEWCGROUP).step(|| "create a cgroup namespace".into())?;
        rootfs::assemble(self.spec, parts)?;
        become_process(&self.spec.process, &mut self.stdio, &mut self.report, true)
    }

    /// A PID namespace belongs to the users of whoever makes it, so one of the container's own is only made here: what
    /// goes on is then a sibling of the process that was started.
    fn enter_users(&mut self, users: &PodUsers) -> Result<(), String> {
        users.enter().step(|| "enter the user namespace".into())?;
        if self.spec.pid_namespace != PidNamespace::Own {
            return Ok(());
        }
        let flags = libc::CLONE_NEWPID | libc::CLONE_PARENT;
        match fork(flags).step(|| "create a PID namespace".into())? {
            Child::Inside => Ok(()),
            Child::Parent(pid) => {
                tell(&mut self.report, &Report::Is(pid.as_raw())).step(|| "report".into())?;
                // SAFETY: ends this child without running the shim's exit handlers.
                unsafe { libc::_exit(0) }
            }
        }
    }
}

// === impl ExecChild ===

impl ExecChild<'_> {
    pub fn run(mut self) -> ! {
        let result = self.become_exec();
        fail(&mut self.report, result)
    }

    fn become_exec(&mut self) -> Result<(), String> {
        start_afresh()?;
        self.cgroup.join_beside(self.target).step(|| "join the cgroup".into())?;
        let open = |kind: &str| {
            File::open(format!("/proc/{}/ns/{kind}", self.target))
                .step(|| "container is not running".into())
        };
        let (cgroups, mounts) = (open("cgroup")?, open("mnt")?);
        set_oom_score(self.process.oom_score_adj)?;
        setns(cgroups.as_fd(), CloneFlags::CLONE_NEWCGROUP)
            .step(|| "enter the cgroup namespace".into())?;
        setns(mounts.as_fd(), CloneFlags::CLONE_NEWNS)
            .step(|| "enter the mount namespace".into())?;
        if let Some(users) = self.users {
            self.stdio.belong_to(users.root);
            users.enter().step(|| "enter the user namespace".into())?;
            become_root().step(|| "become root".into())?;
        }
        become_process(self.process, &mut self.stdio, &mut self.report, false)
    }
}

fn fail(report: &mut File, result: Result<(), String>) -> ! {
    let reason = result.err().unwrap_or_else(|| "exec returned".to_owned());
    // Nobody is left to tell if the shim is gone.
    let _ = tell(report, &Report::Failed(reason));
    // SAFETY: ends this child without running the shim's exit handlers.
    unsafe { libc::_exit(128) }
}

fn tell(report: &mut File, message: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    report.write_all(&line)
}

/// Undoes what the shim (and Rust) arranged for itself.
fn start_afresh() -> Result<(), String> {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for signal in Signal::iterator() {
        // SAFETY: installs no handler. KILL and STOP refuse, which is as it should be.
        let _ = unsafe { sigaction(signal, &default) };
    }
    SigSet::empty().thread_set_mask().step(|| "unblock signals".into())?;
    raise_open_files();
    Ok(())
}

/// As other runtimes have it: as many open files as the node allows. The daemon's own soft limit is
/// no measure.
fn raise_open_files() {
    const ENOUGH: u64 = 1 << 20;
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // Not being allowed to changes nothing.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard);
    }
}

/// From inside the container's root to its program.
fn become_process(
    process: &ProcessSpec,
    stdio: &mut ChildStdio,
    report: &mut File,
    is_init: bool,
) -> Result<(), String> {
    setsid().step(|| "start a session".into())?;
    umask(Mode::from_bits_truncate(0o022));
    let account = user::resolve(&process.user)?;
    connect_stdio(stdio, &account.user, is_init).step(|| "connect the standard streams".into())?;
    tell(report, &Report::RunsAs(account.user.clone())).step(|| "report".into())?;
    drop_privileges(process, &account.user)?;
    chdir(&process.working_dir).step(|| format!("chdir to cwd ({:?})", process.working_dir))?;
    // Looked up as the user, since that is who must be able to run it.
    let environment = environment(process, &account);
    let program = look_up(&process.args, &environment)?;
    if process.no_new_privs {
        set_no_new_privs().step(|| "set no_new_privs".into())?;
        load_seccomp(process)?;
    }
    close_on_exec_from(3);
    let error = match execve(
        &c_string(program.as_os_str().as_bytes())?,
        &c_strings(&process.args)?,
        &c_strings(&environment)?,
    ) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    Err(exec_error(&process.args[0], &program, error))
}

// === impl ChildStdio ===

impl ChildStdio {
    /// Gives what is the node's to the root of a pod's own users, who could not give it to anybody else otherwise.
    fn belong_to(&self, (uid, gid): (u32, u32)) {
        if let ChildStdio::Pipes { stdin, stdout, stderr } = self {
            for stream in [stdin, stdout, stderr].into_iter().flatten() {
                // SAFETY: plain descriptor and numbers. Best effort: some streams have no owner.
                unsafe { libc::fchown(stream.as_raw_fd(), uid, gid) };
            }
        }
    }
}

// === streams ===

fn connect_stdio(stdio: &mut ChildStdio, user: &ContainerUser, is_init: bool) -> io::Result<()> {
    match stdio {
        ChildStdio::Terminal(socket) => {
            let inner = take_terminal(socket)?;
            if is_init {
                bind_console(&inner)?;
            }
            give_to(&inner, user);
            (0..3).try_for_each(|descriptor| duplicate(&inner, descriptor))
        }
        ChildStdio::Pipes { stdin, stdout, stderr } => {
            for (descriptor, stream) in [stdin, stdout, stderr].into_iter().enumerate() {
                match stream {
                    Some(stream) => {
                        give_to(stream, user);
                        duplicate(stream, descriptor as i32)?;
                    }
                    None => {
                        let null = File::options().read(true).write(true).open("/dev/null")?;
                        duplicate(&OwnedFd::from(null), descriptor as i32)?;
                    }
                }
            }
            Ok(())
        }
    }
}

/// So that a program without root can reopen `/dev/stdout`. Best effort: some streams have no
/// owner.
fn give_to(stream: &OwnedFd, user: &ContainerUser) {
    // SAFETY: plain descriptor and numbers.
    unsafe { libc::fchown(stream.as_raw_fd(), user.uid, u32::MAX) };
}

fn duplicate(from: &OwnedFd, to: i32) -> io::Result<()> {
    // SAFETY: `to` is a standard stream, which nothing in this child owns.
    if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// The last line of defence against a descriptor of the node leaking into a container.
fn close_on_exec_from(first: u32) {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: only marks descriptors; kernels before 5.11 refuse, and ours are all marked when
    // opened.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) };
}

// === privileges ===

/// Lowering needs CAP_SYS_RESOURCE, which a node inside a container may lack: the process then
/// keeps its score.
fn set_oom_score(score: i64) -> Result<(), String> {
    match fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        result => result.step(|| "set oom_score_adj".into()),
    }
}

fn drop_privileges(process: &ProcessSpec, user: &ContainerUser) -> Result<(), String> {
    if !process.no_new_privs {
        load_seccomp(process)?;
    }
    process.capabilities.limit_bounding().step(|| "limit capabilities".into())?;
    // SAFETY: takes no pointer. Keeps the capabilities across the change of user, to be set exactly
    // below.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) })
        .step(|| "keep capabilities".into())?;
    let groups: Vec<Gid> = user.supplemental_groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    setgroups(&groups).step(|| "set groups".into())?;
    setgid(Gid::from_raw(user.gid)).step(|| format!("set group {}", user.gid))?;
    let uid = Uid::from_raw(user.uid);
    setresuid(uid, uid, uid).step(|| format!("set user {}", user.uid))?;
    process.capabilities.apply().step(|| "set capabilities".into())?;
    // After the change of user, which clears it. A container must not outlive the shim that keeps
    // its logs. SAFETY: takes no pointer.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
        .step(|| "bind to the shim".into())?;
    Ok(())
}

fn load_seccomp(process: &ProcessSpec) -> Result<(), String> {
    process.seccomp.load(process.capabilities.granted).step(|| "load the seccomp profile".into())
}

fn set_no_new_privs() -> io::Result<()> {
    // SAFETY: takes no pointer.
    match unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// === the program ===

fn environment(process: &ProcessSpec, account: &Account) -> Vec<String> {
    let mut environment = process.env.clone();
    let has = |environment: &[String], name: &str| {
        environment.iter().any(|entry| entry.starts_with(name))
    };
    if !has(&environment, "HOME=") {
        environment.push(format!("HOME={}", account.home));
    }
    if !has(&environment, "PATH=") {
        environment.push(format!("PATH={DEFAULT_PATH}"));
    }
    environment
}

/// Finds the program; the texts are the ones users search for.
fn look_up(args: &[String], environment: &[String]) -> Result<PathBuf, String> {
    let name = args.first().filter(|name| !name.is_empty()).ok_or("no command specified")?;
    if name.contains('/') {
        return match fs::metadata(name) {
            Err(error) => Err(format!("exec: {name:?}: stat {name}: {}", lower(&error))),
            Ok(found) if found.is_dir() => Err(format!("exec: {name:?}: is a directory")),
            Ok(_) => Ok(name.into()),
        };
    }
    let path =
        environment.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    path.split(':')
        .map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(name))
        .find(|candidate| candidate.is_file() && access(candidate, AccessFlags::X_OK).is_ok())
        .ok_or_else(|| format!("exec: {name:?}: executable file not found in $PATH"))
}

fn exec_error(name: &str, program: &Path, error: Errno) -> String {
    match error {
        // The file is there, so it is the interpreter that is not.
        Errno::ENOENT => format!("exec {}: no such file or directory", program.display()),
        Errno::ENOEXEC => format!("exec {}: exec format error", program.display()),
        error => format!("exec: {name:?}: {}", error.desc().to_lowercase()),
    }
}

/// As C programs print it, without Rust's `(os error 2)`.
fn lower(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => Errno::from_raw(number).desc().to_lowercase(),
        None => error.to_string(),
    }
}

fn c_string(bytes: &[u8]) -> Result<CString, String> {
    CString::new(bytes).map_err(|_| "a NUL byte in the command or its environment".to_owned())
}

fn c_strings(texts: &[String]) -> Result<Vec<CString>, String> {
    texts.iter().map(|text| c_string(text.as_bytes())).collect()
}
