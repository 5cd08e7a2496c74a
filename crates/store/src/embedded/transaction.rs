//! What a transaction does: the state it meets and its operations in, its events out.
//!
//! Pure, so that it can be decided under the writers' lock before anything is on disk. Counterpart: etcd's `applyTxn`.
//! Invariant: either every expectation is met and all events carry the same new revision, or there are none.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::state::State;
use crate::{Durability, Entry, Error, Event, EventKind, Events, Key, Op, Revision, Txn, Value};

/// What one entry may hold: far above what the API server lets through, far below what a log record can frame.
const MAX_ENTRY_BYTES: usize = 16 << 20;

/// Decides a transaction against the newest state, pending writes included. Runs under the writers' lock, so each key
/// is looked up once.
pub(super) fn decide(state: &State, txn: &Txn, now: Duration) -> Result<Events, Error> {
    let mut found = Vec::with_capacity(txn.ops.len());
    for (index, op) in txn.ops.iter().enumerate() {
        let newest = state.newest(op.key());
        check(op, newest.filter(|entry| !entry.is_tombstone()))?;
        if txn.ops[..index].iter().any(|earlier| earlier.key() == op.key()) {
            return Err(Error::DuplicateKey { key: op.key().clone() });
        }
        found.push(newest);
    }
    let revision = state.revision.next();
    let heartbeat = txn.durability == Durability::Volatile;
    let events = txn.ops.iter().zip(found).filter_map(|(op, newest)| {
        let current = newest.filter(|entry| !entry.is_tombstone());
        let entry = match op {
            Op::Put { key, value, .. } => put(current, key, value, &txn.note, revision, heartbeat),
            Op::Delete { key, .. } => current.map(|_| tombstone(key, &txn.note, revision))?,
            Op::Check { .. } => return None,
        };
        Some(step(newest, entry, now))
    });
    Ok(events.collect())
}

/// Makes the step to a version that does not come from a transaction.
pub(super) fn event(state: &State, entry: Entry, at: Duration) -> Arc<Event> {
    step(state.newest(&entry.key), entry, at)
}

fn step(newest: Option<&Arc<Entry>>, entry: Entry, at: Duration) -> Arc<Event> {
    let kind = if entry.is_tombstone() { EventKind::Delete } else { EventKind::Put };
    Arc::new(Event { kind, entry: Arc::new(entry), replaced: newest.cloned(), at })
}

/// The version that takes a key to the grave.
pub(super) fn tombstone(key: &Key, note: &Bytes, revision: Revision) -> Entry {
    Entry {
        key: key.clone(),
        value: Bytes::new(),
        hole: None,
        create_revision: Revision::default(),
        mod_revision: revision,
        version: 0,
        note: note.clone(),
        heartbeat: false,
    }
}

fn check(op: &Op, current: Option<&Arc<Entry>>) -> Result<(), Error> {
    let key = op.key();
    if !op.expect().is_met_by(current.map(|entry| &**entry)) {
        let (key, current) = (key.clone(), current.cloned());
        return Err(Error::Conflict { key, expected: op.expect(), current });
    }
    let Op::Put { value, .. } = op else { return Ok(()) };
    let bytes = key.len() + value.bytes.len();
    if bytes > MAX_ENTRY_BYTES {
        return Err(Error::TooLarge { key: key.clone(), bytes, limit: MAX_ENTRY_BYTES });
    }
    value.check(key)
}

fn put(
    current: Option<&Arc<Entry>>,
    key: &Key,
    value: &Value,
    note: &Bytes,
    revision: Revision,
    heartbeat: bool,
) -> Entry {
    Entry {
        key: current.map_or_else(|| key.clone(), |last| last.key.clone()),
        value: value.splice(revision),
        hole: value.revision_at,
        create_revision: current.map_or(revision, |last| last.create_revision),
        mod_revision: revision,
        version: current.map_or(0, |last| last.version) + 1,
        note: note.clone(),
        heartbeat,
    }
}
