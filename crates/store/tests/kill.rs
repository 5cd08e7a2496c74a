//! `kill -9` in the middle of writes: every write that was acknowledged is there afterwards, on a real disk.
//!
//! The test starts itself as a child, which writes with many tasks at once and says on its standard output which writes
//! were acknowledged; the parent kills it at a random moment, opens the directory and looks for each of them.
//! `SKIFF_STORE_KILLS` sets how many times.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use skiff_store::embedded::{self, Config};
use skiff_store::{Expect, Txn, Value};

const DIRECTORY: &str = "SKIFF_STORE_KILL_DIRECTORY";
const WRITERS: u64 = 64;

/// Small files, so that a kill also meets segments and snapshots being made.
fn config() -> Config {
    Config { segment_bytes: 256 << 10, snapshot_bytes: 512 << 10, ..Config::default() }
}

#[test]
fn every_acknowledged_write_survives_kill_9() {
    let kills = std::env::var("SKIFF_STORE_KILLS").map_or(8, |kills| kills.parse().unwrap());
    let directory = std::env::temp_dir().join(format!("skiff-store-kill-{}", std::process::id()));
    let mut acknowledged = BTreeMap::new();
    for round in 0..kills {
        let mut child = start_writer(&directory);
        std::thread::sleep(Duration::from_millis(60 + 37 * (round % 7)));
        child.kill().unwrap();
        let told = read_acknowledgements(&mut child);
        child.wait().unwrap();
        assert!(!told.is_empty(), "round {round}: the child wrote nothing");
        acknowledged.extend(told);
        check(&directory, &acknowledged, round);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

fn start_writer(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child_that_is_killed", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// Lines `ack KEY NUMBER`; the last may be cut off, and the test harness has lines of its own.
fn read_acknowledgements(child: &mut Child) -> BTreeMap<String, u64> {
    let mut output = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    while stdout.by_ref().take(1 << 16).read_line(&mut output).unwrap() > 0 {}
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    let parse = |line: &str| {
        let (key, number) = line.strip_prefix("ack ")?.split_once(' ')?;
        Some((key.to_owned(), number.parse().ok()?))
    };
    whole.lines().filter_map(parse).collect()
}

/// Each key holds the acknowledged number or, if the kill came before the answer, a later one.
#[tokio::main(flavor = "current_thread")]
async fn check(directory: &Path, acknowledged: &BTreeMap<String, u64>, round: u64) {
    let (store, report) = embedded::open(directory, config()).unwrap();
    for (key, number) in acknowledged {
        let entry = store.get(key).await.unwrap();
        let entry = entry.unwrap_or_else(|| panic!("round {round}: {key} is lost: {report}"));
        let digits = entry.value.split(|byte| *byte == b' ').next().unwrap();
        let found: u64 = std::str::from_utf8(digits).unwrap().parse().unwrap();
        assert!(found >= *number, "round {round}: {key} is {found}, not {number}: {report}");
    }
    // Closing every other time only, so that some recoveries follow another.
    if round.is_multiple_of(2) {
        store.close().await.unwrap();
    }
}

#[test]
#[ignore = "started by the other test"]
fn the_child_that_is_killed() {
    let Ok(directory) = std::env::var(DIRECTORY) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (store, _) = embedded::open(Path::new(&directory), config()).unwrap();
    let filler = "x".repeat(500);
    runtime.block_on(async {
        let write = |writer: u64| {
            let (store, filler) = (store.clone(), filler.clone());
            tokio::spawn(async move {
                for number in next_number(&store).await.. {
                    let key = format!("/w{writer}/{}", number % 8);
                    let value = Value::new(format!("{number} {filler}"));
                    store.commit(Txn::put(key.as_str(), value, Expect::Any)).await.unwrap();
                    println!("ack {key} {number}");
                }
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Numbers only ever grow, over all lives of the child.
async fn next_number(store: &skiff_store::Store) -> u64 {
    store.current_revision().await.unwrap().0
}
