//! Power loss at every kind of moment: what was acknowledged is there, and nothing by halves.
//!
//! The engine's parts are stepped by hand, without threads, so that a seed always crashes at the same place. Each seed
//! lives through several crashes of the same disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::clock::MonotonicClock;
use super::super::hub;
use super::super::journal::{Journal, Layout};
use super::super::recovery::{self, RecoveryReport};
use super::super::state::{Retention, State};
use super::super::writer::{Desk, Published};
use super::sim_disk::SimDisk;
use super::{Random, seeds};
use crate::{Committed, Durability, Error, Expect, Op, OpenError, Revision, Txn, Value};

const LAYOUT: Layout = Layout { segment_bytes: 2048, snapshot_bytes: 4096 };
const LIVES: usize = 4;
const KEYS: [&str; 6] = ["/a", "/b", "/c", "/d", "/lease/x", "/lease/y"];

type Contents = BTreeMap<String, String>;

/// The engine without its threads.
struct Stepper {
    desk: Desk,
    published: Published,
    journal: Journal,
}

/// What the store's user knows: every state it may be in after a crash.
struct Witness {
    /// The contents after each transaction submitted, the first being those at the start of this life.
    states: Vec<Contents>,
    /// The last of them that is known to be durable.
    durable: usize,
    /// The highest revision anybody has seen.
    seen: Revision,
}

#[test]
fn every_acknowledged_write_survives_power_loss() {
    for seed in seeds(300) {
        let mut random = Random(seed);
        let mut disk = SimDisk::default();
        let mut witness = Witness::new(Contents::new(), Revision(0));
        for life in 0..LIVES {
            let context = format!("seed {seed}, life {life}");
            if random.one_in(3) {
                disk = crash_while_opening(disk, &mut random);
            }
            let (mut stepper, report) =
                Stepper::open(&disk).unwrap_or_else(|error| panic!("{context}: {error}"));
            witness.check(&stepper.published.load(), &report, &context);
            disk.lose_power_after(random.below(80));
            witness.live(&mut stepper, &mut random);
            if random.one_in(5) {
                let state = stepper.published.load();
                // Succeeds only if the power is still on.
                let _ = stepper.journal.close(&state);
            }
            drop(stepper);
            disk = disk.after_power_loss(&mut random);
        }
    }
}

/// To tell of a version that is not durable yet would be to tell of one that may never have been.
#[test]
fn a_conflict_with_a_pending_write_waits_for_it() {
    let first = || Txn::put("/a", Value::new("1"), Expect::Absent);
    for (syncs_fail, told) in [(false, "conflict"), (true, "unwritable")] {
        let disk = SimDisk::default();
        let (mut stepper, _) = Stepper::open(&disk).unwrap();
        if syncs_fail {
            disk.fail_syncs(std::io::ErrorKind::Other);
        }
        let outcomes = stepper.commit(&[first(), first()]);
        assert_eq!(outcomes[0].is_err(), syncs_fail);
        let found = match &outcomes[1] {
            Err(Error::Conflict { .. }) => "conflict",
            Err(Error::Unwritable { .. }) => "unwritable",
            other => panic!("{other:?}"),
        };
        assert_eq!(found, told);
    }
}

/// Opening changes the disk too: repairs it, and logs where it goes on.
fn crash_while_opening(disk: SimDisk, random: &mut Random) -> SimDisk {
    disk.lose_power_after(random.below(8));
    drop(Stepper::open(&disk));
    disk.after_power_loss(random)
}

// === impl Stepper ===

impl Stepper {
    fn open(disk: &SimDisk) -> Result<(Stepper, RecoveryReport), OpenError> {
        let recovered = recovery::recover(disk, LAYOUT, Default::default())?;
        let mut journal = Journal::new(Arc::new(disk.clone()), LAYOUT, recovered.resume);
        if let Some(renewed) = recovered.renewed {
            let action = "renew".to_owned();
            journal
                .renew(renewed, &recovered.state)
                .map_err(|source| OpenError::Io { action, source })?;
        }
        let clock = Arc::new(MonotonicClock::default());
        let desk =
            Desk::new(recovered.state.clone(), journal.ceiling(), Retention::default(), clock);
        let published = Published::new(recovered.state);
        Ok((Stepper { desk, published, journal }, recovered.report))
    }

