//! What the store can do on this machine: `cargo run --release --example bench -p skiff-store [DIRECTORY]`.
//!
//! Prints one line per promise: durable writes with 1 and 64 writers, reads, memory per object, the time to open, and
//! how long events take to reach a thousand watchers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use skiff_store::embedded::{self, Config};
use skiff_store::{Expect, KeyRange, RangeRequest, Revision, Store, Txn, Value};

const OBJECT: usize = 1024;
const TIME: Duration = Duration::from_secs(2);

#[tokio::main]
async fn main() {
    let temporary =
        || std::env::temp_dir().join(format!("skiff-store-bench-{}", std::process::id()));
    let directory = std::env::args().nth(1).map_or_else(temporary, PathBuf::from);
    for writers in [1, 64] {
        writes(&directory.join(format!("writes-{writers}")), writers).await;
    }
    objects(&directory.join("objects")).await;
    fan_out(&directory.join("fan-out"), 1000, 1000).await;
    std::fs::remove_dir_all(&directory).expect("the bench made its directory");
}

fn open(path: &Path) -> Store {
    embedded::open(path, Config::default()).expect("the directory is free").0
}

/// As the API server writes: a kilobyte of JSON with a hole for its revision.
fn object(index: usize) -> Value {
    let head = format!(r#"{{"metadata":{{"name":"object-{index}","resourceVersion":""#);
    let offset = head.len() as u32;
    let padding = "x".repeat(OBJECT.saturating_sub(head.len() + 16));
    Value::with_revision_at(format!(r#"{head}"}},"data":"{padding}"}}"#), offset)
}

async fn writes(path: &Path, writers: usize) {
    let store = open(path);
    let end = Instant::now() + TIME;
    let writer = |writer: usize| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut latencies = Vec::new();
            while Instant::now() < end {
                let begun = Instant::now();
                let key = format!("/registry/configmaps/{writer}/{}", latencies.len() % 1000);
                store.commit(Txn::put(key, object(writer), Expect::Any)).await.expect("a write");
                latencies.push(begun.elapsed());
            }
            latencies
        })
    };
    let writers_running: Vec<_> = (0..writers).map(writer).collect();
    let mut latencies = Vec::new();
    for running in writers_running {
        latencies.extend(running.await.expect("a writer"));
    }
    let rate = latencies.len() as f64 / TIME.as_secs_f64();
    println!("durable writes, {writers:2} writers   {rate:>10.0} /s   {}", quantiles(latencies));
    store.close().await.expect("a clean close");
}

async fn objects(path: &Path) {
    const COUNT: usize = 10_000;
    let before = resident();
    let store = open(path);
    for index in 0..COUNT {
        let key = format!("/registry/configmaps/default/object-{index:06}");
        store.commit(Txn::put(key, object(index), Expect::Absent)).await.expect("a write");
    }
    let each = (resident() - before) / COUNT;
    println!("memory per {OBJECT} byte object     {each:>10} bytes");
    let rate = rate(|| store.get("/registry/configmaps/default/object-005000")).await;
    println!("get, one task                 {rate:>10.0} /s");
    let page = || store.range(RangeRequest::prefix("/registry/configmaps/").limit(500));
    println!("range of 500 from 10,000      {:>10.0} /s", self::rate(page).await);
    let page = || store.range(RangeRequest::prefix("/registry/configmaps/").limit(500).uncounted());
    println!("the same, rest not counted    {:>10.0} /s", self::rate(page).await);
    store.close().await.expect("a clean close");
    drop(store);
    let begun = Instant::now();
    let (store, report) = embedded::open(path, Config::default()).expect("the directory is free");
    println!("open with 10,000 objects      {:>10.1?} ({report})", begun.elapsed());
    store.close().await.expect("a clean close");
}

async fn rate<T, F: Future<Output = T>>(mut work: impl FnMut() -> F) -> f64 {
    let (begun, mut count) = (Instant::now(), 0);
    while begun.elapsed() < TIME / 4 {
        for _ in 0..20 {
            work().await;
        }
        count += 20;
    }
    f64::from(count) / begun.elapsed().as_secs_f64()
}

/// Each write carries the moment it was begun; each watcher notes how old it is on arrival.
async fn fan_out(path: &Path, watchers: usize, per_second: u32) {
    let store = open(path);
    let start = Instant::now();
    let count = per_second as usize * 3;
    let mut running = Vec::new();
    for _ in 0..watchers {
        let range = KeyRange::prefix("/registry/pods/");
        let mut watch = store.watch(range, Revision(0)).await.expect("a watch");
        running.push(tokio::spawn(async move {
            let mut ages = Vec::with_capacity(count);
            while ages.len() < count {
                let events = watch.next().await.expect("events");
                let now = start.elapsed().as_micros() as u64;
                ages.extend(
                    events.iter().map(|event| Duration::from_micros(now - begun_at(&event.entry))),
                );
            }
            ages
        }));
    }
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / per_second);
    for index in 0..count {
        ticks.tick().await;
        let begun = start.elapsed().as_micros().to_string();
        let key = format!("/registry/pods/default/{}", index % 100);
        let pod = Txn::put(key, object(index), Expect::Any).note(begun);
        let store = store.clone();
        tokio::spawn(async move { store.commit(pod).await.expect("a write") });
    }
    let mut ages = Vec::new();
    for watcher in running {
        ages.extend(watcher.await.expect("a watcher"));
    }
    println!("write to event, {watchers} watchers x {per_second}/s        {}", quantiles(ages));
    store.close().await.expect("a clean close");
}

fn begun_at(entry: &Arc<skiff_store::Entry>) -> u64 {
    std::str::from_utf8(&entry.note)
        .ok()
        .and_then(|note| note.parse().ok())
        .expect("the note is a time")
}

fn quantiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize];
    format!("p50 {:.2?}, p99 {:.2?}, max {:.2?}", at(0.5), at(0.99), at(1.0))
}

/// This process's resident memory.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has /proc");
    let pages: usize =
        statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("a page count");
    pages * 4096
}
