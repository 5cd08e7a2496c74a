//! Turns a fresh process into a pod's shim: detached from the daemon, inside the pod's namespaces.
//!
//! Consumes a [`SandboxSpec`], emits a [`Sandbox`]. Counterpart: the pause container and
//! containerd's sandbox setup.
//! Order is law: the daemon's mount namespace is remembered before it is left; the shim joins its
//! own cgroup before it makes namespaces, so that stopping the daemon's cgroup does not stop pods.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
    path::PathBuf,
};

use nix::{
    libc,
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
    sys::{
        signal::{SigSet, Signal},
        wait::{WaitPidFlag, waitpid},
    },
    unistd::{Pid, chdir, sethostname, setsid},
};
use serde::{Deserialize, Serialize};

use super::{SOCKET_FILE, SPEC_FILE};
use crate::{
    cgroup,
    cri::UserNamespace,
    files,
    process::{
        Child, PidNamespace, clone_child,
        users::{Firstborn, PodUsers, become_root},
    },
};

/// Written by the daemon, read once by the shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SandboxSpec {
    pub id: String,
    pub hostname: String,
    pub host_network: bool,
    pub host_ipc: bool,
    /// One PID namespace for the pod, with a reaper as its init.
    pub shared_pid: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Who owns the pod's namespaces; `None`: the node's own users.
    #[serde(default)]
    pub users: Option<UserNamespace>,
    /// Where the shim itself runs: outside the pod's limits and the daemon's group.
    pub shim_cgroup: cgroup::Handle,
}

pub(super) struct Sandbox {
    pub dir: PathBuf,
    pub spec: SandboxSpec,
    pub listener: UnixListener,
    /// The daemon's, where volumes are.
    pub outside_mounts: OwnedFd,
    /// The PID namespace new containers start in, unless they have their own.
    pub home_pids: OwnedFd,
    pub pause: Option<Pid>,
    pub users: Option<PodUsers>,
}

/// As the common runtimes choose: a pod's network namespace is its own, so it may bind any port and
/// ping.
const NETWORK_SYSCTLS: [(&str, &str); 2] =
    [("net.ipv4.ip_unprivileged_port_start", "0"), ("net.ipv4.ping_group_range", "0 2147483647")];

// === impl Sandbox ===

impl Sandbox {
    pub fn set_up(dir: PathBuf) -> Result<Self, String> {
        let spec: SandboxSpec = files::read_json(&dir.join(SPEC_FILE))
            .map_err(|error| error.to_string())?
            .ok_or_else(|| format!("{}: there is no {SPEC_FILE}", dir.display()))?;
        let text = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        detach().map_err(text("detach from the daemon"))?;
        spec.shim_cgroup.join().map_err(text("join the shim's cgroup"))?;
        let outside_mounts = open_namespace("mnt").map_err(text("open the mount namespace"))?;
        let listener = listen(&dir).map_err(text("listen"))?;
        enter_mounts(&spec, &dir).map_err(text("create the pod's mount namespace"))?;
        let (users, pause) = match &spec.users {
            None => (None, enter_namespaces(&spec).map_err(text("create the pod's namespaces"))?),
            Some(mappings) => {
                let entered = enter_namespaces_of_users(&spec, mappings);
                let (users, pause) = entered.map_err(text("create the pod's user namespace"))?;
                (Some(users), pause)
            }
        };
        configure(&spec)?;
        let home_pids =
            open_namespace("pid_for_children").map_err(text("open the PID namespace"))?;
        chdir("/").map_err(|error| format!("chdir: {error}"))?;
        Ok(Sandbox { dir, spec, listener, outside_mounts, home_pids, pause, users })
    }

    /// Where the pod's shared memory is mounted; `None` when it is the node's.
    pub fn shm(&self) -> Option<PathBuf> {
        (!self.spec.host_ipc).then(|| self.dir.join("shm"))
    }
}

