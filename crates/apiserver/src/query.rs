//! The query part of a request: decoded pairs and their typed readings.
//!
//! Options (`dryRun`, `fieldManager`, `limit`, ...) arrive here for most verbs; wording of refusals
//! as upstream's conversion gives it. Counterpart: `metav1.Convert_url_Values_To_v1_*Options`.

use skiff_api::Status;

/// Decoded `key=value` pairs in the order sent.
#[derive(Clone, Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    pub fn parse(raw: &str) -> Query {
        let pair = |part: &str| {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            (decode(key), decode(value))
        };
        Query(raw.split('&').filter(|part| !part.is_empty()).map(pair).collect())
    }

    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(have, _)| have == key).map(|(_, value)| value.as_str())
    }

    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(have, _)| have == key).map(|(_, value)| value.as_str())
    }

    /// The value, or empty text.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or("")
    }

    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// `?watch`, `?watch=1` and `?watch=true` are true; `0` and `false` are false.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key)
            .is_some_and(|value| !matches!(value.to_ascii_lowercase().as_str(), "0" | "false"))
    }

    pub fn optional_flag(&self, key: &str) -> Option<bool> {
        self.has(key).then(|| self.flag(key))
    }

    pub fn int(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.get(key) {
            None => Ok(None),
            Some(text) => text.parse().map(Some).map_err(|error| {
                Status::bad_request(format!(
                    "strconv.ParseInt: parsing {text:?}: {}",
                    number_fault(&error)
                ))
            }),
        }
    }
}

/// What Go's `strconv` says.
pub fn number_fault(error: &std::num::ParseIntError) -> &'static str {
    use std::num::IntErrorKind::{NegOverflow, PosOverflow};
    match error.kind() {
        PosOverflow | NegOverflow => "value out of range",
        _ => "invalid syntax",
    }
}

/// Percent decoding, with `+` for a space; what is no valid escape stays as it is.
pub fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'+' => out.push(b' '),
            b'%' => match escaped(bytes, at) {
                Some(byte) => {
                    out.push(byte);
                    at += 2;
                }
                None => out.push(b'%'),
            },
            byte => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Percent decoding of one path segment, where `+` is a plus.
pub fn decode_segment(text: &str) -> String {
    match text.contains('%') {
        true => decode(&text.replace('+', "%2B")),
        false => text.to_owned(),
    }
}

fn escaped(bytes: &[u8], at: usize) -> Option<u8> {
    let digits = bytes.get(at + 1..at + 3)?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded() {
        let query =
            Query::parse("labelSelector=a%3Db%2Cc&watch=1&x=a+b&dryRun=All&dryRun=None&bad=%zz");
        assert_eq!(query.text("labelSelector"), "a=b,c");
        assert!(query.flag("watch") && !query.flag("pretty"));
        assert_eq!(query.text("x"), "a b");
        assert_eq!(query.all("dryRun").count(), 2);
        assert_eq!(query.text("bad"), "%zz");
        assert_eq!(decode_segment("a+b%2Fc"), "a+b/c");
    }

    #[test]
    fn numbers_are_refused_in_gos_words() {
        let refused = Query::parse("limit=abc").int("limit").unwrap_err();
        assert_eq!(refused.message, r#"strconv.ParseInt: parsing "abc": invalid syntax"#);
        let empty = Query::parse("limit=").int("limit").unwrap_err();
        assert_eq!(empty.message, r#"strconv.ParseInt: parsing "": invalid syntax"#);
    }
}
