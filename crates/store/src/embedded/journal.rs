//! The log being written: batches in, durable records out.
//!
//! One record per batch, one sync per record. Volatile writes float until the next durable batch takes the newest of each
//! key along, so a heartbeat causes no write of its own. When the log has grown by as much as the live data weighs, a
//! snapshot of the state just logged is written beside it, off this thread, and the segments that two snapshots no
//! longer need are deleted: the disk holds at most two snapshots and what was logged since the older one.
//!
//! Counterpart: etcd's `wal` and `snap`. Invariant: when `append` returns, the batch's durable writes survive power loss.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::disk::{Disk, DiskFile};
use super::record::{Record, SegmentHead, SnapshotHead};
use super::snapshot;
use super::state::State;
use super::writer::Batch;
use crate::{Entry, Key, Revision};

/// How many revisions are reserved at a time for volatile writes.
pub(super) const RESERVE: u64 = 1 << 16;

/// How the log is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub segment_bytes: u64,
    /// A snapshot is taken when this much was logged since the last, or as much as the live data if that is more.
    pub snapshot_bytes: u64,
}

pub(super) struct Journal {
    disk: Arc<dyn Disk>,
    layout: Layout,
    tail: Tail,
    sequence: u64,
    ceiling: Revision,
    /// The newest version of each key written only to memory.
    afloat: HashMap<Key, Arc<Entry>>,
    /// Whether anything happened since the last record that said `closed`.
    dirty: bool,
    /// After a failed write nothing is known about what is on disk.
    failed: bool,
    since_snapshot: u64,
    /// What the live data weighed at the last snapshot: no use in writing it all again for less than that.
    last_snapshot: u64,
    snapshot: Option<JoinHandle<()>>,
    buffer: Vec<u8>,
}

/// The segment being written.
pub(super) struct Tail {
    /// None until the first record.
    pub file: Option<Box<dyn DiskFile>>,
    pub offset: u64,
}

/// Where the log goes on after recovery.
pub(super) struct Resume {
    pub tail: Tail,
    pub sequence: u64,
    pub ceiling: Revision,
    pub dirty: bool,
    /// What was logged since the newest snapshot, and what the live data weighed then.
    pub since_snapshot: u64,
    pub last_snapshot: u64,
}

// === impl Journal ===

impl Journal {
    pub fn new(disk: Arc<dyn Disk>, layout: Layout, resume: Resume) -> Journal {
        Journal {
            disk,
            layout,
            tail: resume.tail,
            sequence: resume.sequence,
            ceiling: resume.ceiling,
            afloat: HashMap::new(),
            dirty: resume.dirty,
            failed: false,
            since_snapshot: resume.since_snapshot,
            last_snapshot: resume.last_snapshot,
            snapshot: None,
            buffer: Vec::new(),
        }
    }

    /// Volatile writes may use revisions up to here.
    pub fn ceiling(&self) -> Revision {
        self.ceiling
    }

    /// Makes a batch as durable as its transactions ask for.
    pub fn append(&mut self, batch: &Batch) -> io::Result<()> {
        let mut entries = Vec::new();
        for pending in &batch.pending {
            for event in pending.events.iter() {
                self.dirty = true;
                let entry = event.entry.clone();
                match pending.durable {
                    true => {
                        self.afloat.remove(&entry.key);
                        entries.push(entry);
                    }
                    false => drop(self.afloat.insert(entry.key.clone(), entry)),
                }
            }
        }
        if entries.is_empty() {
            return Ok(());
        }
        self.write(entries, &batch.state, false)?;
        self.maybe_snapshot(&batch.state);
        Ok(())
    }

    /// Logs where a recovery has left the store, before anyone is served.
    pub fn renew(&mut self, entries: Vec<Arc<Entry>>, state: &State) -> io::Result<()> {
        self.dirty = true;
        self.write(entries, state, false)
    }

