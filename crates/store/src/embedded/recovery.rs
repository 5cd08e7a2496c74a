//! Opening: the files that were left behind in, the last good state and a report out.
//!
//! The newest snapshot that checks out, then the log from there. The log ends in one of three ways. *Clean*: nothing but
//! zeros follow. *Torn*: a record was being written when the machine stopped; it was never acknowledged, so it is cut
//! off. *Damaged*: a record does not check out although later ones do; everything up to it is kept, the rest is set
//! aside in `damaged-` files (those of the last time only) and reported.
//!
//! After a stop without `close`, revisions go on above the reserved ceiling, and every heartbeat key is written anew: its
//! watchers may have seen versions that are lost now, and must learn what is true again. After damage, revisions go on
//! above any that was ever handed out, and all history is declared compacted, so that every client lists again.
//!
//! Counterpart: etcd's `wal.ReadAll` and `storage.Repair`. Invariant: no revision is ever given to two different states.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::disk::Disk;
use super::journal::{Layout, RESERVE, Resume, Tail, segment_name};
use super::record::{self, BadHead, Record, SegmentHead};
use super::snapshot::{self, BadSnapshot, Files};
use super::state::State;
use super::transaction;
use crate::{Entry, OpenError, Revision};

/// What opening found, for the log and for whoever asks what a crash has cost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// The revision the store goes on from.
    pub revision: Revision,
    /// How many keys there are.
    pub keys: usize,
    /// The last record of the snapshot it began with.
    pub snapshot: Option<u64>,
    /// Newer snapshots that did not check out, and why.
    pub bad_snapshots: Vec<String>,
    /// How many records were replayed on top.
    pub records: u64,
    /// Whether the store had been closed.
    pub closed: bool,
    pub cut: Option<Cut>,
    /// Heartbeat keys that were written anew.
    pub heartbeats: usize,
}

/// Where the log was cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub file: String,
    pub offset: u64,
    pub loss: Loss,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// A record that was being written; nobody had been told it was there.
    TornTail { bytes: u64 },
    /// Records that had been acknowledged. What is left of them was set aside in these files.
    Damage { set_aside: Vec<String> },
}

pub(super) struct Recovered {
    pub state: State,
    pub resume: Resume,
    pub report: RecoveryReport,
    /// Entries written anew; the journal must log them, and the new revision, before anyone is served.
    pub renewed: Option<Vec<Arc<Entry>>>,
}

/// The log as far as it was read.
struct Replay {
    state: State,
    /// The last record that `state` includes.
    sequence: u64,
    ceiling: Revision,
    closed: bool,
    records: u64,
    bytes: u64,
    now: Duration,
}

/// How a segment ends, and where.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Clean,
    Torn,
    Damaged,
}

pub(super) fn recover(
    disk: &dyn Disk,
    layout: Layout,
    now: Duration,
) -> Result<Recovered, OpenError> {
    let names = disk.list().map_err(io_error("list the store's files"))?;
    snapshot::sweep(disk, &names).map_err(io_error("remove an unfinished snapshot"))?;
    let files = Files::of(&names);
    let mut report = RecoveryReport::default();
    let mut replay = base(disk, &files, now, &mut report)?;
    let last_snapshot = replay.state.live_bytes() as u64;
    let tail = replay.log(disk, &files, layout, &mut report)?;
    let renewed = match report.lost_writes() {
        true => Some(replay.leave_damage_behind()),
        false => replay.leave_crash_behind(),
    };
    report.revision = replay.state.revision;
    report.keys = replay.state.len();
    report.records = replay.records;
    report.closed = replay.closed;
    report.heartbeats = renewed.as_ref().map_or(0, Vec::len);
    let resume = Resume {
        tail,
        sequence: replay.sequence,
        ceiling: replay.ceiling,
        dirty: !replay.closed,
        since_snapshot: replay.bytes,
        last_snapshot,
    };
    Ok(Recovered { state: replay.state, resume, report, renewed })
}

