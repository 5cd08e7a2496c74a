//! Registries: where images come from and go to.
//!
//! Consumes references and credentials, speaks the OCI distribution API over HTTPS or, where
//! declared, HTTP, emits images in the store. Counterpart: containerd's `core/remotes/docker`.
//! In the order of a pull: [`config`] says whom to ask, [`transport`] connects to hosts that
//! [`trust`] believes, [`auth`] and
//! [`repository`] make requests, [`pull`] and [`push`] decide which.
//! Invariant: the file of the configuration is read for every pull, and nothing is remembered of
//! one for the next but what lies in the store.

mod auth;
mod config;
mod error;
mod pull;
mod push;
mod repository;
mod transport;
mod trust;

use std::{path::PathBuf, sync::Arc};

use config::RegistryConfig;
pub use error::RegistryError;
use tokio::sync::mpsc::UnboundedSender;

use super::{ImageRecord, ImageStore, Reference};
use crate::{
    cri::{AuthConfig, LayerProgress, PullImage},
    error::{Error, Result},
};

pub(crate) struct Registries {
    store: Arc<ImageStore>,
    config: Option<PathBuf>,
}

// === impl Registries ===

impl Registries {
    pub fn new(store: Arc<ImageStore>, config: Option<PathBuf>) -> Self {
        Registries { store, config }
    }

    pub async fn pull(&self, request: PullImage) -> Result<ImageRecord> {
        let reference = Reference::parse(&request.reference)?;
        let failed = |source| Error::Pull { reference: reference.to_string(), source };
        let pull = pull::Pull {
            store: self.store.clone(),
            config: self.read_config().map_err(failed)?,
            reference: reference.clone(),
            request,
        };
        pull.run().await.map_err(failed)
    }

    /// Answers the digest of what was pushed.
    pub async fn push(
        &self,
        reference: &str,
        auth: Option<AuthConfig>,
        progress: Option<UnboundedSender<LayerProgress>>,
    ) -> Result<String> {
        let reference = Reference::parse(reference)?;
        let failed = |source| Error::Push { reference: reference.to_string(), source };
        let push = push::Push {
            store: self.store.clone(),
            config: self.read_config().map_err(failed)?,
            reference: reference.clone(),
            auth,
            progress,
        };
        push.run().await.map_err(failed)
    }

    fn read_config(&self) -> std::result::Result<Arc<RegistryConfig>, RegistryError> {
        RegistryConfig::read(self.config.as_deref()).map(Arc::new)
    }
}
