//! The engine against a model too simple to be wrong: a list of everything that ever happened.
//!
//! Random transactions, reads at random revisions, watches from random places, compactions and restarts; every answer is
//! worked out a second time from the list.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::sim_disk::SimDisk;
use super::{Config, Embedded, Random, Retention, seeds, small};
use crate::{
    Error, EventKind, Expect, Key, KeyRange, Op, RangeRequest, Revision, Store, Txn, Value, Watch,
};

const KEYS: [&str; 8] = ["/a/1", "/a/2", "/a/3", "/b/1", "/b/2", "/b/2/x", "/b0", "/c"];
const KEPT_EVENTS: usize = 60;

/// One thing that happened: at this revision the key took this value, or was deleted.
#[derive(Clone, Debug, PartialEq)]
struct Happening {
    revision: Revision,
    key: String,
    value: Option<String>,
}

#[derive(Default)]
struct Model {
    happened: Vec<Happening>,
    revision: Revision,
    /// The oldest revision that the store may have forgotten nothing of.
    floor: Revision,
}

struct Watching {
    watch: Watch,
    range: KeyRange,
    position: Revision,
    told: Vec<Happening>,
}

struct Run {
    random: Random,
    disk: SimDisk,
    store: Store,
    model: Model,
    watches: Vec<Watching>,
}

#[tokio::test]
async fn the_engine_agrees_with_the_model() {
    for seed in seeds(60) {
        let mut run = Run::new(seed);
        for _ in 0..150 {
            run.step().await;
        }
        run.drain().await;
    }
}

// === impl Model ===

impl Model {
    fn at(&self, revision: Revision) -> BTreeMap<&str, &Happening> {
        let mut state = BTreeMap::new();
        for happening in self.happened.iter().filter(|happening| happening.revision <= revision) {
            match happening.value {
                Some(_) => state.insert(happening.key.as_str(), happening),
                None => state.remove(happening.key.as_str()),
            };
        }
        state
    }

    /// Whether the transaction goes through; if so it is noted.
    fn commit(&mut self, txn: &Txn) -> bool {
        let now = self.at(self.revision);
        let met = |op: &Op| match (op.expect(), now.get(&**op.key())) {
            (Expect::Any, _) | (Expect::Absent, None) | (Expect::Present, Some(_)) => true,
            (Expect::Mod(revision), Some(last)) => last.revision == revision,
            _ => false,
        };
        let names: std::collections::BTreeSet<_> = txn.ops.iter().map(Op::key).collect();
        if names.len() < txn.ops.len() || !txn.ops.iter().all(met) {
            return false;
        }
        let revision = self.revision.next();
        let happen = |op: &Op| {
            let value = match op {
                Op::Put { value, .. } => Some(String::from_utf8(value.bytes.to_vec()).unwrap()),
                Op::Delete { key, .. } if now.contains_key(&**key) => None,
                _ => return None,
            };
            Some(Happening { revision, key: op.key().to_string(), value })
        };
        let happened: Vec<_> = txn.ops.iter().filter_map(happen).collect();
        if !happened.is_empty() {
            self.revision = revision;
        }
        self.happened.extend(happened);
        true
    }

    fn told(&self, range: &KeyRange, after: Revision, to: Revision) -> Vec<Happening> {
        let within = |happening: &&Happening| {
            happening.revision > after && happening.revision <= to && range.contains(&happening.key)
        };
        self.happened.iter().filter(within).cloned().collect()
    }

    /// A refusal is right only if the store may have forgotten by then.
    fn may_be_forgotten(&self, revision: Revision) -> bool {
        let kept = self.happened.len().saturating_sub(KEPT_EVENTS);
        let automatic = self.happened[..kept].last().map_or(Revision(0), |last| last.revision);
        revision < self.floor.max(automatic)
    }
}

// === impl Run ===

impl Run {
    fn new(seed: u64) -> Run {
        let disk = SimDisk::default();
        let store = reopen(&disk);
        Run { random: Random(seed), disk, store, model: Model::default(), watches: Vec::new() }
    }

    async fn step(&mut self) {
        match self.random.below(20) {
            0..10 => self.commit().await,
            10..13 => self.get().await,
            13..15 => self.range().await,
            15 => self.watch().await,
            16 | 17 => self.hear().await,
            18 => self.compact().await,
            _ if self.random.one_in(3) => self.restart().await,
            _ => {}
        }
    }

    fn some_revision(&mut self) -> Revision {
        Revision(self.random.below(self.model.revision.0 + 2))
    }

    fn some_range(&mut self) -> KeyRange {
        match self.random.below(5) {
            0 => KeyRange::all(),
            1 => KeyRange::prefix("/b"),
            2 => KeyRange::prefix(*self.random.pick(&["/a/", "/b/", "/"])),
            3 => KeyRange::single(*self.random.pick(&KEYS)),
            _ => KeyRange {
                start: Key::from(*self.random.pick(&KEYS)),
                end: Some(Key::from(*self.random.pick(&KEYS))),
            },
        }
    }

