//! Disks that lie, fill up or fail: detected, reported, and recovered as far as the good part goes.

use std::io::ErrorKind;

use super::super::recovery::{Cut, Loss};
use super::sim_disk::SimDisk;
use super::{Config, Random, open, open_with, put, seeds, small, text};
use crate::{Error, KeyRange, OpenError, Revision, Store};

/// A store with this many keys, one record each, closed.
async fn closed_store(keys: usize, config: Config) -> SimDisk {
    let disk = SimDisk::default();
    let (store, _) = open_with(&disk, config).unwrap();
    for index in 0..keys {
        store.commit(put(&format!("/{index:03}"), &"x".repeat(100))).await.unwrap();
    }
    store.close().await.unwrap();
    disk
}

fn log_only() -> Config {
    Config { snapshot_bytes: u64::MAX, ..small() }
}

async fn count(store: &Store) -> usize {
    store.range(crate::RangeRequest::new(KeyRange::all())).await.unwrap().entries.len()
}

#[tokio::test]
async fn a_damaged_middle_is_cut_there_and_set_aside() {
    let disk = closed_store(30, log_only()).await;
    let segments = disk.named("log-");
    assert!(segments.len() > 2, "the test needs several segments: {segments:?}");
    disk.tamper(&segments[1], |bytes| bytes[700] ^= 1);
    let (store, report) = open(&disk).unwrap();
    let Some(Cut { file, loss: Loss::Damage { set_aside }, .. }) = &report.cut else {
        panic!("{report}")
    };
    assert_eq!((file, set_aside.len()), (&segments[1], segments.len() - 1), "{report}");
    let kept = count(&store).await;
    assert!((10..30).contains(&kept), "{kept} keys kept");
    assert_eq!(text(&store, &format!("/{:03}", kept - 1)).await.map(|text| text.len()), Some(100));
    assert_eq!(text(&store, &format!("/{kept:03}")).await, None);
    // Whoever has seen the lost revisions is sent back to list again, and they are not given out twice.
    assert!(store.current_revision().await.unwrap() > Revision(30));
    assert!(matches!(
        store.watch(KeyRange::all(), Revision(30)).await.err(),
        Some(Error::Compacted { .. })
    ));
    let revision = store.commit(put("/new", "1")).await.unwrap().revision;
    drop(store);
    let (store, report) = open(&disk).unwrap();
    assert_eq!((report.cut, report.revision), (None, revision));
    assert_eq!(count(&store).await, kept + 1);
}

#[tokio::test]
async fn a_closing_word_after_it_tells_damage_from_a_torn_tail() {
    let disk = closed_store(5, log_only()).await;
    disk.tamper(&disk.named("log-")[0], |bytes| {
        let in_the_last_value = bytes.len() - 60;
        bytes[in_the_last_value] ^= 1;
    });
    let (store, report) = open(&disk).unwrap();
    assert!(report.lost_writes() && count(&store).await == 4, "{report}");
}

#[tokio::test]
async fn a_damaged_snapshot_falls_back_to_the_one_before() {
    let disk = closed_store(400, small()).await;
    let snapshots = disk.named("snapshot-");
    assert_eq!(snapshots.len(), 2);
    disk.tamper(&snapshots[1], |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    });
    let (store, report) = open(&disk).unwrap();
    assert_eq!(report.bad_snapshots.len(), 1, "{report}");
    assert_eq!((count(&store).await, report.revision, report.cut), (400, Revision(400), None));
}

#[tokio::test]
async fn damage_that_a_snapshot_covers_costs_nothing() {
    let disk = closed_store(400, small()).await;
    let newest: u64 = disk.named("snapshot-")[1]["snapshot-".len()..].parse().unwrap();
    let starts = |name: &String| name["log-".len()..].parse::<u64>().unwrap() <= newest;
    let segment = disk.named("log-").into_iter().rfind(starts).unwrap();
    disk.tamper(&segment, |bytes| bytes[60] ^= 1);
    let (store, report) = open(&disk).unwrap();
    assert_eq!((count(&store).await, report.revision, report.cut), (400, Revision(400), None));
}

