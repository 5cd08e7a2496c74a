//! Objects -> the bytes that are stored and sent.
//!
//! An object is written once, with a hole where the store puts the revision it commits under; lists
//! and watch events are put together around such bytes without looking into them. Invariant: the
//! bytes of a stored object are compact JSON, so `}` ends them.

use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

use super::complete::complete;
use crate::kind::KindDef;

/// An object as the store takes it.
#[derive(Clone, Debug)]
pub struct EncodedObject {
    pub bytes: Bytes,
    /// Offset inside of the empty text `"resourceVersion":""` where the revision belongs.
    pub revision_at: Option<u32>,
}

/// What a list says about itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct ListHead<'a> {
    pub api_version: &'a str,
    pub kind: &'a str,
    pub resource_version: &'a str,
    pub continue_token: &'a str,
    pub remaining: Option<i64>,
    /// Lists of custom resources say `"continue":""` too, as upstream's untyped lists do.
    pub custom: bool,
}

/// Encodes an object for the store: completed, in the kind's version, its own revision left open.
pub fn encode(object: &mut Value, kind: &KindDef) -> EncodedObject {
    complete(object, &kind.schema);
    encode_as_is(object)
}

/// Encodes a complete object, its own revision left open.
pub fn encode_as_is(object: &mut Value) -> EncodedObject {
    const HOLE: &[u8] = b"\"resourceVersion\":\"";
    let Some(meta) = crate::meta::meta_mut(object) else {
        return EncodedObject { bytes: to_json(object), revision_at: None };
    };
    meta.insert("resourceVersion".to_owned(), "".into());
    let before = meta_offset(object);
    let bytes = to_json(object);
    // Labels and annotations may hold the same text; own fields of metadata are found by walking.
    let revision_at =
        before.and_then(|from| own_field(&bytes, from, HOLE)).and_then(|at| u32::try_from(at).ok());
    EncodedObject { bytes, revision_at }
}

/// Compact JSON.
pub fn to_json<T: Serialize + ?Sized>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("a JSON value can be written"))
}

/// JSON with two spaces of indentation, as `?pretty=1` asks for.
pub fn to_json_pretty(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec_pretty(value).expect("a JSON value can be written"))
}

/// A list around items that are encoded already.
pub fn list_json<'b>(head: &ListHead<'_>, items: impl IntoIterator<Item = &'b [u8]>) -> Bytes {
    let mut out = Vec::from(list_head(head));
    for (at, item) in items.into_iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(item);
    }
    out.extend_from_slice(b"]}");
    Bytes::from(out)
}

/// The beginning of a list, up to its first item; `]}` ends it.
pub fn list_head(head: &ListHead<'_>) -> Bytes {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(b"{\"kind\":");
    push_json(&mut out, head.kind);
    out.extend_from_slice(b",\"apiVersion\":");
    push_json(&mut out, head.api_version);
    out.extend_from_slice(b",\"metadata\":{");
    let mut first = true;
    let mut field = |out: &mut Vec<u8>, name: &str, text: &str| {
        if !std::mem::take(&mut first) {
            out.push(b',');
        }
        push_json(out, name);
        out.push(b':');
        out.extend_from_slice(text.as_bytes());
    };
    if head.custom || !head.continue_token.is_empty() {
        field(&mut out, "continue", &json_text(head.continue_token));
    }
    if let Some(remaining) = head.remaining {
        field(&mut out, "remainingItemCount", &remaining.to_string());
    }
    if !head.resource_version.is_empty() {
        field(&mut out, "resourceVersion", &json_text(head.resource_version));
    }
    out.extend_from_slice(b"},\"items\":[");
    Bytes::from(out)
}

/// Appends one line of a JSON watch: `{"type":"ADDED","object":...}`. The event's name needs no escapes.
pub fn watch_json(event: &str, object: &[u8], out: &mut Vec<u8>) {
    out.reserve(object.len() + event.len() + 24);
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(event.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
}

fn push_json(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(json_text(text).as_bytes());
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("text can be written")
}

/// Where `"metadata":` starts in the encoding: the length of everything written before it.
fn meta_offset(object: &Value) -> Option<usize> {
    let map = object.as_object()?;
    let before = map.iter().take_while(|(name, _)| *name != "metadata");
    let length = |(name, value): (&String, &Value)| {
        // Both with their separators `:` and `,`.
        json_text(name).len() + 1 + serde_json::to_string(value).map_or(0, |text| text.len()) + 1
    };
    Some(1 + before.map(length).sum::<usize>() + "\"metadata\":".len())
}

/// The offset behind `field` among the fields of the object that starts at `from`.
fn own_field(bytes: &[u8], from: usize, field: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    let mut at = from;
    while at < bytes.len() {
        match bytes[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1).filter(|left| *left > 0)?,
            b'"' => {
                if depth == 1 && bytes[at..].starts_with(field) {
                    return Some(at + field.len());
                }
                at = end_of_text(bytes, at)?;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The closing quote of the text that opens at `at`.
fn end_of_text(bytes: &[u8], at: usize) -> Option<usize> {
    let mut end = at + 1;
    loop {
        match bytes.get(end)? {
            b'"' => return Some(end),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_hole_is_the_objects_own() {
        let mut object = json!({
            "apiVersion": "v1",
            "data": {"resourceVersion": "", "x": "\"resourceVersion\":\""},
            "metadata": {
                "annotations": {"resourceVersion": ""},
                "name": "\\\"",
                "ownerReferences": [{"resourceVersion": ""}],
                "resourceVersion": "12",
            },
        });
        let encoded = encode_as_is(&mut object);
        let at = encoded.revision_at.expect("there is a hole") as usize;
        let mut bytes = encoded.bytes.to_vec();
        bytes.splice(at..at, *b"77");
        let read: Value = serde_json::from_slice(&bytes).expect("still JSON");
        assert_eq!(read["metadata"]["resourceVersion"], "77");
        assert_eq!(read["metadata"]["annotations"]["resourceVersion"], "");
    }

    #[test]
    fn lists_and_events_are_put_around_bytes() {
        let head = ListHead {
            api_version: "v1",
            kind: "PodList",
            resource_version: "5",
            remaining: Some(2),
            continue_token: "t",
            custom: false,
        };
        let list = list_json(&head, [&b"{\"a\":1}"[..], b"{\"b\":2}"]);
        let read: Value = serde_json::from_slice(&list).expect("JSON");
        assert_eq!(read["items"], json!([{"a": 1}, {"b": 2}]));
        let meta = json!({"continue": "t", "remainingItemCount": 2, "resourceVersion": "5"});
        assert_eq!(read["metadata"], meta);
        let mut lines = Vec::new();
        watch_json("ADDED", b"{}", &mut lines);
        watch_json("DELETED", b"{}", &mut lines);
        let expected = "{\"type\":\"ADDED\",\"object\":{}}\n{\"type\":\"DELETED\",\"object\":{}}\n";
        assert_eq!(String::from_utf8_lossy(&lines), expected);
    }
}