/// Own session, no way for a container to look into us, and orphans of the pod come to us.
fn detach() -> io::Result<()> {
    setsid()?;
    for (option, value) in [(libc::PR_SET_DUMPABLE, 0), (libc::PR_SET_CHILD_SUBREAPER, 1)] {
        // SAFETY: neither option takes a pointer.
        if unsafe { libc::prctl(option, value, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    // SAFETY: descriptors from 3 on are not ours: whatever the daemon leaked. Nothing was opened
    // yet.
    unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
    Ok(())
}

fn open_namespace(kind: &str) -> io::Result<OwnedFd> {
    Ok(File::open(format!("/proc/self/ns/{kind}"))?.into())
}

/// Bound through the directory, because a socket's path may have 107 bytes and a data directory's
/// may have more.
fn listen(dir: &std::path::Path) -> io::Result<UnixListener> {
    let handle = File::open(dir)?;
    let path = format!("/proc/self/fd/{}/{SOCKET_FILE}", handle.as_raw_fd());
    let _ = fs::remove_file(dir.join(SOCKET_FILE));
    let listener = UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Answers the pod's init, if it has one.
fn enter_namespaces(spec: &SandboxSpec) -> io::Result<Option<Pid>> {
    let mut flags = CloneFlags::empty();
    flags.set(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS, !spec.host_network);
    flags.set(CloneFlags::CLONE_NEWIPC, !spec.host_ipc);
    unshare(flags)?;
    spec.shared_pid.then(start_pause).transpose()
}

/// The same where a user namespace owns them all. The shim stays the node's root: what it prepares for containers is
/// the node's.
fn enter_namespaces_of_users(
    spec: &SandboxSpec,
    mappings: &UserNamespace,
) -> io::Result<(PodUsers, Option<Pid>)> {
    let mut kinds = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    kinds.set(CloneFlags::CLONE_NEWPID, spec.shared_pid);
    let firstborn = Firstborn::bear(mappings, kinds, if spec.shared_pid { init } else { nobody })?;
    for kind in ["net", "uts", "ipc"] {
        setns(firstborn.namespace(kind)?, CloneFlags::empty())?;
    }
    let namespace = firstborn.namespace("user")?;
    let pause = match spec.shared_pid {
        true => {
            setns(firstborn.namespace("pid")?, CloneFlags::CLONE_NEWPID)?;
            Some(firstborn.release())
        }
        false => None,
    };
    Ok((PodUsers { namespace, root: mappings.on_node(0, 0).unwrap_or_default() }, pause))
}

fn nobody() -> i32 {
    0
}

fn init() -> i32 {
    match become_root() {
        Ok(()) => pause(),
        Err(_) => 1,
    }
}

fn enter_mounts(spec: &SandboxSpec, dir: &std::path::Path) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    // The node's mounts still come and go here; ours do not reach the node.
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
    if !spec.host_ipc {
        let shm = dir.join("shm");
        fs::create_dir_all(&shm)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let owner = spec.users.as_ref().and_then(|users| users.on_node(0, 0));
        let (uid, gid) = owner.unwrap_or_default();
        let options = format!("mode=1777,size=65536k,uid={uid},gid={gid}");
        mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(options.as_str()))?;
    }
    Ok(())
}

fn configure(spec: &SandboxSpec) -> Result<(), String> {
    if !spec.host_network {
        sethostname(&spec.hostname).map_err(|error| format!("set the hostname: {error}"))?;
        bring_loopback_up().map_err(|error| format!("bring lo up: {error}"))?;
        for (name, value) in NETWORK_SYSCTLS {
            // A kernel without IPv4 ping groups still runs pods.
            let _ = fs::write(sysctl_path(name), value);
        }
    }
    for (name, value) in &spec.sysctls {
        fs::write(sysctl_path(name), value)
            .map_err(|error| format!("set sysctl {name}={value}: {error}"))?;
    }
    Ok(())
}

/// `a.b.c`, or `a/b.c/d` where a part has a dot of its own (an interface's name).
fn sysctl_path(name: &str) -> String {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    format!("/proc/sys/{path}")
}

fn bring_loopback_up() -> io::Result<()> {
    // SAFETY: a plain socket call; the descriptor is owned right away.
    let socket = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just returned to us alone.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // SAFETY: all zeroes is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: `request` is a live ifreq with a terminated name.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

// === the pod's init ===

fn start_pause() -> io::Result<Pid> {
    unshare(CloneFlags::CLONE_NEWPID)?;
    let home = open_namespace("pid")?;
    match clone_child(PidNamespace::Inherited, &home)? {
        Child::Parent(pid) => Ok(pid),
        Child::Inside => pause(),
    }
}

/// Reaps the pod's orphans until the shim dies.
fn pause() -> ! {
    // SAFETY: no pointer but the terminated name.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        libc::syscall(libc::SYS_close_range, 0, u32::MAX, 0);
    }
    let mut children = SigSet::empty();
    children.add(Signal::SIGCHLD);
    // Cannot fail: the set is valid.
    let _ = children.thread_block();
    loop {
        while waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status.pid().is_some())
        {}
        let _ = children.wait();
    }
}

/// After the announcement: the daemon's pipe is closed, and standard output goes where errors go.
pub(super) fn detach_stdout() -> io::Result<()> {
    // SAFETY: both are standard streams of this process.
    if unsafe { libc::dup2(2, 1) } < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
