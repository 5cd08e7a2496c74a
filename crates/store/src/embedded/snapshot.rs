//! Snapshots: one state in, one file out; and which files it makes superfluous.
//!
//! Written from a persistent map while the store goes on, in frames that are synced as they come, so that no large flush
//! holds up the log. Counterpart: etcd's `snap`. Invariant: a file carries its final name only when all of it is durable.

use std::io::{self, Read};
use std::sync::Arc;

use super::disk::Disk;
use super::journal::segment_name;
use super::record::{self, BadHead, SnapshotHead};
use super::state::State;
use crate::OpenError;

/// How much goes into a frame, and how much is written between syncs.
const FRAME_BYTES: usize = 256 << 10;
const SYNC_BYTES: u64 = 8 << 20;
/// The newest, and one more in case it turns out damaged.
const KEPT: usize = 2;
const TEMPORARY: &str = "snapshot.tmp";

/// What lies in a store's directory.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    /// The last sequence of each, newest first.
    pub snapshots: Vec<u64>,
    /// The first sequence of each, oldest first.
    pub segments: Vec<u64>,
}

/// Why a snapshot cannot be used.
#[derive(Debug)]
pub(super) enum BadSnapshot {
    Damaged(String),
    Fatal(OpenError),
}

/// Takes a snapshot and deletes what is no longer needed. A failure leaves the log as it is; the next try is as far off.
pub(super) fn write_and_prune(disk: &dyn Disk, head: SnapshotHead, state: &State) {
    let result = write(disk, head, state).and_then(|()| prune(disk));
    if let Err(error) = result {
        tracing::warn!(%error, "no snapshot taken, the log keeps growing");
        // Half a snapshot on a full disk takes the room the log needs; it may not even exist.
        let _ = disk.remove(TEMPORARY);
    }
}

pub(super) fn snapshot_name(sequence: u64) -> String {
    format!("snapshot-{sequence:020}")
}

fn write(disk: &dyn Disk, head: SnapshotHead, state: &State) -> io::Result<()> {
    let mut file = disk.create(TEMPORARY, 0)?;
    let mut buffer = Vec::new();
    head.encode(&mut buffer);
    let (mut offset, mut synced) = (0, 0);
    let mut entries = state.entries().peekable();
    while entries.peek().is_some() || !buffer.is_empty() {
        if entries.peek().is_some() {
            record::frame(&mut buffer, |out| {
                let end = out.len() + FRAME_BYTES;
                while let Some(entry) = entries.next_if(|_| out.len() < end) {
                    record::encode_entry(out, entry);
                }
            });
        }
        file.write_at(offset, &buffer)?;
        offset += buffer.len() as u64;
        buffer.clear();
        if offset - synced >= SYNC_BYTES {
            file.sync()?;
            synced = offset;
        }
    }
    file.sync()?;
    disk.rename(TEMPORARY, &snapshot_name(head.sequence))?;
    disk.sync_names()
}

/// Reads a snapshot whole; what does not check out to the last entry is not used at all.
pub(super) fn read(disk: &dyn Disk, sequence: u64) -> Result<(SnapshotHead, State), BadSnapshot> {
    let name = snapshot_name(sequence);
    let damaged = |what: &str| BadSnapshot::Damaged(format!("{name}: {what}"));
    let mut bytes = Vec::new();
    let read = disk.read(&name).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(|error| damaged(&error.to_string()))?;
    let (body, mut offset) = record::unframe(&bytes).ok_or_else(|| damaged("bad first frame"))?;
    let head = SnapshotHead::decode(body).map_err(|bad| match bad {
        BadHead::Unreadable => damaged("bad first frame"),
        BadHead::Newer(found) => BadSnapshot::Fatal(newer(&name, found)),
    })?;
    let mut state = State::starting_at(head.revision);
    while offset < bytes.len() {
        let (body, length) = record::unframe(&bytes[offset..])
            .ok_or_else(|| damaged(&format!("bad frame at offset {offset}")))?;
        let entries = record::decode_entries(body).ok_or_else(|| damaged("undecodable entry"))?;
        entries.into_iter().for_each(|entry| state.insert(Arc::new(entry)));
        offset += length;
    }
    match state.len() as u64 == head.count {
        true => Ok((head, state)),
        false => Err(damaged(&format!("{} entries of {}", state.len(), head.count))),
    }
}

pub(super) fn newer(file: &str, found: u32) -> OpenError {
    OpenError::NewerFormat { file: file.to_owned(), found, supported: record::FORMAT }
}

/// Deletes what neither of the kept snapshots needs.
pub(super) fn prune(disk: &dyn Disk) -> io::Result<()> {
    let superfluous = Files::of(&disk.list()?).superfluous();
    if superfluous.is_empty() {
        return Ok(());
    }
    superfluous.iter().try_for_each(|name| disk.remove(name))?;
    disk.sync_names()
}

/// Removes a snapshot that a crash left half written.
pub(super) fn sweep(disk: &dyn Disk, names: &[String]) -> io::Result<()> {
    match names.iter().any(|name| name == TEMPORARY) {
        true => disk.remove(TEMPORARY),
        false => Ok(()),
    }
}

// === impl Files ===

impl Files {
    pub fn of(names: &[String]) -> Files {
        let numbered = |prefix: &str| {
            let number = |name: &String| name.strip_prefix(prefix)?.parse().ok();
            let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
            numbers.sort_unstable();
            numbers
        };
        let mut snapshots = numbered("snapshot-");
        snapshots.reverse();
        Files { snapshots, segments: numbered("log-") }
    }

    /// Until there are two snapshots the whole log is kept, so that losing any one file loses nothing.
    fn superfluous(&self) -> Vec<String> {
        let Some(&oldest) = self.snapshots.get(KEPT - 1) else { return Vec::new() };
        // A segment ends where the next begins; the last one is being written.
        let covered =
            self.segments.windows(2).filter(|pair| pair[1] <= oldest + 1).map(|pair| pair[0]);
        let snapshots = self.snapshots[KEPT..].iter().copied();
        snapshots.map(snapshot_name).chain(covered.map(segment_name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers of snapshots and segments in, the names to delete out.
    fn check(snapshots: &[u64], segments: &[u64], superfluous: &[String]) {
        let snapshot_names = snapshots.iter().copied().map(snapshot_name);
        let mut names: Vec<_> =
            snapshot_names.chain(segments.iter().copied().map(segment_name)).collect();
        names.extend(["lock", "log-", "log-x", "snapshot.tmp", "damaged-log-1"].map(String::from));
        assert_eq!(Files::of(&names).superfluous(), superfluous, "{snapshots:?} {segments:?}");
    }

    #[test]
    fn what_the_older_of_two_snapshots_covers_is_superfluous() {
        check(&[], &[1, 10, 20], &[]);
        check(&[15], &[1, 10, 20], &[]);
        check(&[15, 25], &[1, 10, 20], &[segment_name(1)]);
        check(&[18, 25], &[1, 10, 20], &[segment_name(1)]);
        check(&[19, 25], &[1, 10, 20], &[segment_name(1), segment_name(10)]);
        check(&[15, 25, 35], &[20, 30], &[snapshot_name(15)]);
        check(&[15, 25, 99], &[20], &[snapshot_name(15)]);
    }
}
