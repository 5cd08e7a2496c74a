//! Protobuf without a schema: field numbers and a best guess at what each field is.
//!
//! The recordings hold answers in this form, so that both sides are guessed at alike.

use serde_json::{Map, Value, json};

/// A length-delimited field: text, a message, or bytes.
pub fn decode(bytes: &[u8]) -> Value {
    if let Some(rest) = bytes.strip_prefix(b"k8s\0") {
        return json!({ "k8s": message(rest).unwrap_or_default() });
    }
    let text = std::str::from_utf8(bytes).ok();
    let plain =
        text.filter(|text| text.chars().all(|c| c >= ' ' || matches!(c, '\n' | '\t' | '\r')));
    if let Some(text) = plain.filter(|text| !text.starts_with('\n')) {
        if text.starts_with('{')
            && let Ok(value) = serde_json::from_str(text)
        {
            return value;
        }
        return text.into();
    }
    match (message(bytes), plain) {
        (Some(map), _) => Value::Object(map),
        (None, Some(text)) => text.into(),
        (None, None) => format!("hex:{}", hex(bytes)).into(),
    }
}

fn message(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut out = Map::new();
    let mut at = 0;
    while at < bytes.len() {
        let tag = varint(bytes, &mut at)?;
        let (wire, number) = (tag & 7, tag >> 3);
        if number == 0 {
            return None;
        }
        let value = match wire {
            0 => json!(varint(bytes, &mut at)?),
            1 => hex(take(bytes, &mut at, 8)?).into(),
            5 => hex(take(bytes, &mut at, 4)?).into(),
            2 => {
                let length = usize::try_from(varint(bytes, &mut at)?).ok()?;
                decode(take(bytes, &mut at, length)?)
            }
            _ => Value::Null,
        };
        if value.is_null() {
            return None;
        }
        let list = out.entry(number.to_string()).or_insert_with(|| json!([]));
        list.as_array_mut()?.push(value);
    }
    Some(out)
}

fn take<'b>(bytes: &'b [u8], at: &mut usize, length: usize) -> Option<&'b [u8]> {
    let part = bytes.get(*at..at.checked_add(length)?)?;
    *at += length;
    Some(part)
}

fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..=63).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 127).checked_shl(shift)?;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
