//! Encryption at rest: what the store is given to keep, for the resources that want it.
//!
//! Between the request path and the store stands [`Sealed`](sealed::Sealed), an engine over the engine: what is written beneath
//! the keys of an encrypted resource is sealed, what is read is opened; everything else passes untouched, by a look at the
//! key. By default that is every Secret, under a key the server keeps itself ([`keys`]); an EncryptionConfiguration says
//! otherwise. Counterparts: `storage/value` and `server/options/encryptionconfig`. Invariant: the store
//! knows no kinds and no keys, and the request path no ciphertext.

mod config;
mod endpoint;
mod keys;
mod provider;
mod rotation;
mod sealed;

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use skiff_store::Store;

pub use config::{EncryptionConfig, EncryptionError};
pub use endpoint::run;
use keys::ManagedKeys;
use provider::{Provider, SealError};

/// Which keys of the store are sealed, and how. Replaced as a whole when keys change.
pub struct Rules {
    /// A prefix of keys and its providers; the first that fits counts.
    rules: Vec<(String, Arc<Vec<Provider>>)>,
}

/// The encryption of one server.
pub struct Encryption {
    rules: ArcSwap<Rules>,
    /// The keys that the server keeps itself; none if a file says which to use.
    managed: Option<ManagedKeys>,
    /// The store without this layer.
    beneath: Store,
    /// Held for reading while something is sealed and committed, so that keys change only in between.
    writing: tokio::sync::RwLock<()>,
    /// One rotation at a time.
    rotating: tokio::sync::Mutex<()>,
}

const SECRETS: &str = "/registry/secrets/";

// === impl Encryption ===

impl Encryption {
    /// The layer over a store, and the store as everyone else sees it.
    pub fn over(
        beneath: Store,
        config: &EncryptionConfig,
        data_dir: &Path,
    ) -> Result<(Arc<Encryption>, Store), EncryptionError> {
        let (rules, managed) = match config {
            EncryptionConfig::File(path) => (config::read(path)?, None),
            EncryptionConfig::Managed => {
                let keys = ManagedKeys::open(data_dir)?;
                (Rules::managed(&keys, true)?, Some(keys))
            }
            // What was sealed before can still be read.
            EncryptionConfig::Off => match ManagedKeys::present(data_dir)? {
                Some(keys) => (Rules::managed(&keys, false)?, Some(keys)),
                None => (Rules { rules: Vec::new() }, None),
            },
        };
        let encryption = Arc::new(Encryption {
            rules: ArcSwap::from_pointee(rules),
            managed,
            beneath: beneath.clone(),
            writing: tokio::sync::RwLock::default(),
            rotating: tokio::sync::Mutex::default(),
        });
        let store = Store::new(sealed::Sealed::new(beneath, encryption.clone()));
        Ok((encryption, store))
    }

    fn providers(&self, key: &str) -> Option<Arc<Vec<Provider>>> {
        self.rules.load().providers(key).cloned()
    }

    /// Whether some key beneath the prefix, or around it, may be sealed.
    fn touches(&self, prefix: &str) -> bool {
        let rules = self.rules.load();
        rules
            .rules
            .iter()
            .any(|(rule, _)| rule.starts_with(prefix) || prefix.starts_with(rule.as_str()))
    }
}

// === impl Rules ===

impl Rules {
    /// Secrets under the server's own keys, or as they are with those keys for reading.
    fn managed(keys: &ManagedKeys, seal: bool) -> Result<Rules, SealError> {
        let mut providers = vec![Provider::AesGcm(keys.opened()?), Provider::Identity];
        if !seal {
            providers.reverse();
        }
        Ok(Rules { rules: vec![(SECRETS.to_owned(), Arc::new(providers))] })
    }

    fn providers(&self, key: &str) -> Option<&Arc<Vec<Provider>>> {
        let found = self.rules.iter().find(|(prefix, _)| key.starts_with(prefix.as_str()));
        found.map(|(_, providers)| providers)
    }
}