/// The newest snapshot that can be used, or the empty store if the log goes back to the beginning.
fn base(
    disk: &dyn Disk,
    files: &Files,
    now: Duration,
    report: &mut RecoveryReport,
) -> Result<Replay, OpenError> {
    let (closed, records, bytes) = (false, 0, 0);
    for &sequence in &files.snapshots {
        match snapshot::read(disk, sequence) {
            Ok((head, state)) => {
                report.snapshot = Some(sequence);
                let ceiling = head.ceiling;
                return Ok(Replay { state, sequence, ceiling, closed, records, bytes, now });
            }
            Err(BadSnapshot::Damaged(why)) => report.bad_snapshots.push(why),
            Err(BadSnapshot::Fatal(error)) => return Err(error),
        }
    }
    let pristine = files.snapshots.is_empty() && files.segments.is_empty();
    if !pristine && files.segments.first() != Some(&1) {
        return Err(OpenError::Unrecoverable { details: report.bad_snapshots.join("; ") });
    }
    let (state, ceiling) = (State::default(), Revision::default());
    Ok(Replay { state, sequence: 0, ceiling, closed: pristine, records, bytes, now })
}

// === impl Replay ===

impl Replay {
    /// Replays the segments that go beyond the base, and repairs the log's end.
    fn log(
        &mut self,
        disk: &dyn Disk,
        files: &Files,
        layout: Layout,
        report: &mut RecoveryReport,
    ) -> Result<Tail, OpenError> {
        let covered = files.segments.partition_point(|&first| first <= self.sequence + 1);
        let segments = &files.segments[covered.saturating_sub(1)..];
        for (index, &first) in segments.iter().enumerate() {
            let name = segment_name(first);
            let bytes = read(disk, &name)?;
            let (offset, end) = self.segment(&name, first, &bytes)?;
            let later = &segments[index + 1..];
            if end == End::Clean && !later.is_empty() {
                continue;
            }
            if end == End::Damaged || !later.is_empty() {
                let set_aside = self.set_aside(disk, &name, &bytes, later)?;
                report.cut =
                    Some(Cut { file: name.clone(), offset, loss: Loss::Damage { set_aside } });
            } else if end == End::Torn {
                let bytes = (trim_zeros(&bytes).len() as u64).saturating_sub(offset);
                report.cut =
                    Some(Cut { file: name.clone(), offset, loss: Loss::TornTail { bytes } });
            }
            return self
                .reopen(disk, &name, offset, layout)
                .map_err(io_error(format!("repair {name}")));
        }
        Ok(Tail { file: None, offset: 0 })
    }

    /// Takes in one segment's records up to where it ends.
    fn segment(&mut self, name: &str, first: u64, bytes: &[u8]) -> Result<(u64, End), OpenError> {
        let head = record::unframe(bytes).map(|(body, length)| (SegmentHead::decode(body), length));
        let mut offset = match head {
            Some((Ok(head), length)) if head.first_sequence == first => length,
            Some((Err(BadHead::Newer(found)), _)) => return Err(snapshot::newer(name, found)),
            _ => 0,
        };
        // A gap before this segment: its records are good, but what they build on is lost.
        if offset == 0 || first > self.sequence + 1 {
            return Ok((0, self.end(&bytes[offset..])));
        }
        loop {
            offset += self.records(&bytes[offset..]);
            // Damage among records that the snapshot includes costs nothing: the first one after it is still there.
            match survivors(&bytes[offset..], self.sequence).next() {
                Some((skip, next)) if next.sequence == self.sequence + 1 && skip > 0 => {
                    offset += skip
                }
                _ => return Ok((offset as u64, self.end(&bytes[offset..]))),
            }
        }
    }

    /// Takes in records until one does not check out; returns the bytes they take.
    fn records(&mut self, bytes: &[u8]) -> usize {
        let mut offset = 0;
        while let Some((body, length)) = record::unframe(&bytes[offset..]) {
            let Some(record) = Record::decode(body) else { break };
            if !self.apply(record) {
                break;
            }
            offset += length;
            self.bytes += length as u64;
        }
        offset
    }