    fn some_op(&mut self) -> Op {
        let key = Key::from(*self.random.pick(&KEYS));
        let current = self.model.at(self.model.revision).get(&*key).map(|last| last.revision);
        let expect = match (self.random.below(6), current) {
            (0, _) => Expect::Absent,
            (1, _) => Expect::Present,
            (2, Some(revision)) => Expect::Mod(revision),
            (3, _) if self.random.one_in(3) => Expect::Mod(self.some_revision()),
            _ => Expect::Any,
        };
        match self.random.below(6) {
            0 | 1 => Op::Delete { key, expect },
            2 => Op::Check { key, expect },
            _ => {
                let length = self.random.below(60) as usize;
                Op::Put { key, value: Value::new("v".repeat(length)), expect }
            }
        }
    }

    async fn commit(&mut self) {
        let count = 1 + self.random.below(3);
        let ops = (0..count).map(|_| self.some_op()).collect();
        let txn = Txn { ops, ..Txn::default() };
        let expected = self.model.commit(&txn);
        match self.store.commit(txn).await {
            Ok(committed) => {
                assert!(expected);
                assert_eq!(committed.revision, self.model.revision);
            }
            Err(Error::Conflict { .. } | Error::DuplicateKey { .. }) => assert!(!expected),
            Err(other) => panic!("{other}"),
        }
    }

    async fn get(&mut self) {
        let (key, at) = (*self.random.pick(&KEYS), self.some_revision());
        match self.store.get_at(key, at).await {
            Ok(found) => {
                let expected = self.model.at(at);
                let expected = expected.get(key);
                let found = found.map(|entry| (entry.mod_revision, entry.value.to_vec()));
                assert_eq!(
                    found,
                    expected.map(|last| (last.revision, last.value.clone().unwrap().into_bytes()))
                );
            }
            Err(error) => self.right_to_refuse(at, error),
        }
    }

    async fn range(&mut self) {
        let (range, at) = (self.some_range(), self.some_revision());
        let limit = 1 + self.random.below(9) as usize;
        let count = self.random.one_in(2);
        let request =
            RangeRequest { count, ..RangeRequest::new(range.clone()).at(at).limit(limit) };
        match self.store.range(request).await {
            Ok(found) => {
                let state = self.model.at(at);
                let expected: Vec<_> =
                    state.values().filter(|last| range.contains(&last.key)).collect();
                assert_eq!(found.entries.len(), expected.len().min(limit));
                let left = expected.len() - found.entries.len();
                assert_eq!(found.remaining, if count { left } else { left.min(1) });
                for (found, expected) in found.entries.iter().zip(expected) {
                    assert_eq!(
                        (&*found.key, found.mod_revision),
                        (&*expected.key, expected.revision)
                    );
                }
            }
            Err(error) => self.right_to_refuse(at, error),
        }
    }

    fn right_to_refuse(&self, at: Revision, error: Error) {
        match error {
            Error::FutureRevision { .. } => assert!(at > self.model.revision),
            Error::Compacted { .. } => assert!(self.model.may_be_forgotten(at), "{error}"),
            other => panic!("{other}"),
        }
    }

    async fn watch(&mut self) {
        let (range, position) = (self.some_range(), self.some_revision());
        match self.store.watch(range.clone(), position).await {
            Ok(watch) => self.watches.push(Watching { watch, range, position, told: Vec::new() }),
            Err(error) => self.right_to_refuse(position, error),
        }
    }

    /// Lets one watcher hear everything there is to hear.
    async fn hear(&mut self) {
        if self.watches.is_empty() {
            return;
        }
        let index = self.random.below(self.watches.len() as u64) as usize;
        let mut watching = self.watches.swap_remove(index);
        let expected = self.model.told(&watching.range, watching.position, self.model.revision);
        while watching.told.len() < expected.len() {
            match watching.watch.next().await {
                Ok(events) => watching.told.extend(events.iter().map(|event| {
                    Happening {
                        revision: event.revision(),
                        key: event.key().to_string(),
                        value: (event.kind == EventKind::Put)
                            .then(|| String::from_utf8(event.bytes().to_vec()).unwrap()),
                    }
                })),
                Err(error) => {
                    let heard =
                        watching.told.last().map_or(watching.position, |last| last.revision);
                    return self.right_to_refuse(heard, error);
                }
            }
        }
        assert_eq!(watching.told, expected, "{:?}", watching.range);
        assert!(watching.watch.progress() <= self.model.revision.max(watching.position));
        self.watches.push(watching);
    }

    async fn compact(&mut self) {
        let revision = self.some_revision();
        match self.store.compact(revision).await {
            Ok(()) => self.model.floor = self.model.floor.max(revision),
            Err(error) => self.right_to_refuse(revision, error),
        }
    }

    /// Closes and opens again: history before the last snapshot may be gone.
    async fn restart(&mut self) {
        self.store.close().await.unwrap();
        self.store = reopen(&self.disk);
        self.watches.clear();
        self.model.floor = self.model.revision;
        assert_eq!(self.store.current_revision().await.unwrap(), self.model.revision);
    }

    async fn drain(&mut self) {
        while !self.watches.is_empty() {
            self.hear().await;
            self.watches.pop();
        }
    }
}

fn reopen(disk: &SimDisk) -> Store {
    let retention = Retention { events: KEPT_EVENTS, ..Retention::default() };
    let (engine, _) =
        Embedded::open(Arc::new(disk.clone()), Config { retention, ..small() }).unwrap();
    Store::new(engine)
}
