//! Plugins announce themselves by a socket in the registration directory.
//!
//! Sockets that appear -> asked who they are -> registered, published, told so; sockets that vanish -> forgotten.
//! Counterpart: `pkg/kubelet/pluginmanager`. Level-triggered: each look compares the directory with what is registered, so a
//! plugin that cannot be registered yet is tried again, and one that replaced its socket is registered anew.
//! Invariant: a driver is published in the API before anyone may use it, and is told the outcome of every try.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::sys::inotify::AddWatchFlags;
use tokio::time::Instant;

use super::{Endpoint, csi_node, messages::PluginInfo};
use crate::{context::NodeContext, device_plugin::registry, directory_watch::DirectoryWatch};

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(120);
/// Where the kernel cannot tell of changes, the directory is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What plugins register as; others are turned away.
const CSI_PLUGIN: &str = "CSIPlugin";
const DEVICE_PLUGIN: &str = "DevicePlugin";
const DRA_PLUGIN: &str = "DRAPlugin";

/// A socket is another one when it was made anew at the same path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Made(u64, i64);

struct Socket {
    made: Made,
    state: State,
}

enum State {
    Registered(Plugin),
    /// To be tried again.
    Refused {
        retry_at: Instant,
        delay: Duration,
    },
}

/// Its kind and name.
struct Plugin {
    kind: String,
    name: String,
}

#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error("no handler registered for plugin type: {kind} at socket {path:?}")]
    Kind { kind: String, path: PathBuf },
    #[error("validation failed for CSI Driver {name} at endpoint {endpoint}: {why}")]
    Version { name: String, endpoint: String, why: String },
    #[error("{0}")]
    Device(String),
    #[error("{0}")]
    Call(#[from] skiff_grpc::Status),
    #[error("{0}")]
    Publish(#[from] csi_node::PublishError),
}

struct Registrar {
    ctx: Arc<NodeContext>,
    dir: PathBuf,
    sockets: BTreeMap<PathBuf, Socket>,
}

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>) {
    let dir = ctx.config.plugins_registry_dir();
    if let Err(error) = std::fs::create_dir_all(&dir) {
        return tracing::warn!(dir = %dir.display(), %error, "plugins cannot register");
    }
    publish_node(&ctx).await;
    let mut registrar = Registrar { ctx, dir, sockets: BTreeMap::new() };
    loop {
        // Watching begins before the look, so that nothing falls in between.
        let changes = changes(&registrar.dir);
        registrar.look().await;
        registrar.wait(changes).await;
    }
}

/// A node has a CSINode even if it never has a driver.
async fn publish_node(ctx: &NodeContext) {
    let mut delay = FIRST_RETRY;
    while let Err(error) = csi_node::ensure(ctx).await {
        tracing::debug!(%error, "CSINode not made, will retry");
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(LAST_RETRY);
    }
}

// === impl Registrar ===

