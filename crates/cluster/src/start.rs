//! `skiff start`: from nothing, or from what `stop` left, to a cluster that answers.
//!
//! host checks -> lock -> state -> node process -> network -> reports until ready -> kubeconfig.
//! Invariant: if it fails, what it made is taken away again, and what was there before is kept.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::unistd::{dup2_raw, geteuid, pipe2, setsid};

use crate::cgroup::NodeCgroup;
use crate::error::{Doing, Error, Result};
use crate::host_network;
use crate::kubeconfig;
use crate::layout::{self, Layout};
use crate::node;
use crate::process::ProcessId;
use crate::report::Report;
use crate::state::{Lock, State};
use crate::stop;

/// How long a node may take to come up before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Asked for when the user names no port.
const USUAL_PORT: u16 = 6443;

#[derive(Clone, Debug)]
pub struct StartOptions {
    pub name: String,
    /// Where the API server listens on this machine.
    pub bind_address: Ipv4Addr,
    /// `None`: 6443, or any free one if that is taken. `Some(0)`: any free one.
    pub port: Option<u16>,
    /// Further arguments for `skiff server`.
    pub server_args: Vec<String>,
}

/// A cluster that answers.
#[derive(Clone, Debug)]
pub struct Started {
    pub name: String,
    pub server: String,
    pub node_address: Ipv4Addr,
    pub kubeconfig: PathBuf,
    /// It ran already; nothing was done but to renew the context.
    pub was_running: bool,
}

/// Starts the cluster and returns when it is useful. `progress` hears each phase and when, since
/// the start, it was reached.
pub async fn start(
    options: StartOptions,
    mut progress: impl FnMut(&str, Duration),
) -> Result<Started> {
    let began = Instant::now();
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let layout = Layout::of(&options.name)?;
    let _lock = Lock::take(&layout)?;
    let existing = State::load(&layout)?;
    if let Some(state) = existing.as_ref().filter(|state| state.is_running()) {
        return finish(&layout, state, true);
    }
    layout.create()?;
    // What a crash left behind would be in the way of the new node.
    stop::clear(&layout, Duration::ZERO).await?;
    let listener = listen(&options, existing.as_ref())?;
    let mut state = prepare(&options, existing, &listener).await?;
    let node = match launch(&layout, &state, &options, listener) {
        Ok(node) => node,
        Err(error) => return Err(undo(&layout, error).await),
    };
    match bring_up(&layout, &mut state, node, |phase| progress(phase, began.elapsed())).await {
        Ok(()) => finish(&layout, &state, false),
        Err(error) => Err(undo(&layout, error).await),
    }
}

async fn undo(layout: &Layout, error: Error) -> Error {
    // The first error is the one to show.
    let _ = stop::clear(layout, Duration::ZERO).await;
    error
}

fn listen(options: &StartOptions, existing: Option<&State>) -> Result<TcpListener> {
    let address = options.bind_address;
    let wanted = options.port.or(existing.map(|state| state.api_port));
    match (TcpListener::bind((address, wanted.unwrap_or(USUAL_PORT))), options.port) {
        (Ok(listener), _) => Ok(listener),
        (Err(_), None) => {
            TcpListener::bind((address, 0)).doing(|| format!("listening on {address}"))
        }
        (Err(_), Some(port)) => Err(Error::PortTaken { address: address.to_string(), port }),
    }
}

async fn prepare(
    options: &StartOptions,
    existing: Option<State>,
    listener: &TcpListener,
) -> Result<State> {
    let port = listener.local_addr().doing(|| "asking for the port".into())?.port();
    let subnet = match &existing {
        Some(state) => state.subnet,
        None => host_network::choose_subnet(&subnets_of_others(&options.name)).await?,
    };
    Ok(State {
        api_address: options.bind_address,
        api_port: port,
        subnet,
        node: None,
        enabled_forwarding: existing.is_some_and(|state| state.enabled_forwarding),
    })
}

/// Networks of every other cluster, running or not.
fn subnets_of_others(name: &str) -> Vec<Ipv4Net> {
    let entries = fs::read_dir(layout::root().join("clusters")).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let others = names.filter(|other| other != name).filter_map(|other| Layout::of(&other).ok());
    others.filter_map(|layout| Some(State::load(&layout).ok()??.subnet)).collect()
}

/// A node process that waits for its network.
struct Node {
    child: Child,
    reports: BufReader<File>,
    go: File,
}

impl Node {
    /// The next line of the report; `None` if it ended or took too long.
    fn next_line(&mut self, deadline: Instant) -> Result<Option<String>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let millis = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
        let mut wait = [PollFd::new(self.reports.get_ref().as_fd(), PollFlags::POLLIN)];
        if self.reports.buffer().is_empty()
            && poll(&mut wait, millis).doing(|| "listening to the node".into())? == 0
        {
            return Ok(None);
        }
        let mut line = String::new();
        let read = self.reports.read_line(&mut line).doing(|| "listening to the node".into())?;
        Ok((read > 0).then_some(line))
    }
}