#[tokio::test]
async fn a_store_with_no_beginning_does_not_open_as_an_empty_one() {
    let disk = closed_store(400, small()).await;
    for snapshot in disk.named("snapshot-") {
        disk.tamper(&snapshot, |bytes| bytes.truncate(10));
    }
    let error = open(&disk).err().unwrap();
    assert!(matches!(error, OpenError::Unrecoverable { .. }), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_named_not_guessed_at() {
    let disk = closed_store(1, small()).await;
    disk.tamper(&disk.named("log-")[0], |bytes| {
        let mut head = Vec::new();
        super::super::record::frame(&mut head, |out| {
            out.extend_from_slice(b"SKIFFLOG\x02\0\0\0");
            out.extend_from_slice(&1u64.to_le_bytes());
        });
        bytes[..head.len()].copy_from_slice(&head);
    });
    assert!(matches!(open(&disk).err(), Some(OpenError::NewerFormat { found: 2, .. })));
}

#[tokio::test]
async fn after_a_failed_sync_nothing_more_is_taken_and_reads_go_on() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    store.commit(put("/a", "1")).await.unwrap();
    disk.fail_syncs(ErrorKind::StorageFull);
    for _ in 0..2 {
        let error = store.commit(put("/a", "2")).await.unwrap_err();
        assert!(matches!(error, Error::Unwritable { .. }), "{error}");
    }
    assert_eq!(text(&store, "/a").await.as_deref(), Some("1"));
    assert_eq!(store.current_revision().await.unwrap(), Revision(1));
}

#[tokio::test]
async fn a_full_disk_refuses_writes_and_keeps_what_it_has() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    store.commit(put("/0", "1")).await.unwrap();
    disk.fill_up();
    let mut kept = 1;
    while store.commit(put(&format!("/{kept}"), &"x".repeat(100))).await.is_ok() {
        kept += 1;
        assert!(kept < 100, "a segment is 2 KiB");
    }
    assert_eq!(count(&store).await, kept);
    drop(store);
    let (store, _) = open(&disk.after_power_loss(&mut Random(1))).unwrap();
    assert_eq!(count(&store).await, kept);
}

#[tokio::test]
async fn the_disk_holds_no_more_than_two_snapshots_and_the_log_since() {
    let disk = SimDisk::default();
    let (store, _) = open(&disk).unwrap();
    for index in 0..2000 {
        store.commit(put(&format!("/{}", index % 10), &"x".repeat(100))).await.unwrap();
    }
    store.close().await.unwrap();
    let bytes: usize = disk.named("").iter().map(|name| disk.bytes(name).len()).sum();
    // 2000 records of 180 bytes were written; kept are snapshots of ten keys and two intervals of log.
    assert!(bytes < 40_000, "{bytes} bytes in {:?}", disk.named(""));
    assert_eq!(disk.named("snapshot-").len(), 2);
}

/// Whatever happens to one file, the store opens with a state it once was in, and says so if that is not the last.
#[tokio::test]
async fn any_damage_to_one_file_is_noticed() {
    for seed in seeds(200) {
        let mut random = Random(seed);
        let config = if random.one_in(2) { small() } else { log_only() };
        let (disk, states) = written_store(&mut random, config.clone()).await;
        let file = random.pick(&disk.named("")).clone();
        disk.tamper(&file, |bytes| spoil(bytes, &mut random));
        let context = format!("seed {seed}, {file}");
        let (store, report) =
            open_with(&disk, config).unwrap_or_else(|error| panic!("{context}: {error}"));
        let found = contents(&store).await;
        assert!(states.contains(&found), "{context}: {report}");
        // A log that ends exactly between two records only lacks its last word, that it was closed.
        let noticed = report.cut.is_some() || !report.bad_snapshots.is_empty() || !report.closed;
        assert!(noticed || Some(&found) == states.last(), "{context}: {report}");
        store.commit(put("/after", "1")).await.unwrap();
        store.close().await.unwrap();
        let (store, report) = open(&disk).unwrap();
        assert!(
            report.closed && report.cut.is_none(),
            "{context}: once repaired it is whole: {report}"
        );
        assert_eq!(text(&store, "/after").await.as_deref(), Some("1"));
    }
}

async fn written_store(random: &mut Random, config: Config) -> (SimDisk, Vec<Vec<String>>) {
    let disk = SimDisk::default();
    let (store, _) = open_with(&disk, config).unwrap();
    let mut states = vec![Vec::new()];
    for index in 0..40 + random.below(60) {
        let key = format!("/{}", random.below(8));
        let text = format!("{index}").repeat(1 + random.below(60) as usize);
        store.commit(put(&key, &text)).await.unwrap();
        states.push(contents(&store).await);
    }
    store.close().await.unwrap();
    (disk, states)
}

async fn contents(store: &Store) -> Vec<String> {
    let all = store.range(crate::RangeRequest::new(KeyRange::all())).await.unwrap();
    all.entries.iter().map(|entry| format!("{}={:?}", entry.key, entry.value)).collect()
}

fn spoil(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() as u64) as usize;
    let end = (at + 1 + random.below(600) as usize).min(bytes.len());
    match random.below(4) {
        0 => bytes[at] ^= 1 << random.below(8),
        1 => bytes[at..end].fill(0),
        2 => bytes[at..end].iter_mut().for_each(|byte| *byte = random.next() as u8),
        _ => bytes.truncate(at),
    }
}
