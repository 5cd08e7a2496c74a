//! Patches of three languages on an object of any kind: an answer or a fault, never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::codec::{Format, Target, decode};
use skiff_api::patch::{json, merge, strategic};

fuzz_target!(|input: &[u8]| {
    let Some((kind, parts)) = skiff_fuzz::kind(input) else { return };
    let Some((object, patch)) = skiff_fuzz::cut(parts) else { return };
    let Ok(read) = decode(object, Format::Json, &Target::of(kind)) else { return };
    let _ = json::apply(read.object.clone(), patch);
    let _ = merge::apply(read.object.clone(), patch);
    let _ = strategic::apply(read.object, patch, &kind.schema);
});
