//! A batch of events as it is handed round: one slice that all its watchers share, and with it what they make of it.
//!
//! A thousand watchers that show a batch in the same form need its bytes once. The first to ask makes them, the others
//! find them here; they go when the last holder of the batch lets go of it. What the bytes are is the readers' affair.
//! Counterpart: the cached serialisations of the API server's watch cache (`cachingObject`), which are per event.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::Event;

/// Events in commit order, shared by every watcher they are delivered to. A revision is never split over two of these.
#[derive(Clone, Default)]
pub struct Events(Arc<Batch>);

#[derive(Default)]
struct Batch {
    events: Box<[Arc<Event>]>,
    views: Mutex<Vec<(u32, Bytes)>>,
}

// === impl Events ===

impl Events {
    /// What `make` makes of these events, made once for all who ask for the same view. It must depend on nothing but
    /// the events and the view's number.
    pub fn view<E>(
        &self,
        view: u32,
        make: impl FnOnce(&[Arc<Event>]) -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        // Held while the bytes are made: others would only make them again.
        let mut views = self.0.views.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = views.iter().find(|(number, _)| *number == view) {
            return Ok(made.clone());
        }
        let made = make(&self.0.events)?;
        views.push((view, made.clone()));
        Ok(made)
    }
}

impl Deref for Events {
    type Target = [Arc<Event>];

    fn deref(&self) -> &[Arc<Event>] {
        &self.0.events
    }
}

impl From<Vec<Arc<Event>>> for Events {
    fn from(events: Vec<Arc<Event>>) -> Events {
        Events(Arc::new(Batch { events: events.into(), views: Mutex::default() }))
    }
}

impl FromIterator<Arc<Event>> for Events {
    fn from_iter<I: IntoIterator<Item = Arc<Event>>>(events: I) -> Events {
        Events::from(Vec::from_iter(events))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_made_once_for_all_holders_and_again_after_a_failure() {
        let events = Events::default();
        let other = events.clone();
        assert_eq!(events.view(1, |_| Err("no")), Err("no"));
        let made = events.view(1, |_| Ok::<_, &str>(Bytes::from_static(b"one"))).unwrap();
        let found = other.view(1, |_| Err("made twice")).unwrap();
        assert_eq!(made.as_ptr(), found.as_ptr());
        assert_eq!(other.view(2, |_| Ok::<_, &str>(Bytes::from_static(b"two"))).unwrap(), "two");
    }
}
