//! The volatile tier: heartbeats are seen at once, cost no disk write of their own, and never turn time back.

use super::sim_disk::SimDisk;
use super::{Random, open, put, text};
use crate::{Expect, KeyRange, Revision, Store, Txn, Value};

async fn beat(store: &Store, text: &str) -> Revision {
    let lease = Txn::put("/lease/n", Value::new(text.to_owned()), Expect::Any);
    store.commit(lease.volatile()).await.unwrap().revision
}

#[tokio::test]
async fn heartbeats_are_visible_and_write_nothing() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    let mut watch = store.watch(KeyRange::prefix("/lease/"), Revision(0)).await.unwrap();
    beat(&store, "first").await;
    let changes = disk.changes();
    for index in 0..100 {
        beat(&store, &index.to_string()).await;
    }
    assert_eq!(disk.changes(), changes);
    assert_eq!(text(&store, "/lease/n").await.as_deref(), Some("99"));
    let mut seen = 0;
    while seen < 101 {
        seen += watch.next().await.unwrap().len();
    }
}

#[tokio::test]
async fn the_next_durable_write_takes_the_newest_heartbeat_along() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    for text in ["1", "2", "3"] {
        beat(&store, text).await;
    }
    store.commit(put("/a", "1")).await.unwrap();
    let (found, _) = open(&disk.after_power_loss(&mut Random(0))).unwrap();
    assert_eq!(text(&found, "/lease/n").await.as_deref(), Some("3"));
}

#[tokio::test]
async fn after_a_crash_revisions_go_on_above_and_watchers_learn_the_truth() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    beat(&store, "durable").await;
    let lost = beat(&store, "lost").await;
    let (found, report) = open(&disk.after_power_loss(&mut Random(0))).unwrap();
    assert_eq!((report.closed, report.heartbeats), (false, 1));
    let entry = found.get("/lease/n").await.unwrap().unwrap();
    assert_eq!(&entry.value[..], b"durable");
    assert!(entry.mod_revision > lost);
    // A watcher that has seen the lost beat goes on from there and is told what stands now.
    let mut watch = found.watch(KeyRange::prefix("/lease/"), lost).await.unwrap();
    assert_eq!(watch.next().await.unwrap()[0].revision(), entry.mod_revision);
    // A compare-and-swap on the lost revision fails instead of overwriting.
    let stale = Txn::put("/lease/n", Value::new("stale"), Expect::Mod(lost));
    assert!(found.commit(stale).await.is_err());
}

#[tokio::test]
async fn a_clean_close_loses_no_heartbeat_and_skips_no_revision() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    beat(&store, "1").await;
    let last = beat(&store, "2").await;
    store.close().await.unwrap();
    let (found, report) = open(&disk).unwrap();
    assert_eq!((report.closed, report.revision), (true, last));
    assert_eq!(text(&found, "/lease/n").await.as_deref(), Some("2"));
    assert_eq!(found.commit(put("/a", "1")).await.unwrap().revision, last.next());
}

#[tokio::test]
async fn opening_and_closing_without_a_write_leaves_the_files_alone() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    store.commit(put("/a", "1")).await.unwrap();
    store.close().await.unwrap();
    let before = disk.bytes(&disk.named("log-")[0]);
    for _ in 0..3 {
        let (store, _) = open(&disk).unwrap();
        store.close().await.unwrap();
    }
    assert_eq!(disk.bytes(&disk.named("log-")[0]), before);
}

#[tokio::test]
async fn reserved_revisions_are_renewed_before_they_run_out() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    let reserve = super::super::journal::RESERVE;
    let mut last = Revision(0);
    for _ in 0..reserve + 10 {
        last = beat(&store, "x").await;
    }
    assert_eq!(last, Revision(reserve + 10));
    let (found, _) = open(&disk.after_power_loss(&mut Random(0))).unwrap();
    assert!(found.current_revision().await.unwrap() > last);
}
