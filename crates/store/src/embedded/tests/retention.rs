//! How long history lasts: by age, by number and by weight, on a clock moved by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use super::sim_disk::SimDisk;
use super::{Config, Retention, open_with, put, small};
use crate::embedded::Clock;
use crate::{Error, Event, Expect, Revision, Store, Txn};

#[derive(Default)]
struct HandClock(AtomicU64);

impl Clock for HandClock {
    fn now(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::Relaxed))
    }
}

fn unlimited() -> Retention {
    Retention { age: Duration::MAX / 2, events: usize::MAX, bytes: usize::MAX }
}

fn store(retention: Retention, clock: &Arc<HandClock>) -> Store {
    let config = Config { retention, clock: clock.clone(), ..small() };
    open_with(&SimDisk::default(), config).unwrap().0
}

async fn oldest(store: &Store) -> Revision {
    match store.get_at("/a", Revision(0)).await {
        Err(Error::Compacted { oldest, .. }) => oldest,
        Ok(_) => Revision(0),
        Err(other) => panic!("{other}"),
    }
}

#[tokio::test]
async fn history_ends_at_an_age() {
    let clock = Arc::new(HandClock::default());
    let store = store(Retention { age: Duration::from_secs(300), ..unlimited() }, &clock);
    for seconds in [100, 200, 300, 399] {
        clock.0.store(seconds, Ordering::Relaxed);
        store.commit(put("/a", "x")).await.unwrap();
    }
    assert_eq!(oldest(&store).await, Revision(0));
    clock.0.store(500, Ordering::Relaxed);
    store.commit(put("/a", "x")).await.unwrap();
    // Those of seconds 100 and 200 are gone; how things stood after them can still be read.
    assert_eq!(oldest(&store).await, Revision(2));
    assert!(store.get_at("/a", Revision(2)).await.unwrap().is_some());
}

#[tokio::test]
async fn history_ends_at_a_number_of_events() {
    let store = store(Retention { events: 10, ..unlimited() }, &Arc::default());
    for _ in 0..50 {
        store.commit(put("/a", "x")).await.unwrap();
    }
    let oldest = oldest(&store).await;
    assert!((39..=40).contains(&oldest.0), "{oldest}");
}

#[tokio::test]
async fn history_ends_at_a_weight() {
    let store = store(Retention { bytes: 100_000, ..unlimited() }, &Arc::default());
    for _ in 0..50 {
        store.commit(put("/a", &"x".repeat(10_000))).await.unwrap();
    }
    let oldest = oldest(&store).await;
    assert!((39..=42).contains(&oldest.0), "{oldest}");
}

#[tokio::test]
async fn what_is_forgotten_is_freed() {
    let store = store(unlimited(), &Arc::default());
    let mut forgotten: Vec<Weak<Event>> = Vec::new();
    for index in 0..3000 {
        let key = format!("/{}", index % 7);
        let write = if index % 3 == 0 { Txn::delete(key, Expect::Any) } else { put(&key, "x") };
        let events = store.commit(write).await.unwrap().events;
        forgotten.extend(events.first().map(Arc::downgrade));
    }
    let revision = store.current_revision().await.unwrap();
    store.compact(revision).await.unwrap();
    // The writer thread drops history between batches, a step at a time.
    let freed = async {
        while forgotten.iter().any(|event| event.strong_count() > 0) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), freed).await.expect("all of it is freed");
    assert_eq!(oldest(&store).await, revision);
}
