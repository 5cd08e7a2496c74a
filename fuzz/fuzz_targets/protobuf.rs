//! A protobuf body of any kind: what is accepted settles when it is written as protobuf and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::{KindDef, Value};
use skiff_api::codec::{Format, Target, decode, to_proto};

fuzz_target!(|input: &[u8]| {
    let Some((kind, body)) = skiff_fuzz::kind(input) else { return };
    let Ok(read) = decode(body, Format::Protobuf, &Target::of(kind)) else { return };
    // The first way through protobuf may fill in structures that are never absent there.
    let once = through(&read.object, kind);
    assert_eq!(through(&once, kind), once);
});

fn through(object: &Value, kind: &KindDef) -> Value {
    let bytes = to_proto(object).expect("a built-in kind has a protobuf form");
    decode(&bytes, Format::Protobuf, &Target::of(kind)).expect("what was written is read").object
}
