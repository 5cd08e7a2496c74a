//! What is stored: revisions, values with a hole for their revision, entries, and the events that lead from one to the next.
//!
//! The API server encodes an object once, before it knows the object's resourceVersion. It leaves an empty JSON string,
//! says where ([`Value::revision_at`]), and the store splices the decimal revision in at commit. A watch's DELETED event
//! shows the last state with the deletion's revision: [`Entry::at_revision`] splices again.
//!
//! Counterpart: etcd's `mvccpb.KeyValue` and `Event`. Invariant: an [`Entry`] never changes once made; everyone who reads
//! that version of the key shares the same bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{Error, Key};

/// A point in the store's history: grows by one with each committed transaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// Bytes to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    pub bytes: Bytes,
    /// The offset between the two quotes of an empty JSON string, where the store writes the revision of the commit.
    pub revision_at: Option<u32>,
}

/// One version of one key.
pub struct Entry {
    pub key: Key,
    /// The value with its revision spliced in; empty for a tombstone.
    pub value: Bytes,
    /// Where in `value` the revision's digits are.
    pub(crate) hole: Option<u32>,
    /// When the key came into being; zero for a tombstone.
    pub create_revision: Revision,
    pub mod_revision: Revision,
    /// How many times the key was written since it was created; zero for a tombstone.
    pub version: u64,
    /// Who wrote this and why; opaque to the store.
    pub note: Bytes,
    /// Whether later volatile writes of this key may stay off the disk.
    pub(crate) heartbeat: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    Put,
    Delete,
}

/// One key's step from a version to the next.
pub struct Event {
    pub kind: EventKind,
    /// The new version; for a delete the tombstone, which carries the deletion's revision and note.
    pub entry: Arc<Entry>,
    /// What this follows, be it a tombstone: the chain that reads at an older revision walk back.
    pub(crate) replaced: Option<Arc<Entry>>,
    /// When it was committed, on the store's own clock: decides when history is old enough to go.
    pub(crate) at: Duration,
}

// === impl Revision ===

impl Revision {
    pub fn next(self) -> Revision {
        Revision(self.0 + 1)
    }

    /// How many decimal digits the revision is spliced in with.
    fn digits(self) -> usize {
        self.0.checked_ilog10().map_or(1, |log| log as usize + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === impl Value ===

impl Value {
    pub fn new(bytes: impl Into<Bytes>) -> Value {
        Value { bytes: bytes.into(), revision_at: None }
    }

    pub fn with_revision_at(bytes: impl Into<Bytes>, offset: u32) -> Value {
        Value { bytes: bytes.into(), revision_at: Some(offset) }
    }

    /// Refuses a hole that is not an empty JSON string: splicing there would corrupt the object.
    pub(crate) fn check(&self, key: &Key) -> Result<(), Error> {
        let Some(at) = self.revision_at else { return Ok(()) };
        let quotes = (at as usize).checked_sub(1).and_then(|open| self.bytes.get(open..open + 2));
        if quotes == Some(b"\"\"") {
            Ok(())
        } else {
            Err(Error::BadHole { key: key.clone(), offset: at })
        }
    }

    pub(crate) fn splice(&self, revision: Revision) -> Bytes {
        match self.revision_at {
            Some(at) => splice(&self.bytes, at as usize..at as usize, revision),
            None => self.bytes.clone(),
        }
    }
}

// === impl Entry ===

impl Entry {
    /// Where in `value` the store wrote `mod_revision`.
    pub fn revision_span(&self) -> Option<Range<usize>> {
        self.hole.map(|at| at as usize..at as usize + self.mod_revision.digits())
    }

    /// The value as it reads at another revision: what a DELETED event shows.
    pub fn at_revision(&self, revision: Revision) -> Bytes {
        match self.revision_span() {
            Some(span) if revision != self.mod_revision => splice(&self.value, span, revision),
            _ => self.value.clone(),
        }
    }

    /// The same version with another value: what a layer above shows of bytes that it keeps in another form. The
    /// value's hole gets the revision that this version has.
    pub fn with_value(&self, value: Value) -> Result<Entry, Error> {
        value.check(&self.key)?;
        Ok(Entry {
            key: self.key.clone(),
            value: value.splice(self.mod_revision),
            hole: value.revision_at,
            create_revision: self.create_revision,
            mod_revision: self.mod_revision,
            version: self.version,
            note: self.note.clone(),
            heartbeat: self.heartbeat,
        })
    }

    /// A deleted key's last version has no value of its own.
    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }

    /// Roughly what keeping this version costs, in bytes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Entry>() + self.key.len() + self.value.len() + self.note.len()
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{} ({} bytes)", self.key, self.mod_revision, self.value.len())
    }
}

// === impl Event ===

impl Event {
    pub fn key(&self) -> &Key {
        &self.entry.key
    }

