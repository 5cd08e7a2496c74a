//! Plugins announce themselves by a socket in the registration directory.
//!
//! Sockets that appear -> asked who they are -> admitted by their kind and told so; sockets that vanish -> forgotten.
//! Counterpart: `pkg/kubelet/pluginmanager`. Level-triggered: each look compares the directory with what is registered, so a
//! plugin that cannot be registered yet is tried again, and one that replaced its socket is registered anew.
//! Invariant: knows no kind but by [`KINDS`]; a plugin is told the outcome of every try.

mod directory;
mod socket;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use skiff_grpc::Status;
use tokio::time::Instant;

use crate::{context::NodeContext, csi, device_plugin, directory_watch::DirectoryWatch, dra};
use directory::Made;
use socket::{PluginInfo, RegistrationSocket};

const FIRST_RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(120);
/// Where the kernel cannot tell of changes, the directory is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// In alphabetical order; plugins of others are turned away.
const KINDS: [&dyn PluginKind; 3] = [
    &csi::registration::CsiPlugins,
    &device_plugin::registration::DevicePlugins,
    &dra::registration::DraPlugins,
];

/// One kind of plugin: what it takes to be registered, and what follows.
#[async_trait]
pub trait PluginKind: Send + Sync {
    /// What its plugins say that they are: `CSIPlugin`.
    fn name(&self) -> &'static str;

    /// Has to be done before plugins of any kind are asked.
    async fn prepare(&self, _ctx: &NodeContext) -> Result<(), String> {
        Ok(())
    }

    /// Lets pods use the plugin, or says why not.
    async fn admit(&self, ctx: &Arc<NodeContext>, plugin: Plugin<'_>) -> Result<(), String>;

    async fn forget(&self, ctx: &NodeContext, name: &str);
}

/// A plugin as it presents itself.
#[derive(Debug, Clone, Copy)]
pub struct Plugin<'a> {
    pub name: &'a str,
    /// Where it serves what it is for.
    pub endpoint: &'a Path,
    pub versions: &'a [String],
}

#[derive(Debug, thiserror::Error)]
enum RegistrationError {
    #[error("no handler registered for plugin type: {kind} at socket {path:?}")]
    Kind { kind: String, path: PathBuf },
    #[error("{0}")]
    Call(#[from] Status),
    /// In its kind's words.
    #[error("{0}")]
    NotAdmitted(String),
}

struct Socket {
    made: Made,
    state: State,
}

enum State {
    Registered {
        kind: &'static dyn PluginKind,
        name: String,
    },
    /// To be tried again.
    Refused {
        retry_at: Instant,
        delay: Duration,
    },
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
    for kind in KINDS {
        prepare(kind, &ctx).await;
    }
    let mut registrar = Registrar { ctx, dir, sockets: BTreeMap::new() };
    loop {
        // Watching begins before the look, so that nothing falls in between.
        let changes = directory::changes(&registrar.dir);
        registrar.look().await;
        registrar.wait(changes).await;
    }
}

/// However long it takes.
async fn prepare(kind: &dyn PluginKind, ctx: &NodeContext) {
    let mut delay = FIRST_RETRY;
    while let Err(error) = kind.prepare(ctx).await {
        tracing::debug!(kind = kind.name(), %error, "not ready for plugins, will retry");
        tokio::time::sleep(delay).await;
        delay = longer(delay);
    }
}

fn longer(delay: Duration) -> Duration {
    (delay * 2).min(LAST_RETRY)
}

// === impl Registrar ===

impl Registrar {
    /// Forgets who has left, and asks whoever has come or is to be tried again.
    async fn look(&mut self) {
        let found = directory::sockets_below(&self.dir);
        self.forget_gone(&found).await;
        for (path, made) in found {
            let known = self.sockets.get(&path).map(|socket| &socket.state);
            if let Some(delay) = State::due(known, Instant::now()) {
                let state = self.try_to_register(&path, delay).await;
                self.sockets.insert(path, Socket { made, state });
            }
        }
    }

