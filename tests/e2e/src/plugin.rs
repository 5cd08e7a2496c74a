//! What the plugins of these tests have in common: their arguments, their registration, and what they note of their calls.
//!
//! A plugin is started with two directories, the agent's and its own: `PLUGIN KUBELET_DIR STATE_DIR`.

use std::{
    fs::OpenOptions,
    io::Write,
    path::{Path, PathBuf},
};

use prost::Message;
use skiff_grpc::Router;
use tokio::net::UnixListener;

/// Where a plugin works.
pub struct Directories {
    pub kubelet: PathBuf,
    pub state: PathBuf,
}

/// What a plugin answers who asks at its registration socket.
#[derive(Clone, PartialEq, Message)]
pub struct PluginInfo {
    #[prost(string, tag = "1")]
    pub kind: String,
    #[prost(string, tag = "2")]
    pub name: String,
    /// None: the registration socket itself.
    #[prost(string, tag = "3")]
    pub endpoint: String,
    #[prost(string, repeated, tag = "4")]
    pub versions: Vec<String>,
}

// === impl Directories ===

impl Directories {
    pub fn of_arguments() -> Self {
        let mut args = std::env::args_os().skip(1).map(PathBuf::from);
        match (args.next(), args.next(), args.next()) {
            (Some(kubelet), Some(state), None) => Directories { kubelet, state },
            _ => panic!("PLUGIN KUBELET_DIR STATE_DIR"),
        }
    }

    /// Adds a line to `STATE_DIR/calls`.
    pub fn note(&self, call: &str) {
        let calls = OpenOptions::new().create(true).append(true).open(self.state.join("calls"));
        let written = calls.and_then(|mut file| writeln!(file, "{call}"));
        written.expect("the state is writable");
    }
}

/// Where the agent asks who is there.
pub fn registration(info: PluginInfo) -> Router {
    let info = move |()| std::future::ready(Ok(info.clone()));
    Router::default()
        .unary("/pluginregistration.Registration/GetInfo", info)
        .unary("/pluginregistration.Registration/NotifyRegistrationStatus", async |()| Ok(()))
}

/// At a socket of this path, which is made anew.
pub fn listen(socket: &Path) -> std::io::Result<UnixListener> {
    let _ = std::fs::remove_file(socket);
    UnixListener::bind(socket)
}