    /// Logs what is afloat and that nothing follows, and gives back the room set aside for more.
    pub fn close(&mut self, state: &State) -> io::Result<()> {
        self.finish_snapshot();
        if self.dirty && !self.failed {
            self.write(Vec::new(), state, true)?;
            self.dirty = false;
        }
        match &mut self.tail.file {
            Some(file) if !self.failed => file.cut(self.tail.offset, 0).and_then(|()| file.sync()),
            _ => Ok(()),
        }
    }

    /// Waits for the snapshot being written, if there is one.
    pub fn finish_snapshot(&mut self) {
        if let Some(snapshot) = self.snapshot.take() {
            snapshot.join().expect("the snapshot thread reports errors and does not panic");
        }
    }

    fn write(
        &mut self,
        mut entries: Vec<Arc<Entry>>,
        state: &State,
        closed: bool,
    ) -> io::Result<()> {
        entries.extend(self.afloat.drain().map(|(_, entry)| entry));
        entries.sort_by_key(|entry| entry.mod_revision);
        self.sequence += 1;
        self.ceiling = self.next_ceiling(&entries, state.revision, closed);
        let (sequence, revision, ceiling) = (self.sequence, state.revision, self.ceiling);
        self.buffer.clear();
        Record { sequence, revision, ceiling, closed, entries: &entries[..] }
            .encode(&mut self.buffer);
        let written = self.write_buffer();
        self.failed = written.is_err();
        // One large batch must not keep its room for ever.
        self.buffer.shrink_to(1 << 20);
        written
    }

    /// Reserves revisions as soon as heartbeats need them, and ahead of need, so that they seldom wait for the disk.
    fn next_ceiling(&self, entries: &[Arc<Entry>], revision: Revision, closed: bool) -> Revision {
        let beats = entries.iter().any(|entry| entry.heartbeat);
        let low = self.ceiling.0 < revision.0 + RESERVE / 2;
        match (closed, beats && low) {
            (true, _) => revision,
            (false, true) => Revision(revision.0 + RESERVE),
            (false, false) => self.ceiling,
        }
    }

    fn write_buffer(&mut self) -> io::Result<()> {
        let length = self.buffer.len() as u64;
        match &mut self.tail.file {
            Some(file) if self.tail.offset + length <= self.layout.segment_bytes => {
                file.write_at(self.tail.offset, &self.buffer)?;
                file.sync()?;
                self.tail.offset += length;
            }
            _ => self.tail = self.start_segment()?,
        }
        self.since_snapshot += length;
        Ok(())
    }

    /// Begins a segment with the record in the buffer. The full one gives back what is left of its room.
    fn start_segment(&mut self) -> io::Result<Tail> {
        let mut bytes = Vec::new();
        SegmentHead { first_sequence: self.sequence }.encode(&mut bytes);
        bytes.extend_from_slice(&self.buffer);
        let offset = bytes.len() as u64;
        if let Some(full) = &mut self.tail.file {
            full.cut(self.tail.offset, 0)?;
        }
        let name = segment_name(self.sequence);
        let mut file = self.disk.create(&name, self.layout.segment_bytes.max(offset))?;
        file.write_at(0, &bytes)?;
        file.sync()?;
        self.disk.sync_names()?;
        Ok(Tail { file: Some(file), offset })
    }

    fn maybe_snapshot(&mut self, state: &State) {
        let due = self.since_snapshot >= self.layout.snapshot_bytes.max(self.last_snapshot);
        let running = self.snapshot.as_ref().is_some_and(|thread| !thread.is_finished());
        if !due || running {
            return;
        }
        self.since_snapshot = 0;
        self.last_snapshot = state.live_bytes() as u64;
        let head = SnapshotHead {
            sequence: self.sequence,
            revision: state.revision,
            ceiling: self.ceiling,
            count: state.len() as u64,
        };
        let (disk, state) = (self.disk.clone(), state.clone());
        let work = move || snapshot::write_and_prune(&*disk, head, &state);
        match std::thread::Builder::new().name("store-snapshot".into()).spawn(work) {
            Ok(thread) => self.snapshot = Some(thread),
            Err(error) => tracing::warn!(%error, "no snapshot taken, the log keeps growing"),
        }
    }
}

pub(super) fn segment_name(first_sequence: u64) -> String {
    format!("log-{first_sequence:020}")
}
