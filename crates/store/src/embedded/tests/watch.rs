//! Watchers that are slow, stuck, many or late: none costs the others anything, none misses an event unawares.

use std::time::Duration;

use super::sim_disk::SimDisk;
use super::{Config, Retention, open_with, put, small};
use crate::{Error, KeyRange, Revision, Store, Watch};

/// More than a ring holds.
const BURST: usize = 700;

fn store_keeping(events: usize) -> Store {
    let retention = Retention { events, ..Retention::default() };
    open_with(&SimDisk::default(), Config { retention, ..small() }).unwrap().0
}

async fn write(store: &Store, prefix: &str, count: usize) {
    for index in 0..count {
        store.commit(put(&format!("{prefix}{}", index % 5), "x")).await.unwrap();
    }
}

/// Hears `count` events and checks that they are in order.
async fn hear(watch: &mut Watch, count: usize) -> Result<(), Error> {
    let (mut heard, mut last) = (0, Revision(0));
    while heard < count {
        let events = tokio::time::timeout(Duration::from_secs(10), watch.next()).await;
        for event in events.expect("events come")?.iter() {
            assert!(event.revision() > last, "{} after {last}", event.revision());
            last = event.revision();
            heard += 1;
        }
    }
    assert_eq!(heard, count);
    Ok(())
}

#[tokio::test]
async fn a_watcher_behind_its_ring_reads_history_and_misses_nothing() {
    let store = store_keeping(10_000);
    let mut watch = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    write(&store, "/p/", 1).await;
    hear(&mut watch, 1).await.unwrap();
    write(&store, "/p/", BURST).await;
    hear(&mut watch, BURST).await.unwrap();
    write(&store, "/p/", 10).await;
    hear(&mut watch, 10).await.unwrap();
}

#[tokio::test]
async fn a_watcher_behind_history_is_told_so() {
    let store = store_keeping(100);
    let mut watch = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    write(&store, "/p/", 1).await;
    hear(&mut watch, 1).await.unwrap();
    write(&store, "/p/", BURST).await;
    let error = hear(&mut watch, BURST).await.unwrap_err();
    assert!(matches!(error, Error::Compacted { .. }), "{error}");
}

/// The range was silent while history moved on: the watcher has missed nothing, and a burst it is slow to take must not
/// send it back to a revision that is long compacted.
#[tokio::test]
async fn a_long_silence_before_a_burst_is_no_falling_behind() {
    let store = store_keeping(2 * BURST);
    let mut watch = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    write(&store, "/p/", 1).await;
    hear(&mut watch, 1).await.unwrap();
    tokio::time::sleep(super::super::hub::MILESTONE_EVERY).await;
    write(&store, "/q/", 3 * BURST).await;
    write(&store, "/p/", BURST).await;
    hear(&mut watch, BURST).await.unwrap();
}

#[tokio::test]
async fn a_write_elsewhere_wakes_nobody() {
    let store = store_keeping(100);
    let mut watch = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(50), watch.next());
    let (heard, ()) = tokio::join!(waiting, write(&store, "/q/", 20));
    assert!(heard.is_err(), "nothing happened under /p/");
}

#[tokio::test]
async fn a_watch_that_is_given_up_and_taken_up_again_loses_nothing() {
    let store = store_keeping(10_000);
    let mut watch = store.watch(KeyRange::all(), Revision(0)).await.unwrap();
    for _ in 0..20 {
        // Polled once and dropped: `next` is cancel safe.
        let _ = tokio::time::timeout(Duration::ZERO, async { watch.progress() }).await;
        tokio::select! {
            biased;
            () = std::future::ready(()) => {}
            _ = watch.next() => unreachable!("the first branch is ready"),
        }
        write(&store, "/p/", 3).await;
    }
    hear(&mut watch, 60).await.unwrap();
}

#[tokio::test]
async fn closing_tells_watchers_after_their_last_event() {
    let store = store_keeping(100);
    let mut watch = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    write(&store, "/p/", 3).await;
    store.close().await.unwrap();
    hear(&mut watch, 3).await.unwrap();
    assert!(matches!(watch.next().await, Err(Error::Closed)));
    let mut late = store.watch(KeyRange::all(), Revision(3)).await.unwrap();
    assert!(matches!(late.next().await, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cohorts_of_watchers_and_one_that_is_stuck_all_hear_the_same() {
    let store = store_keeping(10_000);
    let _stuck = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    let mut hearing = Vec::new();
    for index in 0..300u64 {
        let range = if index % 2 == 0 { KeyRange::prefix("/p/") } else { KeyRange::all() };
        let mut watch = store.watch(range, Revision(0)).await.unwrap();
        hearing.push(tokio::spawn(async move { hear(&mut watch, BURST).await }));
    }
    write(&store, "/p/", BURST).await;
    for watcher in hearing {
        watcher.await.unwrap().unwrap();
    }
}