    /// Takes a record in, unless it is out of place. One that the snapshot includes is passed over.
    fn apply(&mut self, record: Record<Vec<Entry>>) -> bool {
        let included = record.sequence <= self.sequence;
        let ascending = record.entries.iter().all(|entry| entry.mod_revision > self.state.revision);
        if !included && (record.sequence != self.sequence + 1 || !ascending) {
            return false;
        }
        if record.sequence >= self.sequence {
            self.closed = record.closed;
        }
        if included {
            return true;
        }
        for entry in record.entries {
            self.state.apply(transaction::event(&self.state, entry, self.now));
        }
        self.state.revision = record.revision.max(self.state.revision);
        self.sequence = record.sequence;
        self.ceiling = record.ceiling;
        self.records += 1;
        true
    }

    /// Whether a later record checks out decides between a torn tail and damage.
    fn end(&self, rest: &[u8]) -> End {
        match survivors(rest, self.sequence).next() {
            Some(_) => End::Damaged,
            None if trim_zeros(rest).is_empty() => End::Clean,
            None => End::Torn,
        }
    }

    /// Keeps the damaged segment and those after it for whoever wants to look, out of the log's way. Learns from them
    /// how far revisions had gone.
    fn set_aside(
        &mut self,
        disk: &dyn Disk,
        name: &str,
        bytes: &[u8],
        later: &[u64],
    ) -> Result<Vec<String>, OpenError> {
        let context = || io_error(format!("set {name} aside"));
        let names = disk.list().map_err(context())?;
        for old in names.iter().filter(|name| name.starts_with("damaged-")) {
            disk.remove(old).map_err(context())?;
        }
        let mut set_aside = vec![format!("damaged-{name}")];
        self.learn_ceiling(bytes);
        let copy = |mut file: Box<dyn super::disk::DiskFile>| {
            file.write_at(0, bytes)?;
            file.sync()
        };
        disk.create(&set_aside[0], 0).and_then(copy).map_err(context())?;
        for &first in later {
            let name = segment_name(first);
            self.learn_ceiling(&read(disk, &name)?);
            disk.rename(&name, &format!("damaged-{name}")).map_err(context())?;
            set_aside.push(format!("damaged-{name}"));
        }
        disk.sync_names().map_err(context())?;
        Ok(set_aside)
    }

    fn learn_ceiling(&mut self, bytes: &[u8]) {
        for (_, record) in survivors(bytes, self.sequence) {
            self.ceiling = self.ceiling.max(record.revision).max(record.ceiling);
        }
    }

    /// Opens the last good segment where it ends. If it ends before the snapshot does, the log goes on in a new one.
    fn reopen(&self, disk: &dyn Disk, name: &str, offset: u64, layout: Layout) -> io::Result<Tail> {
        if offset == 0 {
            disk.remove(name)?;
            disk.sync_names()?;
            return Ok(Tail { file: None, offset: 0 });
        }
        let mut file = disk.open(name)?;
        file.cut(offset, layout.segment_bytes)?;
        file.sync()?;
        Ok(Tail { file: Some(file), offset })
    }

    /// Volatile revisions may have been seen and lost: goes on above them, and writes the heartbeat keys anew.
    fn leave_crash_behind(&mut self) -> Option<Vec<Arc<Entry>>> {
        if self.closed || self.ceiling <= self.state.revision {
            return None;
        }
        self.state.revision = self.ceiling;
        let revision = self.ceiling.next();
        let beating: Vec<_> =
            self.state.entries().filter(|entry| entry.heartbeat).cloned().collect();
        let renewed = beating.iter().map(|entry| {
            let event = transaction::event(&self.state, renew(entry, revision), self.now);
            self.state.apply(event.clone());
            event.entry.clone()
        });
        Some(renewed.collect())
    }

