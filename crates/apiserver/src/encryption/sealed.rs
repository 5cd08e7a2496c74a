//! An engine that keeps some values sealed in the engine beneath it.
//!
//! Values in: sealed on their way down. Entries and events out: opened on their way up, the recent ones only once, as a
//! thousand watchers are shown the same version. Counterpart: the transformers of `storage/etcd3`. Invariant: an
//! entry's revision, notes and order are those beneath; only its value has another form.

use std::sync::Arc;

use skiff_store::{
    BoxFuture, Committed, Engine, Entry, Error, Event, Events, Key, KeyRange, Op, RangeRequest,
    RangeResponse, Revision, Store, Txn, Value, Watch, WatchSource,
};

use super::Encryption;
use super::provider::{self, Provider};
use crate::recent::Recent;

/// How many opened versions are kept at hand.
const OPENED: usize = 1024;
/// How an object's revision is left open when it is written; see [`crate::objects`].
const HOLE: &[u8] = b"\"metadata\":{\"resourceVersion\":\"\"";

pub struct Sealed {
    beneath: Store,
    form: Form,
}

/// Turns entries into what is shown of them.
#[derive(Clone)]
struct Form {
    encryption: Arc<Encryption>,
    opened: Arc<Recent<(Key, Revision), Arc<Entry>>>,
}

struct SealedWatch {
    watch: Watch,
    form: Form,
    range: KeyRange,
}

// === impl Sealed ===

impl Sealed {
    pub fn new(beneath: Store, encryption: Arc<Encryption>) -> Sealed {
        let opened = Arc::new(Recent::of_size(OPENED));
        Sealed { beneath, form: Form { encryption, opened } }
    }
}

impl Engine for Sealed {
    fn get<'a>(
        &'a self,
        key: &'a str,
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<Arc<Entry>>, Error>> {
        Box::pin(async move {
            let found = match at {
                Some(at) => self.beneath.get_at(key, at).await?,
                None => self.beneath.get(key).await?,
            };
            found.map(|entry| self.form.show(&entry)).transpose()
        })
    }

    fn range(&self, request: RangeRequest) -> BoxFuture<'_, Result<RangeResponse, Error>> {
        Box::pin(async move {
            let touched = self.form.touches(&request.range);
            let mut response = self.beneath.range(request).await?;
            if touched {
                for entry in &mut response.entries {
                    *entry = self.form.show(entry)?;
                }
            }
            Ok(response)
        })
    }

    fn commit(&self, txn: Txn) -> BoxFuture<'_, Result<Committed, Error>> {
        let is_sealed = |op: &Op| self.form.encryption.providers(op.key()).is_some();
        if !txn.ops.iter().any(is_sealed) {
            return Box::pin(self.beneath.commit(txn));
        }
        let (beneath, form) = (self.beneath.clone(), self.form.clone());
        // A task of its own: a caller who goes away must not leave a write behind that nobody waits for.
        let task = tokio::spawn(async move { form.commit(&beneath, txn).await });
        Box::pin(async move { task.await.unwrap_or(Err(Error::Closed)) })
    }

    fn watch(
        &self,
        range: KeyRange,
        after: Revision,
    ) -> BoxFuture<'_, Result<Box<dyn WatchSource>, Error>> {
        Box::pin(async move {
            let watch = self.beneath.watch(range.clone(), after).await?;
            let form = self.form.clone();
            Ok(Box::new(SealedWatch { watch, form, range }) as Box<dyn WatchSource>)
        })
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.beneath.compact(revision))
    }

    fn current_revision(&self) -> BoxFuture<'_, Result<Revision, Error>> {
        Box::pin(self.beneath.current_revision())
    }

    fn close(&self) -> BoxFuture<'_, Result<(), Error>> {
        Box::pin(self.beneath.close())
    }
}

impl WatchSource for SealedWatch {
    fn next(&mut self) -> BoxFuture<'_, Result<Events, Error>> {
        Box::pin(async move {
            let events = self.watch.next().await?;
            // Asked once for all events, and each time anew: which resources are sealed may change.
            match self.form.touches(&self.range) {
                true => self.form.events(events),
                false => Ok(events),
            }
        })
    }

    fn progress(&mut self) -> Revision {
        self.watch.progress()
    }
}

// === impl Form ===

impl Form {
    fn touches(&self, range: &KeyRange) -> bool {
        range.as_prefix().is_none_or(|prefix| self.encryption.touches(prefix))
    }

    async fn commit(&self, beneath: &Store, mut txn: Txn) -> Result<Committed, Error> {
        let _keys_stay = self.encryption.writing.read().await;
        for op in &mut txn.ops {
            if let Op::Put { key, value, .. } = op
                && let Some(providers) = self.encryption.providers(key)
            {
                *value = seal(&providers, key, value)?;
            }
        }
        match beneath.commit(txn).await {
            Ok(committed) => Ok(Committed { events: self.events(committed.events)?, ..committed }),
            Err(Error::Conflict { key, expected, current }) => {
                let current = current.map(|entry| self.show(&entry)).transpose()?;
                Err(Error::Conflict { key, expected, current })
            }
            Err(error) => Err(error),
        }
    }

    /// The entry itself, unless its key is one of an encrypted resource.
    fn show(&self, entry: &Arc<Entry>) -> Result<Arc<Entry>, Error> {
        let Some(providers) = self.encryption.providers(&entry.key) else {
            return Ok(entry.clone());
        };
        if entry.is_tombstone() || !entry.value.starts_with(provider::SEALED) {
            return Ok(entry.clone());
        }
        let version = (entry.key.clone(), entry.mod_revision);
        if let Some(opened) = self.opened.get(&version) {
            return Ok(opened);
        }
        let plain = provider::open(&providers, &entry.value, &entry.key)
            .map_err(|error| unreadable(&entry.key, &error))?;
        let opened = Arc::new(entry.with_value(with_hole(plain))?);
        self.opened.put(version, opened.clone());
        Ok(opened)
    }

    /// The events themselves, unless one is about an encrypted resource.
    fn events(&self, events: Events) -> Result<Events, Error> {
        let sealed = |event: &Arc<Event>| self.encryption.providers(event.key()).is_some();
        if !events.iter().any(sealed) {
            return Ok(events);
        }
        let show = |event: &Arc<Event>| match sealed(event) {
            true => Ok(Arc::new(event.map(|entry| self.show(entry))?)),
            false => Ok(event.clone()),
        };
        events.iter().map(show).collect::<Result<Vec<_>, Error>>().map(Events::from)
    }
}

/// Seals a value with the first provider; the hole for its revision is found again by where it always is.
pub fn seal(providers: &[Provider], key: &Key, value: &Value) -> Result<Value, Error> {
    match providers.first() {
        None | Some(Provider::Identity) => Ok(value.clone()),
        Some(first) => {
            first.seal(&value.bytes, key).map(Value::new).map_err(|error| unreadable(key, &error))
        }
    }
}

/// An opened value; its revision goes where every object has it.
pub fn with_hole(plain: Vec<u8>) -> Value {
    let at = plain.windows(HOLE.len()).position(|window| window == HOLE);
    match at.and_then(|at| u32::try_from(at + HOLE.len() - 1).ok()) {
        Some(at) => Value::with_revision_at(plain, at),
        None => Value::new(plain),
    }
}

fn unreadable(key: &Key, error: &provider::SealError) -> Error {
    let reason = format!("unable to transform the stored value: {error}");
    Error::Unreadable { key: key.clone(), reason }
}
