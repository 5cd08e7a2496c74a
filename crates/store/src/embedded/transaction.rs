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

/// Decides a transaction against the newest state, pending writes included.
pub(super) fn decide(state: &State, txn: &Txn, now: Duration) -> Result<Events, Error> {
    for (index, op) in txn.ops.iter().enumerate() {
        check(state, op)?;
        if txn.ops[..index].iter().any(|earlier| earlier.key() == op.key()) {
            return Err(Error::DuplicateKey { key: op.key().clone() });
        }
    }
    let revision = state.revision.next();
    let heartbeat = txn.durability == Durability::Volatile;
    let entries = txn.ops.iter().filter_map(|op| match op {
        Op::Put { key, value, .. } => Some(put(state, key, value, &txn.note, revision, heartbeat)),
        Op::Delete { key, .. } => state.current(key).map(|_| tombstone(key, &txn.note, revision)),
        Op::Check { .. } => None,
    });
    Ok(entries.map(|entry| event(state, entry, now)).collect())
}

/// Makes the step to a version, wherever the version comes from.
pub(super) fn event(state: &State, entry: Entry, at: Duration) -> Arc<Event> {
    let kind = if entry.is_tombstone() { EventKind::Delete } else { EventKind::Put };
    let replaced = state.replaced_by_next(&entry.key);
    Arc::new(Event { kind, entry: Arc::new(entry), replaced, at })
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

fn check(state: &State, op: &Op) -> Result<(), Error> {
    let (key, current) = (op.key(), state.current(op.key()));
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
    state: &State,
    key: &Key,
    value: &Value,
    note: &Bytes,
    revision: Revision,
    heartbeat: bool,
) -> Entry {
    let last = state.current(key);
    Entry {
        key: last.map_or_else(|| key.clone(), |last| last.key.clone()),
        value: value.splice(revision),
        hole: value.revision_at,
        create_revision: last.map_or(revision, |last| last.create_revision),
        mod_revision: revision,
        version: last.map_or(0, |last| last.version) + 1,
        note: note.clone(),
        heartbeat,
    }
}