fn launch(
    layout: &Layout,
    state: &State,
    options: &StartOptions,
    listener: TcpListener,
) -> Result<Node> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).doing(|| "making a pipe".into());
    let ((reports, reporter), (ready, go)) = (pipe()?, pipe()?);
    let log = File::options()
        .create(true)
        .append(true)
        .open(layout.log())
        .doing(|| format!("opening {}", layout.log().display()))?;
    let errors = log.try_clone().doing(|| "sharing the log".into())?;
    let mut command = Command::new("/proc/self/exe");
    command
        .arg0("skiff-node")
        .arg("node-holder")
        .arg(&layout.name)
        .args(server_args(layout, state, options))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors);
    let inherited = [
        (reporter.as_raw_fd(), node::REPORT_FD),
        (ready.as_raw_fd(), node::GO_FD),
        (listener.as_raw_fd(), node::LISTEN_FD),
    ];
    // SAFETY: setsid and dup2 are async-signal-safe.
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            place(&inherited)
        });
    }
    let child = command.spawn().doing(|| "starting the node".into())?;
    Ok(Node { child, reports: BufReader::new(File::from(reports)), go: File::from(go) })
}

/// Moves descriptors to the numbers the node expects, out of each other's way first.
fn place(inherited: &[(RawFd, RawFd)]) -> std::io::Result<()> {
    const ASIDE: RawFd = 40;
    for (at, (from, _)) in inherited.iter().enumerate() {
        dup(*from, ASIDE + at as RawFd)?;
    }
    for (at, (_, to)) in inherited.iter().enumerate() {
        dup(ASIDE + at as RawFd, *to)?;
        nix::unistd::close(ASIDE + at as RawFd)?;
    }
    Ok(())
}

fn dup(from: RawFd, to: RawFd) -> std::io::Result<()> {
    // SAFETY: between fork and exec the numbers are ours; the result stays open for exec.
    unsafe {
        let from = std::os::fd::BorrowedFd::borrow_raw(from);
        let placed: OwnedFd = dup2_raw(from, to)?;
        std::mem::forget(placed);
    }
    Ok(())
}

fn server_args(layout: &Layout, state: &State, options: &StartOptions) -> Vec<String> {
    let mut args: Vec<String> = [
        ("--data-dir", layout.data().display().to_string()),
        ("--bind-address", "0.0.0.0".to_owned()),
        ("--port", USUAL_PORT.to_string()),
        ("--node-name", layout.name.clone()),
        ("--legacy-apis", "true".to_owned()),
        ("--node-ip", state.node_address().to_string()),
        ("--cgroup-root", layout.cgroup()),
        ("--report-fd", node::REPORT_FD.to_string()),
        ("--listen-fd", node::LISTEN_FD.to_string()),
        ("--external-url", server_url(state)),
        ("--write-kubeconfig", layout.kubeconfig().display().to_string()),
    ]
    .into_iter()
    .flat_map(|(flag, value)| [flag.to_owned(), value])
    .collect();
    args.extend(options.server_args.iter().cloned());
    args
}

async fn bring_up(
    layout: &Layout,
    state: &mut State,
    mut node: Node,
    mut progress: impl FnMut(&str),
) -> Result<()> {
    let pid = node.child.id() as i32;
    state.node = ProcessId::of(pid);
    state.save(layout)?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let Some(line) = node.next_line(deadline)? else { return Err(failed(layout, &mut node)) };
        match Report::parse(line.trim_end()) {
            Some(Report::Namespaces) => {
                host_network::connect(&layout.name, state, pid).await?;
                state.enabled_forwarding |= host_network::open_way_out(&layout.name, state).await?;
                state.save(layout)?;
                node.go.write_all(b"1").doing(|| "telling the node to go on".into())?;
                progress("network namespace, mounts and cgroup");
            }
            Some(Report::Phase(what)) => progress(&what),
            Some(Report::Ready) => return Ok(()),
            Some(Report::Failed(reason)) => {
                return Err(Error::NodeFailed { reason, log: layout.log() });
            }
            None => {}
        }
    }
}

/// The node ended without a word: its log has more.
fn failed(layout: &Layout, node: &mut Node) -> Error {
    let how = match node.child.try_wait() {
        Ok(Some(status)) => format!("it ended with {status}"),
        _ => "it did not get ready".to_owned(),
    };
    let log = fs::read_to_string(layout.log()).unwrap_or_default();
    let last = log.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("").trim();
    Error::NodeFailed { reason: format!("{how}: {last}"), log: layout.log() }
}

fn finish(layout: &Layout, state: &State, was_running: bool) -> Result<Started> {
    let path = kubeconfig::user_path();
    let mut access = kubeconfig::access_of(&layout.kubeconfig())?;
    access.server = server_url(state);
    kubeconfig::add(&path, &layout.name, &access)?;
    Ok(Started {
        name: layout.name.clone(),
        server: access.server,
        node_address: state.node_address(),
        kubeconfig: path,
        was_running,
    })
}

pub(crate) fn server_url(state: &State) -> String {
    let host = match state.api_address.is_unspecified() {
        true => Ipv4Addr::LOCALHOST,
        false => state.api_address,
    };
    format!("https://{host}:{}", state.api_port)
}

/// The cgroup, for `stop`.
pub(crate) fn cgroup(layout: &Layout) -> NodeCgroup {
    NodeCgroup::at(&layout.cgroup())
}
