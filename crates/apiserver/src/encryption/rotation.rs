//! New keys for old values: what `skiff secrets-encrypt` asks for.
//!
//! A rotation makes a key and lets it seal from then on, seals again whatever is not sealed with it, and forgets the other
//! keys. Each step is durable before the next begins, so a crash leaves values that can be read and a rotation that is
//! finished at the next start. Counterpart: k3s' `secrets-encrypt`; upstream leaves it to the administrator.
//! Invariant: a key goes only when a look at every value finds none sealed with it.

use std::collections::BTreeMap;

use serde::Serialize;
use skiff_store::{Entry, Error, Expect, RangeRequest, Txn, Value};

use super::provider::{self, Provider};
use super::sealed::{seal, with_hole};
use super::{Encryption, EncryptionError, Rules};

const NOTE: &str = r#"{"user":"system:apiserver","manager":"kube-apiserver","verb":"reencrypt"}"#;
const PAGE: usize = 500;

#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    #[error(
        "the keys are those of --encryption-provider-config: change them there, then re-encrypt"
    )]
    NotManaged,
    #[error(transparent)]
    Keys(#[from] EncryptionError),
    #[error(transparent)]
    Store(#[from] Error),
}

/// What is sealed, and with what.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Whether Secrets that are written now are sealed.
    pub enabled: bool,
    /// Whether the server keeps the keys itself.
    pub managed: bool,
    /// The server's own keys, the current one first.
    pub keys: Vec<String>,
    /// How many values there are in each form, by prefix of the store.
    pub values: BTreeMap<String, StatusCounts>,
}

/// Provider and key, or `plain`, and how many values are in that form.
pub type StatusCounts = BTreeMap<String, usize>;

// === impl Encryption ===

impl Encryption {
    pub async fn status(&self) -> Result<Status, Error> {
        let rules = self.rules.load_full();
        let mut values = BTreeMap::new();
        for (prefix, _) in &rules.rules {
            let found = self.beneath.range(RangeRequest::prefix(prefix.as_str())).await?;
            let mut counts = StatusCounts::new();
            for entry in &found.entries {
                *counts.entry(form_of(&entry.value)).or_default() += 1;
            }
            values.insert(prefix.clone(), counts);
        }
        let sealing = |providers: &[Provider]| !matches!(providers[0], Provider::Identity);
        Ok(Status {
            enabled: rules.providers(super::SECRETS).is_some_and(|providers| sealing(providers)),
            managed: self.managed.is_some(),
            keys: self.managed.as_ref().map(|keys| keys.names()).unwrap_or_default(),
            values,
        })
    }

    /// A new key for everything.
    pub async fn rotate(&self) -> Result<usize, RotationError> {
        let _alone = self.rotating.lock().await;
        let keys = self.managed.as_ref().ok_or(RotationError::NotManaged)?;
        keys.add()?;
        self.use_managed().await?;
        self.finish().await
    }

    /// Seals again whatever is not in the form that is written now.
    pub async fn reencrypt(&self) -> Result<usize, RotationError> {
        let _alone = self.rotating.lock().await;
        self.finish().await
    }

    /// Finishes what a crash interrupted.
    pub async fn resume(&self) {
        let _alone = self.rotating.lock().await;
        let several = self.managed.as_ref().is_some_and(|keys| keys.names().len() > 1);
        if several && let Err(error) = self.finish().await {
            tracing::error!(%error, "a rotation of keys cannot be finished");
        }
    }

    async fn finish(&self) -> Result<usize, RotationError> {
        let mut count = 0;
        // What was written while a pass went on is found by the next.
        loop {
            match self.pass().await? {
                0 => break,
                changed => count += changed,
            }
        }
        if let Some(keys) = &self.managed
            && self.seals_managed()
        {
            keys.keep_current()?;
            self.use_managed().await?;
        }
        Ok(count)
    }

    fn seals_managed(&self) -> bool {
        let providers = self.providers(super::SECRETS);
        providers.is_some_and(|providers| matches!(providers[0], Provider::AesGcm(_)))
    }

    /// From here on the current key seals: writes under way with another are waited for.
    async fn use_managed(&self) -> Result<(), RotationError> {
        let Some(keys) = &self.managed else { return Ok(()) };
        let rules = Rules::managed(keys, self.seals_managed()).map_err(EncryptionError::from)?;
        let _nobody_writes = self.writing.write().await;
        self.rules.store(rules.into());
        Ok(())
    }

    /// Looks at every value once; how many had to be sealed again.
    async fn pass(&self) -> Result<usize, RotationError> {
        let rules = self.rules.load_full();
        let mut count = 0;
        for (prefix, providers) in &rules.rules {
            let mut request = RangeRequest::prefix(prefix.as_str()).limit(PAGE);
            loop {
                let found = self.beneath.range(request.clone()).await?;
                for entry in &found.entries {
                    count += usize::from(self.renew(providers, entry).await?);
                }
                let Some(last) = found.entries.last().filter(|_| found.more()) else { break };
                request.range = request.range.starting_at(last.key.successor());
            }
        }
        Ok(count)
    }

    async fn renew(&self, providers: &[Provider], entry: &Entry) -> Result<bool, RotationError> {
        let wanted = providers[0].prefix();
        let current = match wanted.is_empty() {
            true => !entry.value.starts_with(provider::SEALED),
            false => entry.value.starts_with(wanted.as_bytes()),
        };
        if current {
            return Ok(false);
        }
        let value = match entry.value.starts_with(provider::SEALED) {
            true => {
                let plain = provider::open(providers, &entry.value, &entry.key);
                with_hole(plain.map_err(EncryptionError::from)?)
            }
            false => unspliced(entry),
        };
        let sealed = seal(providers, &entry.key, &value)?;
        let txn = Txn::put(entry.key.clone(), sealed, Expect::Mod(entry.mod_revision)).note(NOTE);
        match self.beneath.commit(txn).await {
            Ok(_) => Ok(true),
            // Somebody wrote it meanwhile, in the current form.
            Err(Error::Conflict { .. }) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// A value as it was before its revision was written into it.
fn unspliced(entry: &Entry) -> Value {
    let Some(span) = entry.revision_span() else { return Value::new(entry.value.clone()) };
    let bytes = [&entry.value[..span.start], &entry.value[span.end..]].concat();
    let at = u32::try_from(span.start).expect("a hole is near the beginning");
    Value::with_revision_at(bytes, at)
}

/// `aesgcm:key-1`, or `plain`.
fn form_of(value: &[u8]) -> String {
    let Some(rest) = value.strip_prefix(provider::SEALED) else { return "plain".to_owned() };
    let mut parts = rest.splitn(4, |byte| *byte == b':').map(String::from_utf8_lossy);
    let (provider, _version, key) = (parts.next(), parts.next(), parts.next());
    format!("{}:{}", provider.unwrap_or_default(), key.unwrap_or_default())
}