    /// Submits transactions together and sees them through as one batch.
    fn commit(&mut self, txns: &[Txn]) -> Vec<Result<Committed, Error>> {
        let (announce, _announcements) = hub::announcements();
        let revision = self.published.load().revision;
        let decisions: Vec<_> = txns.iter().map(|txn| self.desk.submit(txn, revision)).collect();
        if decisions.iter().any(|decision| decision.settled.is_some()) {
            self.desk.step(&mut self.journal, &self.published, &announce);
            self.journal.finish_snapshot();
        }
        let settle = |decision: super::super::writer::Decision| {
            if let Some(mut settled) = decision.settled {
                settled.try_recv().expect("the step has answered")?;
            }
            decision.outcome
        };
        decisions.into_iter().map(settle).collect()
    }
}

// === impl Witness ===

impl Witness {
    fn new(contents: Contents, seen: Revision) -> Witness {
        Witness { states: vec![contents], durable: 0, seen }
    }

    /// Writes until the power goes, or for a while.
    fn live(&mut self, stepper: &mut Stepper, random: &mut Random) {
        for _ in 0..40 {
            let txns: Vec<_> = (0..1 + random.below(4)).map(|_| self.submit(random)).collect();
            let before = self.states.len() - txns.len();
            let outcomes = stepper.commit(&txns);
            for (index, (txn, outcome)) in txns.iter().zip(&outcomes).enumerate() {
                match outcome {
                    Ok(committed) => {
                        self.seen = self.seen.max(committed.revision);
                        // Deleting what is not there needs no disk.
                        let wrote = !committed.events.is_empty();
                        if wrote && txn.durability == Durability::Durable {
                            self.durable = before + index;
                        }
                    }
                    Err(Error::Unwritable { .. }) => return,
                    Err(other) => panic!("{other}"),
                }
            }
            self.seen = self.seen.max(stepper.published.load().revision);
        }
    }

    /// Makes up a transaction and notes what it would lead to.
    fn submit(&mut self, random: &mut Random) -> Txn {
        let mut contents = self.states[self.states.len() - 1].clone();
        let key = *random.pick(&KEYS);
        let text = format!("{}", random.below(1 << 40)).repeat(1 + random.below(40) as usize);
        let mut txn = Txn::default();
        if key.starts_with("/lease") {
            txn = Txn::put(key, Value::new(text.clone()), Expect::Any).volatile();
            contents.insert(key.to_owned(), text);
        } else if random.one_in(4) {
            txn = Txn::delete(key, Expect::Any);
            contents.remove(key);
        } else {
            for key in [key, "/both"] {
                let value = Value::new(text.clone());
                txn = txn.and(Op::Put { key: key.into(), value, expect: Expect::Any });
                contents.insert(key.to_owned(), text.clone());
            }
        }
        self.states.push(contents);
        txn
    }

    /// The state found must be one the user has known, no older than the last durable one, and go on above all revisions
    /// seen. Then a new life begins from it.
    fn check(&mut self, found: &State, report: &RecoveryReport, context: &str) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let contents: Contents =
            found.entries().map(|entry| (entry.key.to_string(), text(&entry.value))).collect();
        let candidates = &self.states[self.durable..];
        assert!(
            candidates.contains(&contents),
            "{context}: {report}\nfound {contents:?}\nknown {candidates:?}"
        );
        assert!(
            found.revision >= self.seen,
            "{context}: {} after {} was seen",
            found.revision,
            self.seen
        );
        assert!(!report.found_damage(), "{context}: a crash is no damage: {report}");
        *self = Witness::new(contents, found.revision);
    }
}
