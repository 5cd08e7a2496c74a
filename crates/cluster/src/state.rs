//! What is remembered of a cluster between commands, and the lock that keeps commands apart.

use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Doing, Error, Result};
use crate::layout::{self, Layout};
use crate::process::ProcessId;

/// Everything that must be known to stop or delete the cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    /// Where the API server is reached on this machine.
    pub api_address: Ipv4Addr,
    pub api_port: u16,
    /// The network between the host and the nodes; the host has its first address.
    pub subnet: Ipv4Net,
    /// The process that holds the node's namespaces, while it runs.
    pub node: Option<ProcessId>,
    /// `net.ipv4.ip_forward` was off before and was turned on for this cluster.
    pub enabled_forwarding: bool,
}

impl State {
    pub fn load(layout: &Layout) -> Result<Option<State>> {
        let path = layout.state();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).doing(|| format!("reading {}", path.display())),
        };
        serde_json::from_slice(&text)
            .map(Some)
            .map_err(std::io::Error::from)
            .doing(|| format!("reading {}", path.display()))
    }

    /// Replaces the file in one step.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let path = layout.state();
        let draft = path.with_extension("json.new");
        let text = serde_json::to_vec_pretty(self).expect("state is plain data");
        let write = || {
            let mut file = File::create(&draft)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &path)
        };
        write().doing(|| format!("writing {}", path.display()))
    }

    pub fn host_address(&self) -> Ipv4Addr {
        nth(self.subnet, 1)
    }

    pub fn node_address(&self) -> Ipv4Addr {
        nth(self.subnet, 2)
    }

    pub fn is_running(&self) -> bool {
        self.node.as_ref().is_some_and(ProcessId::is_alive)
    }
}

/// Held while a command changes a cluster.
pub(crate) struct Lock {
    _file: Flock<File>,
}

impl Lock {
    pub fn take(layout: &Layout) -> Result<Lock> {
        let root = layout::root();
        fs::create_dir_all(&root).doing(|| format!("making {}", root.display()))?;
        let path = layout.lock();
        let file = File::create(&path).doing(|| format!("opening {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(Lock { _file: file }),
            Err(_) => Err(Error::Busy(layout.name.clone())),
        }
    }
}

fn nth(subnet: Ipv4Net, at: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(subnet.network()) + at)
}
