//! Views of the registry that are brought up to date when somebody reads them.
//!
//! A [`View`] is built from ranges of the store and then told of every later change beneath the same keys. Nothing runs in
//! between: a reader that finds the store ahead of the view reads the history it has not seen, so a view costs
//! writers nothing, and what a write's answer promised is in the next answer the view gives. Counterpart: informers, which
//! lag. Invariant: a view never shows less than the revision that was current when it was asked.

use futures::FutureExt;
use serde_json::Value;
use skiff_api::codec::decode_stored;
use skiff_store::{Error, Event, EventKind, KeyRange, RangeRequest, Revision, Store};
use tokio::sync::{Mutex, MutexGuard};

const REGISTRY: &str = "/registry/";

/// What is made of the objects beneath some keys.
pub trait View: Default + Send {
    /// Prefixes of the keys it is about.
    const KEYS: &'static [&'static str];

    fn put(&mut self, key: &str, object: &Value);

    fn remove(&mut self, key: &str);
}

/// A view and how far it has come.
pub struct Followed<V> {
    state: Mutex<State<V>>,
}

pub struct State<V> {
    view: V,
    /// Everything up to here is in the view; none before it was ever built.
    seen: Option<Revision>,
}

// === impl Followed ===

impl<V: View> Default for Followed<V> {
    fn default() -> Followed<V> {
        Followed { state: Mutex::new(State { view: V::default(), seen: None }) }
    }
}

impl<V: View> Followed<V> {
    /// The view as of now, or of a moment later.
    pub async fn current(&self, store: &Store) -> Result<MutexGuard<'_, State<V>>, Error> {
        let mut state = self.state.lock().await;
        match state.catch_up(store).await {
            // Nobody asked for so long that the history is gone.
            Err(Error::Compacted { .. }) => state.build(store).await?,
            other => other?,
        }
        Ok(state)
    }
}

// === impl State ===

impl<V: View> State<V> {
    pub fn view(&self) -> &V {
        &self.view
    }

    async fn build(&mut self, store: &Store) -> Result<(), Error> {
        self.seen = None;
        let at = store.current_revision().await?;
        let mut view = V::default();
        for prefix in V::KEYS {
            let found = store.range(RangeRequest::prefix(*prefix).at(at)).await?;
            for entry in &found.entries {
                put(&mut view, &entry.key, &entry.value);
            }
        }
        (self.view, self.seen) = (view, Some(at));
        Ok(())
    }

    async fn catch_up(&mut self, store: &Store) -> Result<(), Error> {
        let Some(seen) = self.seen else { return self.build(store).await };
        let now = store.current_revision().await?;
        if now <= seen {
            return Ok(());
        }
        let mut history = store.watch(KeyRange::prefix(REGISTRY), seen).await?;
        // History is read without waiting; the first wait is for what has not happened yet.
        while let Some(events) = history.next().now_or_never() {
            events?.iter().for_each(|event| self.apply(event));
        }
        self.seen = Some(now.max(seen));
        Ok(())
    }

    fn apply(&mut self, event: &Event) {
        let key = event.key().as_str();
        if !V::KEYS.iter().any(|prefix| key.starts_with(prefix)) {
            return;
        }
        match event.kind {
            EventKind::Delete => self.view.remove(key),
            EventKind::Put => put(&mut self.view, key, &event.entry.value),
        }
    }
}

/// What cannot be read grants nothing: the view is without it.
fn put<V: View>(view: &mut V, key: &str, bytes: &[u8]) {
    match decode_stored(bytes) {
        Ok(object) => view.put(key, &object),
        Err(error) => {
            tracing::warn!(key, error = error.message, "a stored object cannot be read");
            view.remove(key);
        }
    }
}

/// Namespace and name of the object at a key beneath `prefix`; the namespace is empty if there is none.
pub fn place<'a>(key: &'a str, prefix: &str) -> Option<(&'a str, &'a str)> {
    let rest = key.strip_prefix(prefix)?;
    Some(rest.split_once('/').unwrap_or(("", rest)))
}
