//! A decoded view of configuration objects that is never behind an acknowledged write.
//!
//! `changed` after a commit marks it stale; the next reader decodes anew. Counterpart: the informer-fed
//! sources of webhooks and policies, which lag behind. Invariant: asking a current view is two atomic loads.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use skiff_api::Status;

pub struct Live<T> {
    changes: AtomicU64,
    current: ArcSwapOption<Snapshot<T>>,
}

struct Snapshot<T> {
    changes: u64,
    view: Arc<T>,
}

impl<T> Default for Live<T> {
    fn default() -> Live<T> {
        Live { changes: AtomicU64::new(0), current: ArcSwapOption::empty() }
    }
}

impl<T> Live<T> {
    /// Something that the view is made of was committed.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The view, if nothing changed since it was made.
    pub fn current(&self) -> Option<Arc<T>> {
        let seen = self.changes.load(Ordering::Acquire);
        let snapshot = self.current.load();
        snapshot.as_ref().filter(|snapshot| snapshot.changes == seen).map(|s| s.view.clone())
    }

    pub async fn get<F, R>(&self, load: F) -> Result<Arc<T>, Status>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<T, Status>>,
    {
        if let Some(view) = self.current() {
            return Ok(view);
        }
        // Read before loading: a write in between leaves the view stale, never wrong.
        let changes = self.changes.load(Ordering::Acquire);
        let view = Arc::new(load().await?);
        self.current.store(Some(Arc::new(Snapshot { changes, view: view.clone() })));
        Ok(view)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_is_seen_by_the_next_reader() {
        let live = Live::default();
        assert_eq!(*live.get(|| async { Ok(1) }).await.expect("loads"), 1);
        assert_eq!(*live.get(|| async { Ok(2) }).await.expect("kept"), 1);
        live.changed();
        assert!(live.current().is_none());
        assert_eq!(*live.get(|| async { Ok(3) }).await.expect("loads anew"), 3);
    }
}
