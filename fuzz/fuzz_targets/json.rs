//! A JSON body of any kind: what is accepted can be written and read again, and stays the same.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::codec::{Format, Target, decode};

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = skiff_fuzz::kind(input) else { return };
    let Ok(read) = decode(body, Format::Json, &Target::of(kind)) else { return };
    let text = read.object.to_string();
    let again = decode(text.as_bytes(), Format::Json, &Target::of(kind));
    let again = again.expect("what was accepted is accepted again");
    assert_eq!(again.object, read.object);
    assert!(again.strict.is_empty(), "{:?}", again.strict);
});
