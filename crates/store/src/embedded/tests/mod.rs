//! The engine against worse than ordinary days: crashes, full disks, damage, and a model that knows the right answer.
//!
//! Everything here is driven by a seed, so a failure names the seed that shows it again. `SKIFF_STORE_SEEDS` widens a run.

mod crash;
mod damage;
mod heartbeat;
mod model;
mod retention;
mod sim_disk;
mod watch;

use std::sync::Arc;

use super::{Config, Embedded, RecoveryReport, Retention};
use crate::{Expect, OpenError, Store, Txn, Value};
use sim_disk::SimDisk;

/// A generator of our own: small, and the same on every machine (splitmix64).
pub(super) struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, chances: u64) -> bool {
        self.below(chances) == 0
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len() as u64) as usize]
    }
}

/// The seeds to run: a few hundred by default, more when asked for.
fn seeds(default: u64) -> std::ops::Range<u64> {
    let asked = std::env::var("SKIFF_STORE_SEEDS").ok();
    0..asked.map_or(default, |seeds| seeds.parse().expect("SKIFF_STORE_SEEDS is a number"))
}

/// Files so small that a short run rolls segments and takes snapshots.
fn small() -> Config {
    Config { segment_bytes: 2048, snapshot_bytes: 4096, ..Config::default() }
}

fn open(disk: &SimDisk) -> Result<(Store, RecoveryReport), OpenError> {
    open_with(disk, small())
}

fn open_with(disk: &SimDisk, config: Config) -> Result<(Store, RecoveryReport), OpenError> {
    let (engine, report) = Embedded::open(Arc::new(disk.clone()), config)?;
    Ok((Store::new(engine), report))
}

fn put(key: &str, text: &str) -> Txn {
    Txn::put(key, Value::new(text.to_owned()), Expect::Any)
}

async fn text(store: &Store, key: &str) -> Option<String> {
    let entry = store.get(key).await.unwrap()?;
    Some(String::from_utf8(entry.value.to_vec()).unwrap())
}
