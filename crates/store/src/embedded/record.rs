//! The bytes on disk, and back.
//!
//! ```text
//! frame     length u32 | crc32 u32 of (length, body) | body          length 0: nothing was ever written here
//! segment   frame of (magic "SKIFFLOG" | format u32 | first sequence u64), then one frame per record
//! record    sequence u64 | revision u64 | ceiling u64 | closed u8 | count u32 | count entries
//! snapshot  frame of (magic "SKIFFSNP" | format u32 | sequence u64 | revision u64 | ceiling u64 | count u64),
//!           then frames of entries, count in all
//! entry     flags u8 | mod u64 | create u64 | version u64 | hole u32 | key u32 | value u32 | note u32 | key, value, note
//! ```
//! Integers are little endian. A record is one batch of whole transactions, so a torn one takes no half transaction along.
//! Sequences are dense over all segments: a record that is missing or out of place shows. An entry of version 0 is a
//! tombstone. `revision` is the store's when the record was made, `ceiling` how far volatile writes may go before
//! the next record; `closed` says that no write came after.
//!
//! Invariant: decoding any bytes whatever gives an answer, never a panic, and allocates no more than there are bytes.

use std::sync::Arc;

use bytes::Bytes;

use crate::{Entry, Key, Revision};

pub(super) const FORMAT: u32 = 1;
const LOG_MAGIC: &[u8; 8] = b"SKIFFLOG";
const SNAPSHOT_MAGIC: &[u8; 8] = b"SKIFFSNP";
const FRAME_HEAD: usize = 8;
const HAS_HOLE: u8 = 1;
const HEARTBEAT: u8 = 2;

/// One batch of transactions.
pub(super) struct Record<E> {
    pub sequence: u64,
    pub revision: Revision,
    pub ceiling: Revision,
    pub closed: bool,
    pub entries: E,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHead {
    pub first_sequence: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SnapshotHead {
    /// The last record that the snapshot includes.
    pub sequence: u64,
    pub revision: Revision,
    pub ceiling: Revision,
    pub count: u64,
}

/// Why a file's first frame is not the one expected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum BadHead {
    Unreadable,
    Newer(u32),
}

// === frames ===

/// Appends a frame around what `body` writes.
pub(super) fn frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD]);
    body(out);
    let length =
        u32::try_from(out.len() - start - FRAME_HEAD).expect("a batch is smaller than 4 GiB");
    let length = length.to_le_bytes();
    let crc = checksum(&length, &out[start + FRAME_HEAD..]);
    out[start..start + 4].copy_from_slice(&length);
    out[start + 4..start + FRAME_HEAD].copy_from_slice(&crc.to_le_bytes());
}

/// The body of the frame that `bytes` begin with, and the frame's whole length. None if there is no intact frame.
pub(super) fn unframe(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let mut head = Reader(bytes);
    let (length, crc) = (head.u32()?, head.u32()?);
    let body = head.0.get(..length as usize).filter(|body| !body.is_empty())?;
    (checksum(&length.to_le_bytes(), body) == crc).then_some((body, FRAME_HEAD + body.len()))
}

fn checksum(length: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(length);
    hasher.update(body);
    hasher.finalize()
}

// === heads ===

impl SegmentHead {
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| {
            out.extend_from_slice(LOG_MAGIC);
            out.extend_from_slice(&FORMAT.to_le_bytes());
            out.extend_from_slice(&self.first_sequence.to_le_bytes());
        });
    }

    pub fn decode(body: &[u8]) -> Result<SegmentHead, BadHead> {
        let mut reader = after_magic(body, LOG_MAGIC)?;
        let head = reader.u64().map(|first_sequence| SegmentHead { first_sequence });
        head.ok_or(BadHead::Unreadable)
    }
}

impl SnapshotHead {
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| {
            out.extend_from_slice(SNAPSHOT_MAGIC);
            out.extend_from_slice(&FORMAT.to_le_bytes());
            for number in [self.sequence, self.revision.0, self.ceiling.0, self.count] {
                out.extend_from_slice(&number.to_le_bytes());
            }
        });
    }

    pub fn decode(body: &[u8]) -> Result<SnapshotHead, BadHead> {
        let mut reader = after_magic(body, SNAPSHOT_MAGIC)?;
        let mut head = || {
            Some(SnapshotHead {
                sequence: reader.u64()?,
                revision: Revision(reader.u64()?),
                ceiling: Revision(reader.u64()?),
                count: reader.u64()?,
            })
        };
        head().ok_or(BadHead::Unreadable)
    }
}

fn after_magic<'a>(body: &'a [u8], magic: &[u8; 8]) -> Result<Reader<'a>, BadHead> {
    let mut reader = Reader(body.strip_prefix(magic).ok_or(BadHead::Unreadable)?);
    match reader.u32() {
        Some(FORMAT) => Ok(reader),
        Some(newer) if newer > FORMAT => Err(BadHead::Newer(newer)),
        _ => Err(BadHead::Unreadable),
    }
}

// === records and entries ===

impl Record<&[Arc<Entry>]> {
    pub fn encode(&self, out: &mut Vec<u8>) {
        frame(out, |out| {
            for number in [self.sequence, self.revision.0, self.ceiling.0] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.push(self.closed as u8);
            out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
            self.entries.iter().for_each(|entry| encode_entry(out, entry));
        });
    }
}

