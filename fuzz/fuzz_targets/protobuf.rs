//! A protobuf body of any kind: what is accepted survives being written as protobuf and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::codec::{Format, Target, decode, to_proto};

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = skiff_fuzz::kind(input) else { return };
    let Ok(read) = decode(body, Format::Protobuf, &Target::of(kind)) else { return };
    let bytes = to_proto(&read.object).expect("a built-in kind has a protobuf form");
    let again = decode(&bytes, Format::Protobuf, &Target::of(kind));
    assert_eq!(again.expect("what was written is read").object, read.object);
});
