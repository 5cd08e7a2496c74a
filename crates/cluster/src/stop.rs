//! `skiff stop` and `skiff delete`: the way back.
//!
//! Both are safe to repeat and to run over what a crash left. Invariant: after `delete` there is no
//! process, mount, cgroup, namespace, interface, rule or route of the cluster, whatever state it was in.

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::error::{Doing, Error, Result};
use crate::host_network;
use crate::kubeconfig;
use crate::layout::{self, Layout};
use crate::process::ProcessId;
use crate::start::cgroup;
use crate::state::{Lock, State};

/// How long pods get to end when the cluster is stopped.
const POD_GRACE: Duration = Duration::from_secs(10);

/// Stops the cluster and keeps its state. False if it was not running.
pub async fn stop(name: &str) -> Result<bool> {
    let layout = existing(name)?;
    let _lock = Lock::take(&layout)?;
    let mut state = State::load(&layout)?.ok_or_else(|| Error::NoSuchCluster(name.to_owned()))?;
    let was_running = state.is_running();
    end_node(&state);
    clear(&layout, POD_GRACE).await?;
    state.node = None;
    state.save(&layout)?;
    Ok(was_running)
}

/// Deletes the cluster and everything it put on this machine. False if there was none.
pub async fn delete(name: &str) -> Result<bool> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let layout = Layout::of(name)?;
    let _lock = Lock::take(&layout)?;
    let state = State::load(&layout)?;
    clear(&layout, Duration::ZERO).await?;
    kubeconfig::remove(&kubeconfig::user_path(), name)?;
    let existed = layout.dir.exists();
    if existed {
        fs::remove_dir_all(&layout.dir).doing(|| format!("removing {}", layout.dir.display()))?;
    }
    if state.is_some_and(|state| state.enabled_forwarding) && no_cluster_left() {
        host_network::disable_forwarding()?;
    }
    // The lock file goes while it is held: the next command makes a new one.
    fs::remove_file(layout.lock()).doing(|| "removing the lock".into())?;
    Ok(existed)
}

/// Ends every process of the node and takes its cgroup and network away.
pub(crate) async fn clear(layout: &Layout, grace: Duration) -> Result<()> {
    let group = cgroup(layout);
    group.stop_all(grace);
    group.remove().doing(|| format!("removing cgroup {}", layout.cgroup()))?;
    host_network::remove(&layout.name).await
}

/// Lets the server write its last snapshot.
fn end_node(state: &State) {
    let Some(node) = &state.node else { return };
    node.signal(Signal::SIGTERM);
    let deadline = Instant::now() + Duration::from_secs(30);
    while ProcessId::is_alive(node) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn existing(name: &str) -> Result<Layout> {
    if !geteuid().is_root() {
        return Err(Error::NotRoot);
    }
    let layout = Layout::of(name)?;
    match layout.exists() {
        true => Ok(layout),
        false => Err(Error::NoSuchCluster(name.to_owned())),
    }
}

fn no_cluster_left() -> bool {
    let clusters = fs::read_dir(layout::root().join("clusters"));
    clusters.map_or(true, |mut entries| entries.next().is_none())
}
