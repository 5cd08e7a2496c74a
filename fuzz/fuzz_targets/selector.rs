//! Label and field selectors on an object: deciding by its bytes and by the decoded object agree.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use skiff_api::selector::{Fields, Labels, Scanner};

fuzz_target!(|input: &[u8]| {
    let Some((kind, parts)) = skiff_fuzz::kind(input) else { return };
    let Some((selectors, object)) = skiff_fuzz::cut(parts) else { return };
    let Ok(selectors) = std::str::from_utf8(selectors) else { return };
    let (labels, fields) = selectors.split_once('|').unwrap_or((selectors, ""));
    let (Ok(labels), Ok(fields)) = (Labels::parse(labels), Fields::parse(fields, kind)) else {
        return;
    };
    let scanned = Scanner::new(&labels, &fields).matches(object);
    let Ok(object) = serde_json::from_slice::<Value>(object) else { return };
    // The server stores what it wrote itself: keys once, labels texts.
    if !is_stored(&object) {
        return;
    }
    let text = object.to_string();
    let decided = labels.matches(label_map(&object)) && fields.matches(&object);
    assert_eq!(Scanner::new(&labels, &fields).matches(text.as_bytes()), decided, "{text}");
    let _ = scanned;
});

fn label_map(object: &Value) -> Option<&serde_json::Map<String, Value>> {
    object.pointer("/metadata/labels").and_then(Value::as_object)
}

fn is_stored(object: &Value) -> bool {
    object.is_object()
        && label_map(object).is_none_or(|labels| labels.values().all(Value::is_string))
}