    pub fn revision(&self) -> Revision {
        self.entry.mod_revision
    }

    /// The version that was replaced or deleted; none for a creation.
    pub fn previous(&self) -> Option<&Arc<Entry>> {
        self.replaced.as_ref().filter(|entry| !entry.is_tombstone())
    }

    /// The same step between entries of another form; tombstones stay as they are.
    pub fn map<E>(&self, form: impl Fn(&Arc<Entry>) -> Result<Arc<Entry>, E>) -> Result<Event, E> {
        let shown = |entry: &Arc<Entry>| match entry.is_tombstone() {
            true => Ok(entry.clone()),
            false => form(entry),
        };
        Ok(Event {
            kind: self.kind,
            entry: shown(&self.entry)?,
            replaced: self.replaced.as_ref().map(shown).transpose()?,
            at: self.at,
        })
    }

    /// The object a watcher is shown: the new state, or the last state under the deletion's revision.
    pub fn bytes(&self) -> Bytes {
        match (self.kind, self.previous()) {
            (EventKind::Delete, Some(last)) => last.at_revision(self.revision()),
            _ => self.entry.value.clone(),
        }
    }

    /// What only history still holds on to once this event is past, in bytes.
    pub(crate) fn weight(&self) -> usize {
        size_of::<Event>() + self.replaced.as_ref().map_or(0, |last| last.weight())
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?}", self.kind, self.entry)
    }
}

fn splice(bytes: &[u8], span: Range<usize>, revision: Revision) -> Bytes {
    let mut out = Vec::with_capacity(bytes.len() - span.len() + revision.digits());
    out.extend_from_slice(&bytes[..span.start]);
    out.extend_from_slice(revision.to_string().as_bytes());
    out.extend_from_slice(&bytes[span.end..]);
    out.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECT: &str = r#"{"metadata":{"resourceVersion":"","name":"web"}}"#;

    fn value() -> Value {
        let at = OBJECT.find(r#""","#).expect("the object has a hole") + 1;
        Value::with_revision_at(OBJECT, at as u32)
    }

    fn entry(revision: u64) -> Entry {
        let revision = Revision(revision);
        Entry {
            key: Key::from("/a"),
            value: value().splice(revision),
            hole: value().revision_at,
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            note: Bytes::new(),
            heartbeat: false,
        }
    }

    #[test]
    fn the_revision_is_spliced_into_the_hole() {
        let entry = entry(1234);
        assert_eq!(entry.value, r#"{"metadata":{"resourceVersion":"1234","name":"web"}}"#);
        assert_eq!(&entry.value[entry.revision_span().unwrap()], b"1234");
    }

    #[test]
    fn another_revision_replaces_it_whatever_its_length() {
        for other in [0, 7, 1234, 99999, u64::MAX] {
            let expected =
                format!(r#"{{"metadata":{{"resourceVersion":"{other}","name":"web"}}}}"#);
            assert_eq!(entry(1234).at_revision(Revision(other)), expected);
        }
    }

    #[test]
    fn another_form_of_a_version_keeps_its_revision() {
        let stored = Entry { value: "sealed".into(), hole: None, ..entry(1234) };
        let shown = stored.with_value(value()).expect("the hole is one");
        assert_eq!(shown.value, entry(1234).value);
        assert_eq!((shown.mod_revision, shown.version), (stored.mod_revision, stored.version));
    }

    #[test]
    fn a_value_without_a_hole_is_shared_not_copied() {
        let bytes = Bytes::from_static(b"plain");
        let spliced = Value::new(bytes.clone()).splice(Revision(5));
        assert_eq!(spliced.as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn a_hole_that_is_no_empty_string_is_refused() {
        let key = Key::from("/a");
        assert!(value().check(&key).is_ok());
        for at in [0, 1, OBJECT.len() as u32, u32::MAX] {
            let refused = Value::with_revision_at(OBJECT, at).check(&key);
            assert!(matches!(refused, Err(Error::BadHole { offset, .. }) if offset == at), "{at}");
        }
    }
}
