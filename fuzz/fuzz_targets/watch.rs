//! Watches that resume at any revision and lists of any range, page and revision, held against a list of what happened.
//!
//! The store has a history part of which is compacted, made once; an input says where a watch resumes and what it is about.

#![no_main]

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use skiff_store::embedded::{Config, Embedded, NoDisk, Retention};
use skiff_store::{Error, EventKind, Expect, Key, KeyRange, RangeRequest, Revision, Store, Txn, Value};
use tokio::runtime::Runtime;

const WRITES: u64 = 120;
const COMPACTED: u64 = 30;
const KEYS: u64 = 11;

/// One write of the history, as the store was told.
struct Happening {
    key: String,
    put: bool,
    revision: u64,
}

struct World {
    store: Store,
    runtime: Runtime,
    happened: Vec<Happening>,
}

static WORLD: LazyLock<World> = LazyLock::new(World::new);

/// What an input asks for: two keys that bound a range, a revision, a page.
struct Asked {
    range: KeyRange,
    revision: u64,
    limit: usize,
}

fuzz_target!(|input: &[u8]| {
    let Some(asked) = Asked::read(input) else { return };
    let world = &*WORLD;
    world.runtime.block_on(async {
        world.check_watch(&asked).await;
        world.check_list(&asked).await;
    });
});

// === impl Asked ===

impl Asked {
    fn read(input: &[u8]) -> Option<Asked> {
        let (form, name) = input.split_first_chunk::<8>()?;
        let key = |byte: u8| key(u64::from(byte) % (KEYS + 2));
        let (start, end) = (key(form[1]), key(form[2]));
        let range = match form[0] % 5 {
            0 => KeyRange::all(),
            1 => KeyRange::single(start),
            2 => KeyRange::prefix("/p/"),
            3 => KeyRange::prefix(std::str::from_utf8(name).ok()?),
            _ => KeyRange::prefix("/p/").starting_at(Key::from(start.max(end))),
        };
        let revision = u64::from(u16::from_le_bytes([form[3], form[4]])) % (WRITES + 20);
        Some(Asked { range, revision, limit: usize::from(form[5]) })
    }
}

// === impl World ===

impl World {
    fn new() -> World {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        // What is not compacted on purpose stays for as long as the run lasts.
        let retention = Retention { age: Duration::from_secs(u64::from(u32::MAX)), ..Retention::default() };
        let config = Config { retention, snapshot_bytes: u64::MAX, ..Config::default() };
        let (engine, _) = Embedded::open(Arc::new(NoDisk), config).expect("no disk, no error");
        let store = Store::new(engine);
        let mut happened = Vec::new();
        let mut random = 1_u64;
        for _ in 0..WRITES {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let (key, put) = (key((random >> 33) % KEYS), (random >> 60) != 0);
            let txn = match put {
                true => Txn::put(key.as_str(), Value::new(random.to_string()), Expect::Any),
                false => Txn::delete(key.as_str(), Expect::Any),
            };
            let committed = runtime.block_on(store.commit(txn)).expect("nothing forbids it");
            if !committed.events.is_empty() {
                happened.push(Happening { key, put, revision: committed.revision.0 });
            }
        }
        runtime.block_on(store.compact(Revision(COMPACTED))).expect("it has passed");
        World { store, runtime, happened }
    }

    fn current(&self) -> u64 {
        self.happened.last().expect("much happened").revision
    }

    /// A watch tells exactly what happened after its revision, in order, or that it asks too late.
    async fn check_watch(&self, asked: &Asked) {
        let watch = self.store.watch(asked.range.clone(), Revision(asked.revision)).await;
        let mut watch = match watch {
            Err(Error::Compacted { .. }) => return assert!(asked.revision < COMPACTED),
            other => other.expect("any other revision can be watched from"),
        };
        assert!(asked.revision >= COMPACTED, "resumed from {}", asked.revision);
        let expected = self.happened.iter().filter(|one| {
            one.revision > asked.revision && asked.range.contains(&Key::from(one.key.as_str()))
        });
        let mut told = Vec::new();
        let expected: Vec<_> =
            expected.map(|one| (one.key.as_str(), one.put, one.revision)).collect();
        while told.len() < expected.len() {
            told.extend(watch.next().await.expect("it is whole").iter().cloned());
        }
        let told: Vec<_> = told
            .iter()
            .map(|event| (event.key().as_str(), event.kind == EventKind::Put, event.revision().0))
            .collect();
        assert_eq!(told, expected);
    }

    /// A page shows the first keys there were at its revision, and says how many follow.
    async fn check_list(&self, asked: &Asked) {
        let mut request = RangeRequest::new(asked.range.clone()).at(Revision(asked.revision));
        if asked.limit > 0 {
            request = request.limit(asked.limit);
        }
        let found = match self.store.range(request).await {
            Err(Error::Compacted { .. }) => return assert!(asked.revision < COMPACTED),
            Err(Error::FutureRevision { .. }) => return assert!(asked.revision > self.current()),
            other => other.expect("any other revision can be read"),
        };
        let mut there = std::collections::BTreeMap::new();
        for one in self.happened.iter().take_while(|one| one.revision <= asked.revision) {
            match one.put {
                true => there.insert(one.key.as_str(), one.revision),
                false => there.remove(one.key.as_str()),
            };
        }
        there.retain(|key, _| asked.range.contains(&Key::from(*key)));
        let limit = if asked.limit == 0 { usize::MAX } else { asked.limit };
        let expected: Vec<_> = there.iter().map(|(key, at)| (*key, *at)).take(limit).collect();
        let shown: Vec<_> =
            found.entries.iter().map(|entry| (entry.key.as_str(), entry.mod_revision.0)).collect();
        assert_eq!(shown, expected);
        assert_eq!(found.remaining, there.len() - expected.len());
    }
}

fn key(number: u64) -> String {
    format!("/{}/{number:02}", if number % 3 == 0 { 'q' } else { 'p' })
}