    /// A plugin whose socket was made anew registers over itself, without having left.
    async fn forget_gone(&mut self, found: &BTreeMap<PathBuf, Made>) {
        let gone: Vec<(PathBuf, Socket)> = self
            .sockets
            .extract_if(.., |path, socket| found.get(path) != Some(&socket.made))
            .collect();
        for (path, socket) in gone {
            if let State::Registered { kind, name } = socket.state
                && !found.contains_key(&path)
            {
                kind.forget(&self.ctx, &name).await;
            }
        }
    }

    /// `delay` goes by before the next try if this one fails.
    async fn try_to_register(&self, path: &Path, delay: Duration) -> State {
        self.register(path).await.unwrap_or_else(|error| {
            tracing::warn!(socket = %path.display(), %error, "plugin not registered");
            State::Refused { retry_at: Instant::now() + delay, delay }
        })
    }

    /// Registers the plugin behind a socket and tells it the outcome.
    async fn register(&self, path: &Path) -> Result<State, RegistrationError> {
        let socket = RegistrationSocket::at(path);
        let info = socket.info().await?;
        let outcome = self.admit(path, &info).await;
        let error =
            outcome.as_ref().err().map(|e| format!("plugin registration failed with err: {e}"));
        if let Err(error) = socket.notify(error).await {
            tracing::debug!(plugin = info.name, %error, "plugin not told of its registration");
        }
        outcome.map(|kind| State::Registered { kind, name: info.name })
    }

    async fn admit(
        &self,
        path: &Path,
        info: &PluginInfo,
    ) -> Result<&'static dyn PluginKind, RegistrationError> {
        let unknown = || RegistrationError::Kind { kind: info.kind.clone(), path: path.to_owned() };
        let kind = KINDS.into_iter().find(|it| it.name() == info.kind).ok_or_else(unknown)?;
        let endpoint = if info.endpoint.is_empty() { path } else { Path::new(&info.endpoint) };
        let plugin = Plugin { name: &info.name, endpoint, versions: &info.versions };
        let admitted = kind.admit(&self.ctx, plugin).await;
        admitted.map(|()| kind).map_err(RegistrationError::NotAdmitted)
    }

    /// Until the directory changes or a try is due.
    async fn wait(&self, changes: Option<DirectoryWatch>) {
        let retries = self.sockets.values().filter_map(|socket| match socket.state {
            State::Refused { retry_at, .. } => Some(retry_at),
            State::Registered { .. } => None,
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

// === impl State ===

impl State {
    /// Whether the plugin is to be asked now; if so, how long to wait should it be refused.
    fn due(known: Option<&State>, now: Instant) -> Option<Duration> {
        match known {
            None => Some(FIRST_RETRY),
            Some(State::Registered { .. }) => None,
            Some(State::Refused { retry_at, delay }) => (*retry_at <= now).then(|| longer(*delay)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_of_its_own() {
        let names: std::collections::BTreeSet<_> = KINDS.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), KINDS.len());
    }

    #[test]
    fn who_was_refused_is_tried_again_at_growing_intervals_up_to_a_limit() {
        let now = Instant::now();
        let refused = |delay| State::Refused { retry_at: now, delay };
        assert_eq!(State::due(None, now), Some(FIRST_RETRY));
        assert_eq!(State::due(Some(&refused(FIRST_RETRY)), now), Some(FIRST_RETRY * 2));
        assert_eq!(State::due(Some(&refused(LAST_RETRY)), now), Some(LAST_RETRY));
        let early = now - Duration::from_millis(1);
        assert_eq!(State::due(Some(&refused(FIRST_RETRY)), early), None);
        let [kind, ..] = KINDS;
        let registered = State::Registered { kind, name: "disk.example.com".into() };
        assert_eq!(State::due(Some(&registered), now + LAST_RETRY), None);
    }
}
