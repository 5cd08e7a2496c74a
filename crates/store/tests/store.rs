//! The store as its users see it: what a commit, a range, a watch and a restart promise.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use skiff_store::embedded::{self, Config, RecoveryReport};
use skiff_store::{
    Error, Event, EventKind, Expect, KeyRange, OpenError, RangeRequest, Revision, Store, Txn,
    Value, Watch,
};

/// A directory of its own for each test, gone when the test is.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("skiff-store-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        Scratch(std::env::temp_dir().join(name))
    }

    fn open(&self) -> (Store, RecoveryReport) {
        embedded::open(&self.0, Config::default()).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn value(text: &str) -> Value {
    Value::new(text.to_owned())
}

async fn put(store: &Store, key: &str, text: &str) -> Revision {
    store.commit(Txn::put(key, value(text), Expect::Any)).await.unwrap().revision
}

async fn text(store: &Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}

/// The next `count` events, as `+key@revision` for a put and `-key@revision` for a delete.
async fn told(watch: &mut Watch, count: usize) -> Vec<String> {
    let describe = |event: &Arc<Event>| {
        let sign = if event.kind == EventKind::Put { '+' } else { '-' };
        format!("{sign}{}@{}", event.key(), event.revision())
    };
    let mut told = Vec::new();
    while told.len() < count {
        let events = tokio::time::timeout(Duration::from_secs(5), watch.next()).await;
        told.extend(events.expect("events come").unwrap().iter().map(describe));
    }
    told
}

fn keys(response: &skiff_store::RangeResponse) -> Vec<&str> {
    response.entries.iter().map(|entry| entry.key.as_str()).collect()
}

#[tokio::test]
async fn a_compare_and_swap_fails_on_any_other_revision() {
    let store = embedded::in_memory();
    let first = put(&store, "/a", "1").await;
    let second = store.commit(Txn::put("/a", value("2"), Expect::Mod(first))).await.unwrap();
    assert_eq!(second.revision, first.next());
    let error = store.commit(Txn::put("/a", value("3"), Expect::Mod(first))).await.unwrap_err();
    let Error::Conflict { current: Some(current), .. } = &error else { panic!("{error}") };
    assert_eq!(&current.value[..], b"2");
    assert_eq!(error.to_string(), "/a: expected revision 1, found revision 2");
    let error = store.commit(Txn::put("/a", value("3"), Expect::Absent)).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { .. }));
}

#[tokio::test]
async fn a_transaction_happens_whole_or_not_at_all() {
    let store = embedded::in_memory();
    put(&store, "/a", "1").await;
    let both = |expect| {
        let other = skiff_store::Op::Delete { key: "/a".into(), expect };
        Txn::put("/b", value("1"), Expect::Absent).and(other)
    };
    assert!(store.commit(both(Expect::Mod(Revision(9)))).await.is_err());
    assert_eq!(text(&store, "/b").await, None);
    let done = store.commit(both(Expect::Mod(Revision(1)))).await.unwrap();
    assert_eq!(done.events.len(), 2);
    assert!(done.events.iter().all(|event| event.revision() == Revision(2)));
    assert_eq!((text(&store, "/a").await, text(&store, "/b").await.as_deref()), (None, Some("1")));
    let twice = Txn::put("/c", value("1"), Expect::Any)
        .and(skiff_store::Op::Check { key: "/c".into(), expect: Expect::Any });
    assert!(matches!(store.commit(twice).await, Err(Error::DuplicateKey { .. })));
}

#[tokio::test]
async fn a_range_reads_one_revision_page_by_page() {
    let store = embedded::in_memory();
    for key in ["/p/a", "/p/b", "/p/c", "/p/d", "/q/a"] {
        put(&store, key, "1").await;
    }
    let page = store.range(RangeRequest::prefix("/p/").limit(2)).await.unwrap();
    assert_eq!(
        (keys(&page), page.remaining, page.revision),
        (vec!["/p/a", "/p/b"], 2, Revision(5))
    );
    store.commit(Txn::delete("/p/d", Expect::Any)).await.unwrap();
    put(&store, "/p/e", "1").await;
    let rest = KeyRange::prefix("/p/").starting_at(page.entries[1].key.successor());
    let rest = store.range(RangeRequest::new(rest).at(page.revision)).await.unwrap();
    assert_eq!((keys(&rest), rest.more()), (vec!["/p/c", "/p/d"], false));
    let now = store.range(RangeRequest::prefix("/p/")).await.unwrap();
    assert_eq!(keys(&now), ["/p/a", "/p/b", "/p/c", "/p/e"]);
}

#[tokio::test]
async fn a_watch_tells_history_and_then_what_happens() {
    let store = embedded::in_memory();
    put(&store, "/p/a", "1").await;
    put(&store, "/q/a", "1").await;
    let mut watch = store.watch(KeyRange::prefix("/p/"), Revision(0)).await.unwrap();
    assert_eq!(told(&mut watch, 1).await, ["+/p/a@1"]);
    put(&store, "/p/b", "1").await;
    store.commit(Txn::delete("/p/a", Expect::Any)).await.unwrap();
    assert_eq!(told(&mut watch, 2).await, ["+/p/b@3", "-/p/a@4"]);
    put(&store, "/q/a", "2").await;
    let bookmark = async {
        while watch.progress() < Revision(5) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), bookmark)
        .await
        .expect("progress reaches the last write");
}

