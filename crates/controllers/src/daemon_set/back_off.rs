//! How long the next try on a node waits after its daemon pods failed.
//!
//! Counterpart: the controller's `failedPodsBackoff`. Invariant: what is remembered is bounded by the nodes whose pods
//! failed within the last half hour.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Survives reconciles, not restarts.
#[derive(Default)]
pub struct FailedPods(Mutex<BTreeMap<Place, Tried>>);

/// A node, for one generation of a set: a changed set is tried at once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub uid: String,
    pub generation: i64,
    pub node: String,
}

#[derive(Clone, Copy)]
struct Tried {
    at: Timestamp,
    delay: Duration,
}

// === impl FailedPods ===

impl FailedPods {
    /// Notes that a failed pod makes way for the next.
    pub fn note(&self, place: Place, now: Timestamp) {
        let mut tried = self.lock();
        tried.retain(|_, tried| since(tried.at, now) <= LONGEST * 2);
        let delay = tried.get(&place).map_or(FIRST, |before| (before.delay * 2).min(LONGEST));
        tried.insert(place, Tried { at: now, delay });
    }

    /// The nodes that have to wait, and how long until the first of them need not.
    pub fn waiting(
        &self,
        uid: &str,
        generation: i64,
        now: Timestamp,
    ) -> (BTreeSet<String>, Option<Duration>) {
        let tried = self.lock();
        let ours =
            tried.iter().filter(|(place, _)| place.uid == uid && place.generation == generation);
        let left = |tried: &Tried| {
            tried.delay.checked_sub(since(tried.at, now)).filter(|left| !left.is_zero())
        };
        let waiting: Vec<_> =
            ours.filter_map(|(place, tried)| Some((place.node.clone(), left(tried)?))).collect();
        let first = waiting.iter().map(|(_, left)| *left).min();
        (waiting.into_iter().map(|(node, _)| node).collect(), first)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Place, Tried>> {
        self.0.lock().expect("no panic happens while the tries are locked")
    }
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_per_node_and_end_with_a_new_generation() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let place = || Place { uid: "u".into(), generation: 1, node: "n".into() };
        let failed = FailedPods::default();
        assert_eq!(failed.waiting("u", 1, at(0)), (BTreeSet::new(), None));
        failed.note(place(), at(0));
        failed.note(place(), at(1));
        let (nodes, left) = failed.waiting("u", 1, at(2));
        assert_eq!((nodes.len(), left), (1, Some(Duration::from_secs(1))));
        assert!(failed.waiting("u", 1, at(3)).0.is_empty());
        assert!(failed.waiting("u", 2, at(2)).0.is_empty());
        failed.note(Place { node: "m".into(), ..place() }, at(4000));
        assert_eq!(failed.lock().len(), 1, "what is long past is forgotten");
    }
}
