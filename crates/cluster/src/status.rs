//! `skiff status`: what runs, without changing anything.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::error::Result;
use crate::kubeconfig;
use crate::layout::Layout;
use crate::start::server_url;
use crate::state::State;

/// Whether a part works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Running,
    Stopped,
}

/// The four things minikube's users look for.
#[derive(Clone, Debug)]
pub struct Status {
    pub name: String,
    pub exists: bool,
    pub host: Health,
    pub kubelet: Health,
    pub apiserver: Health,
    /// The context is there and points at this cluster.
    pub kubeconfig: bool,
    pub server: Option<String>,
}

pub fn status(name: &str) -> Result<Status> {
    let layout = Layout::of(name)?;
    let state = State::load(&layout)?;
    let running = state.as_ref().is_some_and(State::is_running);
    let answer = if running { ask(&layout) } else { String::new() };
    let server = state.as_ref().map(server_url);
    let configured = server
        .as_ref()
        .is_some_and(|server| kubeconfig::has(&kubeconfig::user_path(), name, server));
    let health = |is: bool| if is { Health::Running } else { Health::Stopped };
    Ok(Status {
        name: name.to_owned(),
        exists: state.is_some(),
        host: health(running),
        kubelet: health(answer.contains("node ok")),
        apiserver: health(answer.contains("api ok")),
        kubeconfig: running && configured,
        server,
    })
}

impl Status {
    /// minikube's code: 1 for the host, 2 for the control plane, 4 for the kubeconfig.
    pub fn exit_code(&self) -> u8 {
        let bit = |bad: bool, bit: u8| if bad { bit } else { 0 };
        bit(self.host == Health::Stopped, 1)
            | bit(self.apiserver == Health::Stopped, 2)
            | bit(!self.kubeconfig, 4)
    }
}

/// What the server says of itself over its socket; nothing if it does not answer.
fn ask(layout: &Layout) -> String {
    let ask = || -> std::io::Result<String> {
        let mut socket = UnixStream::connect(layout.socket())?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.write_all(b"GET /health HTTP/1.0\r\nHost: node\r\n\r\n")?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}
