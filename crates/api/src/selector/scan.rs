//! Selects stored objects by their bytes: no tree is built for an object that does not match.
//!
//! JSON bytes -> labels and the few fields a selector names -> yes or no. Nested objects that no
//! pointer leads into are skipped over. Invariant: agrees with deciding on the decoded object.

use std::borrow::Cow;

use serde_json::Value;

use super::{Fields, Labels};

/// Decides on the bytes of objects.
pub struct Scanner<'a> {
    labels: &'a Labels,
    fields: &'a Fields,
}

impl<'a> Scanner<'a> {
    pub fn new(labels: &'a Labels, fields: &'a Fields) -> Scanner<'a> {
        Scanner { labels, fields }
    }

    /// Whether no object needs to be looked at.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    pub fn matches(&self, object: &[u8]) -> bool {
        if !self.labels.is_everything() {
            let labels = value_at(object, "/metadata/labels").map_or_else(Vec::new, entries);
            let label = |key: &str| {
                labels.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_ref())
            };
            if !self.labels.matches_by(label) {
                return false;
            }
        }
        self.fields.terms().iter().all(|term| {
            let instead = || value_at(object, term.instead.as_deref()?);
            let found = value_at(object, &term.pointer).or_else(instead);
            let found = found.map_or(Cow::Borrowed(term.absent), scalar_text);
            (found == term.value.as_str()) == term.equal
        })
    }
}

/// The bytes of the value a JSON pointer leads to; only through objects.
pub fn value_at<'b>(object: &'b [u8], pointer: &str) -> Option<&'b [u8]> {
    let mut value = object;
    for step in pointer.split('/').skip(1) {
        let step = match step.contains('~') {
            true => Cow::Owned(step.replace("~1", "/").replace("~0", "~")),
            false => Cow::Borrowed(step),
        };
        value = field(value, &step)?;
    }
    Some(value)
}

fn field<'b>(object: &'b [u8], name: &str) -> Option<&'b [u8]> {
    let mut cursor = Cursor::enter(object)?;
    while let Some((key, value)) = cursor.entry() {
        if text(key) == name {
            return Some(value);
        }
    }
    None
}

/// The entries of an object of texts.
fn entries(object: &[u8]) -> Vec<(Cow<'_, str>, Cow<'_, str>)> {
    let mut found = Vec::new();
    if let Some(mut cursor) = Cursor::enter(object) {
        while let Some((key, value)) = cursor.entry() {
            found.push((text(key), scalar_text(value)));
        }
    }
    found
}

fn scalar_text(value: &[u8]) -> Cow<'_, str> {
    match value {
        [b'"', ..] => text(value),
        b"null" => Cow::Borrowed(""),
        other => String::from_utf8_lossy(other),
    }
}

/// A quoted text without its quotes and escapes.
fn text(quoted: &[u8]) -> Cow<'_, str> {
    let inside = quoted.get(1..quoted.len().saturating_sub(1)).unwrap_or_default();
    match inside.contains(&b'\\') {
        false => String::from_utf8_lossy(inside),
        true => match serde_json::from_slice(quoted) {
            Ok(Value::String(text)) => Cow::Owned(text),
            _ => String::from_utf8_lossy(inside),
        },
    }
}

/// Walks the entries of one object.
struct Cursor<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    fn enter(object: &'b [u8]) -> Option<Cursor<'b>> {
        let mut cursor = Cursor { bytes: object, at: 0 };
        cursor.spaces();
        (cursor.peek()? == b'{').then(|| {
            cursor.at += 1;
            cursor
        })
    }

    /// The next key (quoted) and value.
    fn entry(&mut self) -> Option<(&'b [u8], &'b [u8])> {
        self.spaces();
        if self.peek()? == b',' {
            self.at += 1;
            self.spaces();
        }
        if self.peek()? != b'"' {
            return None;
        }
        let key = self.value()?;
        self.spaces();
        if self.peek()? != b':' {
            return None;
        }
        self.at += 1;
        self.spaces();
        Some((key, self.value()?))
    }

    /// The bytes of the value that starts here.
    fn value(&mut self) -> Option<&'b [u8]> {
        let start = self.at;
        let mut depth = 0_usize;
        loop {
            match self.peek()? {
                b'"' => self.skip_text()?,
                b'{' | b'[' => {
                    depth += 1;
                    self.at += 1;
                }
                b'}' | b']' => {
                    depth = depth.checked_sub(1)?;
                    self.at += 1;
                }
                _ if depth == 0 => self.skip_word(),
                _ => self.at += 1,
            }
            if depth == 0 {
                return self.bytes.get(start..self.at);
            }
        }
    }

    fn skip_text(&mut self) -> Option<()> {
        self.at += 1;
        loop {
            match self.peek()? {
                b'"' => {
                    self.at += 1;
                    return Some(());
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
    }

    fn skip_word(&mut self) {
        self.at += 1;
        while self.peek().is_some_and(|byte| !b",}] \t\r\n".contains(&byte)) {
            self.at += 1;
        }
    }

    fn spaces(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_whitespace()) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{kinds, mutation};

    #[test]
    fn bytes_and_trees_agree() {
        let kinds = kinds::builtin();
        let kind = kinds.get("", "v1", "configmaps").expect("served");
        let objects = [
            json!({"data": {"metadata": "{\"labels\":{\"a\":\"b\"}}"}, "metadata": {"name": "x"}}),
            json!({"metadata": {"annotations": {"labels": "a"}, "labels": {"a": "b", "c\n": "d\""}, "name": "y"}}),
            json!({"metadata": {"labels": {}, "name": "z", "namespace": "n"}, "spec": [1, {"a": [2]}]}),
        ];
        for selector in ["a=b", "a", "!a", "a!=b", "zz notin (q)"] {
            let labels = Labels::parse(selector).expect("valid");
            for field in ["", "metadata.name=y", "metadata.namespace!=n"] {
                let fields = Fields::parse(field, kind).expect("valid");
                for object in &objects {
                    let tree = labels.matches(crate::meta::meta(object).labels())
                        && fields.matches(object);
                    for bytes in [object.to_string(), format!("{object:#}")] {
                        let found = Scanner::new(&labels, &fields).matches(bytes.as_bytes());
                        assert_eq!(found, tree, "{selector} {field} {bytes}");
                    }
                }
            }
        }
    }

    #[test]
    fn damaged_bytes_never_panic() {
        let labels = Labels::parse("a=b").expect("valid");
        let fields = Fields::default();
        let seed = br#"{"metadata":{"labels":{"a":"b\"","c":[1,{}]}},"x":null}"#;
        mutation::each(seed, 10_000, |bytes| {
            Scanner::new(&labels, &fields).matches(bytes);
        });
    }
}