    /// Acknowledged revisions are lost: goes on above any that may have been handed out, with no history before.
    fn leave_damage_behind(&mut self) -> Vec<Arc<Entry>> {
        self.state.revision = Revision(self.ceiling.max(self.state.revision).0 + RESERVE);
        self.state.compact(self.state.revision);
        self.closed = false;
        Vec::new()
    }
}

/// The same state once more, at a newer revision.
fn renew(entry: &Entry, revision: Revision) -> Entry {
    Entry {
        key: entry.key.clone(),
        value: entry.at_revision(revision),
        hole: entry.hole,
        create_revision: entry.create_revision,
        mod_revision: revision,
        version: entry.version + 1,
        note: entry.note.clone(),
        heartbeat: true,
    }
}

/// The records after `sequence` that can still be made out anywhere in `bytes`, and where.
fn survivors(
    bytes: &[u8],
    sequence: u64,
) -> impl Iterator<Item = (usize, Record<Vec<Entry>>)> + '_ {
    /// No gap is so wide: what looks further ahead is not a sequence.
    const HORIZON: u64 = 1 << 32;
    const SEQUENCE_AT: usize = 8;
    // Nothing begins among the zeros at the end, though a record that begins before may end there.
    let end = trim_zeros(bytes).len();
    let mut offset = 0;
    std::iter::from_fn(move || {
        while offset < end {
            let rest = &bytes[offset..];
            offset += 1;
            let candidate = rest[SEQUENCE_AT.min(rest.len())..].first_chunk::<8>();
            let found = u64::from_le_bytes(*candidate?);
            // The checksum is worked out only where the sequence fits, or this would be quadratic.
            if found <= sequence || found - sequence >= HORIZON {
                continue;
            }
            let Some((body, length)) = record::unframe(rest) else { continue };
            if let Some(record) = Record::decode(body) {
                let start = offset - 1;
                offset = start + length;
                return Some((start, record));
            }
        }
        None
    })
}

fn read(disk: &dyn Disk, name: &str) -> Result<Vec<u8>, OpenError> {
    let mut bytes = Vec::new();
    let read = disk.read(name).and_then(|mut file| file.read_to_end(&mut bytes));
    read.map_err(io_error(format!("read {name}")))?;
    Ok(bytes)
}

fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> OpenError {
    let action = action.into();
    move |source| OpenError::Io { action, source }
}

/// Without the zeros at the end: room set aside and never written.
fn trim_zeros(bytes: &[u8]) -> &[u8] {
    const STRIDE: usize = 4096;
    let mut end = bytes.len();
    while end >= STRIDE && bytes[end - STRIDE..end] == [0; STRIDE] {
        end -= STRIDE;
    }
    let last = bytes[..end].iter().rposition(|&byte| byte != 0);
    &bytes[..last.map_or(0, |last| last + 1)]
}

// === impl RecoveryReport ===

impl RecoveryReport {
    /// Whether writes that had been acknowledged are gone. A torn tail is no loss: nobody was told of it.
    pub fn lost_writes(&self) -> bool {
        self.cut.as_ref().is_some_and(|cut| matches!(cut.loss, Loss::Damage { .. }))
    }

    /// Whether files turned out damaged, at a loss or not.
    pub fn found_damage(&self) -> bool {
        self.lost_writes() || !self.bad_snapshots.is_empty()
    }
}

impl fmt::Display for RecoveryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let how = if self.closed { "closed" } else { "not closed" };
        write!(
            f,
            "{} keys at revision {}, {} records replayed, {how}",
            self.keys, self.revision, self.records
        )?;
        for bad in &self.bad_snapshots {
            write!(f, "; passed over {bad}")?;
        }
        if let Some(Cut { file, offset, loss }) = &self.cut {
            match loss {
                Loss::TornTail { bytes } => {
                    write!(f, "; cut {bytes} torn bytes off {file} at {offset}")?
                }
                Loss::Damage { set_aside } => write!(
                    f,
                    "; {file} is damaged at {offset}, acknowledged writes after it are lost, set aside in {}",
                    set_aside.join(", ")
                )?,
            }
        }
        Ok(())
    }
}
