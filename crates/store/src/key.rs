//! Keys and the intervals of keys that reads and watches name.
//!
//! A key is a path such as `/registry/pods/default/web-0`; order is byte order. Counterpart: etcd's `key`/`range_end`
//! pairs. Invariant: a [`KeyRange`] is half open, so neighbouring ranges never share a key.

use std::borrow::Borrow;
use std::fmt;
use std::ops::{Bound, Deref};
use std::sync::Arc;

/// A key: cheap to clone, ordered by its bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

/// The keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KeyRange {
    pub start: Key,
    /// `None` reaches to the last key.
    pub end: Option<Key>,
}

// === impl Key ===

impl Key {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that sorts directly after this one: where a paged list goes on.
    pub fn successor(&self) -> Key {
        Key::from(format!("{}\0", self.0))
    }
}

impl Deref for Key {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Key {
    fn from(key: &str) -> Key {
        Key(key.into())
    }
}

impl From<String> for Key {
    fn from(key: String) -> Key {
        Key(key.into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl KeyRange ===

impl KeyRange {
    /// Every key.
    pub fn all() -> KeyRange {
        KeyRange { start: Key::from(""), end: None }
    }

    /// Exactly one key.
    pub fn single(key: impl Into<Key>) -> KeyRange {
        let start = key.into();
        let end = Some(start.successor());
        KeyRange { start, end }
    }

    /// Every key that begins with `prefix`.
    pub fn prefix(prefix: impl Into<Key>) -> KeyRange {
        let start = prefix.into();
        let end = after_prefix(&start).map(Key::from);
        KeyRange { start, end }
    }

    /// The rest of this range from `start` on, for the next page of a list.
    pub fn starting_at(self, start: impl Into<Key>) -> KeyRange {
        let start = start.into();
        KeyRange { start: start.max(self.start), end: self.end }
    }

    pub fn contains(&self, key: &str) -> bool {
        *self.start <= *key && self.end.as_ref().is_none_or(|end| *key < **end)
    }

    /// The prefix this range stands for, if it is one.
    pub fn as_prefix(&self) -> Option<&Key> {
        (after_prefix(&self.start).as_deref() == self.end.as_deref()).then_some(&self.start)
    }

    /// The key this range stands for, if it holds exactly one.
    pub fn as_single(&self) -> Option<&Key> {
        (self.end.as_deref()?.strip_prefix(&*self.start)? == "\0").then_some(&self.start)
    }

    /// An empty interval, written the wrong way round or not, has no bounds a map would accept.
    pub(crate) fn is_empty(&self) -> bool {
        self.end.as_ref().is_some_and(|end| *end <= self.start)
    }

    pub(crate) fn bounds(&self) -> (Bound<&str>, Bound<&str>) {
        let end = self.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        (Bound::Included(&self.start), end)
    }
}

/// The smallest string greater than everything beginning with `prefix`; none if nothing is.
fn after_prefix(prefix: &str) -> Option<String> {
    let mut head = prefix.to_owned();
    while let Some(last) = head.pop() {
        if let Some(next) = next_char(last) {
            head.push(next);
            return Some(head);
        }
    }
    None
}

/// The next scalar value; the surrogate gap is stepped over.
fn next_char(c: char) -> Option<char> {
    match c {
        '\u{d7ff}' => Some('\u{e000}'),
        c => char::from_u32(c as u32 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_its_children_and_nothing_beside_them() {
        let pods = KeyRange::prefix("/registry/pods/");
        for (key, held) in [
            ("/registry/pods/", true),
            ("/registry/pods/a", true),
            ("/registry/pods/\u{10ffff}", true),
            ("/registry/pods", false),
            ("/registry/pods0", false),
            ("/registry/podsx/a", false),
        ] {
            assert_eq!(pods.contains(key), held, "{key}");
        }
        assert_eq!(pods.as_prefix().map(Key::as_str), Some("/registry/pods/"));
        assert_eq!(pods.as_single(), None);
    }

    #[test]
    fn a_prefix_of_last_characters_has_no_end() {
        assert_eq!(after_prefix("\u{10ffff}\u{10ffff}"), None);
        assert_eq!(after_prefix("a\u{10ffff}").as_deref(), Some("b"));
        assert_eq!(after_prefix("\u{d7ff}").as_deref(), Some("\u{e000}"));
        assert_eq!(KeyRange::all().as_prefix().map(Key::as_str), Some(""));
    }

    #[test]
    fn a_single_key_is_recognised() {
        let one = KeyRange::single("/a");
        assert!(one.contains("/a") && !one.contains("/a\0") && !one.contains("/a/"));
        assert_eq!(one.as_single().map(Key::as_str), Some("/a"));
        assert_eq!(one.as_prefix(), None);
    }

    #[test]
    fn a_page_goes_on_after_its_last_key() {
        let rest = KeyRange::prefix("/a/").starting_at(Key::from("/a/b").successor());
        assert!(
            !rest.contains("/a/b")
                && rest.contains("/a/b\0")
                && rest.contains("/a/c")
                && !rest.contains("/b")
        );
        assert!(KeyRange::prefix("/a/").starting_at("/b").is_empty());
    }
}
