//! Finding again what an earlier daemon left: the other half of "the daemon may be killed at any
//! time".
//!
//! Consumes the directory tree, decides by process identity which shims still live, emits the
//! in-memory state and connections.
//! Counterpart: containerd's `restart.go`. Invariant: a pid that was reused, or a machine that was
//! rebooted, never makes a dead container look alive.

use std::{fs, path::Path, sync::Arc};

use super::{
    Embedded,
    record::{CONTAINER_FILE, Container, ContainerRecord, Phase, SANDBOX_FILE, SandboxRecord},
    sandboxes::Sandbox,
    shim_client::ShimClient,
};
use crate::{
    error::{IoContext, Result},
    files,
    shim::protocol::Request,
};

impl Embedded {
    pub(super) async fn recover(&self) -> Result<()> {
        for id in subdirectories(&self.sandboxes_dir())? {
            let dir = self.sandboxes_dir().join(&id);
            match files::read_json::<SandboxRecord>(&dir.join(SANDBOX_FILE)) {
                Ok(Some(record)) => self.recover_sandbox(&dir, record).await?,
                Ok(None) => self.discard(&id, &dir).await?,
                // One unreadable sandbox must not keep the others from being found.
                Err(error) => tracing::error!(sandbox = id, %error, "left alone"),
            }
        }
        Ok(())
    }

    /// Interrupted before it was a sandbox; its shim may serve already.
    async fn discard(&self, id: &str, dir: &Path) -> Result<()> {
        if let Ok(shim) = ShimClient::connect(id, dir, self.listener()).await {
            // One that dies instead of answering has obeyed.
            let _ = shim.tell(Request::Shutdown).await;
        }
        files::remove_tree(dir)
    }

    async fn recover_sandbox(&self, dir: &Path, record: SandboxRecord) -> Result<()> {
        let (id, alive) = (record.id.clone(), record.shim.is_alive());
        for container in subdirectories(&dir.join("containers"))? {
            self.recover_container(&dir.join("containers").join(container));
        }
        let sandbox = Arc::new(Sandbox::new(dir.to_owned(), record, None));
        self.sandboxes().insert(id.clone(), sandbox.clone());
        let shim = match alive {
            true => ShimClient::connect(&id, dir, self.listener()).await.ok(),
            false => None,
        };
        match shim {
            Some(shim) => {
                sandbox.set_shim(Some(shim));
                // What ended while nobody listened, or just now.
                self.containers_of(&id).iter().for_each(|container| self.note_exit(container));
            }
            None => {
                sandbox.record().shim.kill();
                sandbox.record().stopped = true;
                sandbox.save()?;
                self.containers_of(&id).iter().for_each(|container| self.bury(container));
            }
        }
        Ok(())
    }

    fn recover_container(&self, dir: &Path) {
        let read = files::read_json::<ContainerRecord>(&dir.join(CONTAINER_FILE));
        match read.and_then(|record| Ok((record, Phase::read(dir)?))) {
            Ok((Some(record), phase)) => {
                let container = Container::new(record, dir.to_owned(), phase);
                self.containers().insert(container.record.id.clone(), Arc::new(container));
            }
            // Interrupted before it was one.
            Ok((None, _)) => {
                if let Err(error) = files::remove_tree(dir) {
                    tracing::warn!(%error, "cannot remove a container that was never created");
                }
            }
            Err(error) => tracing::error!(container = %dir.display(), %error, "left alone"),
        }
    }
}

fn subdirectories(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.at("list", dir)?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
}
