//! What can keep a local cluster from being made, and what to do about it.

use std::io;
use std::path::PathBuf;

pub type Result<T> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "a local cluster needs root to make namespaces, cgroups and mounts: run this with sudo \
         (`skiff server --no-node` needs no root)"
    )]
    NotRoot,
    #[error(
        "{0:?} is no cluster name: use up to 40 lower case letters, digits and dashes, starting with a letter"
    )]
    BadName(String),
    #[error("another skiff command is working on cluster {0}: try again when it is done")]
    Busy(String),
    #[error("port {port} of {address} is taken: choose another with --port, or 0 for any free one")]
    PortTaken { address: String, port: u16 },
    #[error("cluster {0} does not exist: create it with `skiff start`")]
    NoSuchCluster(String),
    #[error("cluster {0} is not running: start it with `skiff start`")]
    NotRunning(String),
    #[error("no free network for the cluster: all of {0} overlap with networks of this machine")]
    NoFreeSubnet(String),
    #[error("the node did not come up: {reason}; its log is {}", log.display())]
    NodeFailed { reason: String, log: PathBuf },
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    #[error("{action}")]
    Network {
        action: &'static str,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("{} is not a valid kubeconfig: {reason}", path.display())]
    Kubeconfig { path: PathBuf, reason: String },
}

/// Says what was being done when an I/O error came.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for io::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Io { action: action(), source })
    }
}

impl<T> Doing<T> for nix::Result<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|errno| Error::Io { action: action(), source: errno.into() })
    }
}

/// Says what was being done when a netlink error came.
pub(crate) fn network<E>(action: &'static str) -> impl FnOnce(E) -> Error
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |source| Error::Network { action, source: Box::new(source) }
}