impl Record<Vec<Entry>> {
    pub fn decode(body: &[u8]) -> Option<Record<Vec<Entry>>> {
        let mut reader = Reader(body);
        let (sequence, revision, ceiling) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let closed = reader.u8()? != 0;
        let count = reader.u32()?;
        let entries = (0..count).map(|_| decode_entry(&mut reader)).collect::<Option<_>>()?;
        let (revision, ceiling) = (Revision(revision), Revision(ceiling));
        Some(Record { sequence, revision, ceiling, closed, entries })
    }
}

pub(super) fn encode_entry(out: &mut Vec<u8>, entry: &Entry) {
    let hole = if entry.hole.is_some() { HAS_HOLE } else { 0 };
    let heartbeat = if entry.heartbeat { HEARTBEAT } else { 0 };
    out.push(hole | heartbeat);
    for number in [entry.mod_revision.0, entry.create_revision.0, entry.version] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    let lengths =
        [entry.key.len(), entry.value.len(), entry.note.len()].map(|length| length as u32);
    for number in [entry.hole.unwrap_or(0)].into_iter().chain(lengths) {
        out.extend_from_slice(&number.to_le_bytes());
    }
    for bytes in [entry.key.as_bytes(), &entry.value, &entry.note] {
        out.extend_from_slice(bytes);
    }
}

/// All the entries of a snapshot's frame.
pub(super) fn decode_entries(body: &[u8]) -> Option<Vec<Entry>> {
    let mut reader = Reader(body);
    let mut entries = Vec::new();
    while !reader.0.is_empty() {
        entries.push(decode_entry(&mut reader)?);
    }
    Some(entries)
}

fn decode_entry(reader: &mut Reader<'_>) -> Option<Entry> {
    let flags = reader.u8()?;
    let (mod_revision, create_revision) = (Revision(reader.u64()?), Revision(reader.u64()?));
    let version = reader.u64()?;
    let hole = (flags & HAS_HOLE != 0).then_some(reader.u32()?);
    let (key, value, note) = (reader.u32()?, reader.u32()?, reader.u32()?);
    let key = Key::from(std::str::from_utf8(reader.take(key)?).ok()?);
    // Copied: a slice of the frame would keep all of the frame in memory as long as this entry lives.
    let value = Bytes::copy_from_slice(reader.take(value)?);
    let note = Bytes::copy_from_slice(reader.take(note)?);
    let heartbeat = flags & HEARTBEAT != 0;
    let entry = Entry { key, value, hole, create_revision, mod_revision, version, note, heartbeat };
    let fits = entry.revision_span().is_none_or(|span| span.end <= entry.value.len());
    fits.then_some(entry)
}

/// What is left to decode.
struct Reader<'a>(&'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, length: u32) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*taken)
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Arc<Entry>> {
        let put = Entry {
            key: Key::from("/a"),
            value: Bytes::from_static(br#"{"resourceVersion":"12"}"#),
            hole: Some(20),
            create_revision: Revision(3),
            mod_revision: Revision(12),
            version: 4,
            note: Bytes::from_static(b"kubectl"),
            heartbeat: true,
        };
        let tombstone =
            super::super::transaction::tombstone(&Key::from("/b"), &Bytes::new(), Revision(12));
        vec![Arc::new(put), Arc::new(tombstone)]
    }

    fn record() -> Vec<u8> {
        let entries = entries();
        let mut out = Vec::new();
        Record {
            sequence: 7,
            revision: Revision(12),
            ceiling: Revision(99),
            closed: false,
            entries: &entries[..],
        }
        .encode(&mut out);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Record<Vec<Entry>>> {
        unframe(bytes).and_then(|(body, _)| Record::decode(body))
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let found = decode(&record()).unwrap();
        assert_eq!((found.sequence, found.closed), (7, false));
        assert_eq!((found.revision, found.ceiling), (Revision(12), Revision(99)));
        let fields = |entry: &Entry| {
            let revisions = (entry.create_revision, entry.mod_revision, entry.version);
            let bytes = (entry.key.clone(), entry.value.clone(), entry.note.clone());
            (bytes, revisions, entry.hole, entry.heartbeat)
        };
        let found: Vec<_> = found.entries.iter().map(fields).collect();
        assert_eq!(found, entries().iter().map(|entry| fields(entry)).collect::<Vec<_>>());
    }

    #[test]
    fn every_flipped_bit_and_every_missing_byte_shows() {
        let good = record();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_none(), "bit {bit}");
        }
        for length in 0..good.len() {
            assert!(decode(&good[..length]).is_none(), "{length} bytes");
        }
    }

    #[test]
    fn bodies_of_any_bytes_decode_without_a_panic() {
        let good = record();
        let mut random = super::super::tests::Random(1);
        for _ in 0..20_000 {
            let mut body = good[FRAME_HEAD..].to_vec();
            for _ in 0..1 + random.below(8) {
                let at = random.below(body.len() as u64) as usize;
                body[at] = random.next() as u8;
            }
            body.truncate(random.below(body.len() as u64 + 1) as usize);
            let _ = Record::decode(&body);
            let _ = decode_entries(&body);
            let _ = SegmentHead::decode(&body);
            let _ = SnapshotHead::decode(&body);
        }
    }
}