#[tokio::test]
async fn a_deletion_shows_the_last_state_under_its_own_revision() {
    let store = embedded::in_memory();
    let object = Value::with_revision_at(r#"{"resourceVersion":"","a":1}"#, 20);
    store.commit(Txn::put("/a", object, Expect::Absent)).await.unwrap();
    assert_eq!(text(&store, "/a").await.as_deref(), Some(r#"{"resourceVersion":"1","a":1}"#));
    let deleted = store.commit(Txn::delete("/a", Expect::Present).note("kubectl")).await.unwrap();
    assert_eq!(deleted.events[0].bytes(), r#"{"resourceVersion":"2","a":1}"#);
    assert_eq!(deleted.events[0].entry.note, "kubectl");
    assert_eq!(deleted.events[0].previous().unwrap().mod_revision, Revision(1));
}

#[tokio::test]
async fn compaction_is_told_to_readers_and_watchers() {
    let store = embedded::in_memory();
    for text in ["1", "2", "3"] {
        put(&store, "/a", text).await;
    }
    store.compact(Revision(2)).await.unwrap();
    put(&store, "/b", "1").await;
    let older = store.get_at("/a", Revision(1)).await;
    assert!(matches!(older, Err(Error::Compacted { oldest: Revision(2), .. })));
    assert_eq!(&store.get_at("/a", Revision(2)).await.unwrap().unwrap().value[..], b"2");
    let late = store.watch(KeyRange::all(), Revision(1)).await;
    assert!(matches!(late.err(), Some(Error::Compacted { .. })));
    let mut watch = store.watch(KeyRange::all(), Revision(2)).await.unwrap();
    assert_eq!(told(&mut watch, 2).await, ["+/a@3", "+/b@4"]);
}

#[tokio::test]
async fn a_closed_store_resumes_exactly_where_it_was() {
    let scratch = Scratch::new();
    let (store, report) = scratch.open();
    assert_eq!(report, RecoveryReport { closed: true, ..RecoveryReport::default() });
    put(&store, "/a", "1").await;
    let noted = Txn::put("/b", value("1"), Expect::Any).note("someone");
    store.commit(noted).await.unwrap();
    store.commit(Txn::delete("/a", Expect::Any)).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(store.commit(Txn::delete("/b", Expect::Any)).await, Err(Error::Closed)));
    drop(store);
    let (store, report) = scratch.open();
    assert!(report.closed && report.cut.is_none(), "{report}");
    assert_eq!((report.revision, report.keys), (Revision(3), 1));
    assert_eq!(store.get("/b").await.unwrap().unwrap().note, "someone");
    let mut watch = store.watch(KeyRange::all(), Revision(1)).await.unwrap();
    assert_eq!(told(&mut watch, 2).await, ["+/b@2", "-/a@3"]);
    assert_eq!(put(&store, "/c", "1").await, Revision(4));
}

#[tokio::test]
async fn a_second_opener_is_turned_away() {
    let scratch = Scratch::new();
    let (store, _) = scratch.open();
    let second = embedded::open(&scratch.0, Config::default());
    assert!(matches!(second.err(), Some(OpenError::Locked { .. })));
    store.close().await.unwrap();
    drop(store);
    scratch.open();
}

/// Pipelined compare-and-swaps on one key: none is lost, none is applied twice, and a watcher sees each step.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_increments_add_up() {
    const TASKS: u64 = 16;
    const EACH: u64 = 50;
    let scratch = Scratch::new();
    let (store, _) = scratch.open();
    put(&store, "/counter", "0").await;
    let mut watch = store.watch(KeyRange::single("/counter"), Revision(1)).await.unwrap();
    let increments = (0..TASKS).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            for _ in 0..EACH {
                increment(&store).await;
            }
        })
    });
    for task in increments.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    assert_eq!(text(&store, "/counter").await, Some((TASKS * EACH).to_string()));
    let mut expected = 1..=TASKS * EACH;
    while !expected.is_empty() {
        for event in watch.next().await.unwrap().iter() {
            let step = expected.next().unwrap().to_string();
            assert_eq!(event.bytes(), step);
        }
    }
    store.close().await.unwrap();
    drop(store);
    let (store, _) = scratch.open();
    assert_eq!(text(&store, "/counter").await, Some((TASKS * EACH).to_string()));
}

/// Reads once; after a conflict goes on from the version that the error brought along.
async fn increment(store: &Store) {
    let mut current = store.get("/counter").await.unwrap();
    loop {
        let entry = current.expect("nobody deletes the counter");
        let number: u64 = std::str::from_utf8(&entry.value).unwrap().parse().unwrap();
        let next = value(&(number + 1).to_string());
        match store.commit(Txn::put("/counter", next, Expect::Mod(entry.mod_revision))).await {
            Ok(_) => return,
            Err(Error::Conflict { current: found, .. }) => current = found,
            Err(other) => panic!("{other}"),
        }
    }
}
