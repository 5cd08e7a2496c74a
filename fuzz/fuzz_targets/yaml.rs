//! A YAML body of any kind: what is accepted can be written as JSON and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::codec::{Format, Target, decode};

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = skiff_fuzz::kind(input) else { return };
    let Ok(read) = decode(body, Format::Yaml, &Target::of(kind)) else { return };
    let text = read.object.to_string();
    let again = decode(text.as_bytes(), Format::Json, &Target::of(kind));
    assert_eq!(again.expect("what was accepted is accepted again").object, read.object);
});
