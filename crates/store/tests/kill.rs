//! `kill -9` in the middle of writes: every write that was acknowledged is there afterwards, on a real disk.
//!
//! The test starts itself as a child, which writes with many tasks at once and says on its standard output which writes
//! were acknowledged; the parent kills it at a random moment, opens the directory and looks for each of them.
//! `SKIFF_STORE_KILLS` sets how many times.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread::JoinHandle;
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
    let mut acknowledged = Acknowledged::new();
    for round in 0..kills {
        let mut child = start_writer(&directory);
        let (first, told) = listen(&mut child);
        first.recv().unwrap_or_else(|_| panic!("round {round}: the child wrote nothing"));
        std::thread::sleep(Duration::from_millis(37 * (round % 7)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged.extend(told.join().unwrap());
        check(&directory, &acknowledged, round);
    }
    std::fs::remove_dir_all(&directory).unwrap();
}

fn start_writer(directory: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "the_child_that_is_killed", "--ignored", "--nocapture"])
        .env(DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

type Acknowledged = BTreeMap<String, u64>;

/// Collects the child's acknowledgements until it dies, and says when the first is there.
fn listen(child: &mut Child) -> (Receiver<()>, JoinHandle<Acknowledged>) {
    let (first, at_first) = mpsc::channel();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let told = std::thread::spawn(move || {
        let (mut acknowledged, mut line) = (Acknowledged::new(), String::new());
        // A line without an end was cut off by the kill.
        while stdout.read_line(&mut line).unwrap() > 0 && line.ends_with('\n') {
            if let Some((key, number)) = parse(line.trim_end()) {
                acknowledged.insert(key, number);
                let _ = first.send(());
            }
            line.clear();
        }
        acknowledged
    });
    (at_first, told)
}

/// Lines read `ack KEY NUMBER`; the test harness has lines of its own.
fn parse(line: &str) -> Option<(String, u64)> {
    let (key, number) = line.strip_prefix("ack ")?.split_once(' ')?;
    Some((key.to_owned(), number.parse().ok()?))
}

/// Each key holds the acknowledged number or, if the kill came before the answer, a later one.
#[tokio::main(flavor = "current_thread")]
async fn check(directory: &Path, acknowledged: &Acknowledged, round: u64) {
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