impl Registrar {
    async fn look(&mut self) {
        let found = sockets_below(&self.dir);
        let is_there = |path: &PathBuf, socket: &Socket| found.get(path) == Some(&socket.made);
        let gone: Vec<PathBuf> = self
            .sockets
            .iter()
            .filter(|(path, socket)| !is_there(path, socket))
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            if let Some(Socket { state: State::Registered(plugin), .. }) =
                self.sockets.remove(&path)
                && !found.contains_key(&path)
            {
                self.forget(&plugin).await;
            }
        }
        for (path, made) in found {
            let delay = match self.sockets.get(&path).map(|socket| &socket.state) {
                Some(State::Registered(_)) => continue,
                Some(State::Refused { retry_at, .. }) if *retry_at > Instant::now() => continue,
                Some(State::Refused { delay, .. }) => (*delay * 2).min(LAST_RETRY),
                None => FIRST_RETRY,
            };
            let state = match self.register(&path).await {
                Ok(plugin) => State::Registered(plugin),
                Err(error) => {
                    tracing::warn!(socket = %path.display(), %error, "plugin not registered");
                    State::Refused { retry_at: Instant::now() + delay, delay }
                }
            };
            self.sockets.insert(path, Socket { made, state });
        }
    }

    /// Registers the plugin behind a socket and tells it the outcome.
    async fn register(&self, path: &Path) -> Result<Plugin, RegistrationError> {
        let socket = Endpoint(path.to_owned());
        let info = socket.info().await?;
        let outcome = self.admit(path, &info).await;
        let error =
            outcome.as_ref().err().map(|e| format!("plugin registration failed with err: {e}"));
        if let Err(error) = socket.notify(error.as_deref()).await {
            tracing::debug!(plugin = info.name, %error, "plugin not told of its registration");
        }
        outcome.map(|()| Plugin { kind: info.kind, name: info.name })
    }

    async fn admit(&self, path: &Path, info: &PluginInfo) -> Result<(), RegistrationError> {
        let endpoint = if info.endpoint.is_empty() { path } else { Path::new(&info.endpoint) };
        match info.kind.as_str() {
            CSI_PLUGIN => self.admit_driver(info, endpoint).await,
            DEVICE_PLUGIN => {
                registry::check_version(&info.versions)
                    .and_then(|()| registry::check_name(&info.name))
                    .map_err(RegistrationError::Device)?;
                Ok(registry::connect(&self.ctx, &info.name, endpoint.to_owned()).await?)
            }
            DRA_PLUGIN => {
                let registered =
                    self.ctx.claims.register(&info.name, endpoint.to_owned(), &info.versions);
                registered.map_err(RegistrationError::Device)
            }
            kind => Err(RegistrationError::Kind { kind: kind.to_owned(), path: path.to_owned() }),
        }
    }

    async fn admit_driver(
        &self,
        info: &PluginInfo,
        endpoint: &Path,
    ) -> Result<(), RegistrationError> {
        check_versions(&info.versions).map_err(|why| RegistrationError::Version {
            name: info.name.clone(),
            endpoint: endpoint.display().to_string(),
            why,
        })?;
        let driver = Endpoint(endpoint.to_owned());
        csi_node::install(&self.ctx, &info.name, &driver.node_info().await?).await?;
        tracing::info!(driver = info.name, "CSI driver registered");
        self.ctx.csi.register(&info.name, driver);
        Ok(())
    }

    async fn forget(&self, Plugin { kind, name }: &Plugin) {
        match kind.as_str() {
            DEVICE_PLUGIN => return registry::disconnect(&self.ctx, name),
            DRA_PLUGIN => return self.ctx.claims.unregister(name),
            _ => {}
        }
        tracing::info!(driver = name, "CSI driver has left");
        self.ctx.csi.unregister(name);
        if let Err(error) = csi_node::uninstall(&self.ctx, name).await {
            tracing::warn!(driver = name, %error, "CSI driver still published");
        }
    }

    /// Until the directory changes or a try is due.
    async fn wait(&self, changes: Option<DirectoryWatch>) {
        let retries = self.sockets.values().filter_map(|socket| match socket.state {
            State::Refused { retry_at, .. } => Some(retry_at),
            State::Registered(_) => None,
        });
        let look = changes.is_none().then(|| Instant::now() + LOOK_EVERY);
        let due = retries.chain(look).min();
        tokio::select! {
            () = sleep_until(due) => {}
            () = changed(changes) => {}
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

async fn changed(changes: Option<DirectoryWatch>) {
    match changes {
        // An error means that the next look comes early.
        Some(changes) => drop(changes.next().await),
        None => std::future::pending().await,
    }
}

/// Becomes readable when something in the directory or below changes.
fn changes(dir: &Path) -> Option<DirectoryWatch> {
    let changes = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_MOVE;
    DirectoryWatch::of(directories_below(dir), changes)
        .inspect_err(|error| tracing::debug!(%error, "plugins are looked for by the clock"))
        .ok()
}

fn directories_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = vec![dir.to_owned()];
    for (path, kind) in entries(dir) {
        if kind.is_dir() {
            found.extend(directories_below(&path));
        }
    }
    found
}

fn sockets_below(dir: &Path) -> BTreeMap<PathBuf, Made> {
    let mut found = BTreeMap::new();
    for dir in directories_below(dir) {
        for (path, kind) in entries(&dir) {
            let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes()[0] == b'.');
            if kind.is_socket()
                && !is_hidden
                && let Ok(meta) = path.symlink_metadata()
            {
                found.insert(
                    path,
                    Made(meta.ino(), meta.ctime_nsec() + meta.ctime() * 1_000_000_000),
                );
            }
        }
    }
    found
}

fn entries(dir: &Path) -> impl Iterator<Item = (PathBuf, std::fs::FileType)> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.path(), entry.file_type().ok()?)))
}

/// Drivers of CSI 1 are understood; those of 0 and of 2 are not.
fn check_versions(versions: &[String]) -> Result<(), String> {
    let major = |version: &String| {
        version.trim_start_matches('v').split('.').next().and_then(|n| n.parse::<u32>().ok())
    };
    match versions.iter().any(|version| major(version) == Some(1)) {
        true => Ok(()),
        false => Err(format!("none of the versions specified {versions:?} are supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_the_first_version_are_taken() {
        let check = |versions: &[&str]| {
            let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
            check_versions(&versions).is_ok()
        };
        assert!(check(&["1.0.0"]) && check(&["v1.2.0"]) && check(&["0.3.0", "1.0.0"]));
        assert!(!check(&[]) && !check(&["0.3.0"]) && !check(&["2.0.0"]) && !check(&["one"]));
    }
}
