//! Patches of three languages on an object of any kind: an answer or a fault, never a panic, and the answer can be stored.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::codec::{Format, Target, decode};
use skiff_api::patch::{Language, Patch, Strictness};

const LANGUAGES: [Language; 3] = [Language::Json, Language::Merge, Language::Strategic];
const STRICTNESS: [Strictness; 3] = [Strictness::Ignore, Strictness::Report, Strictness::Refuse];

fuzz_target!(|input: &[u8]| {
    let Some((kind, parts)) = skiff_fuzz::kind(input) else { return };
    let Some((how, parts)) = parts.split_first() else { return };
    let Some((object, patch)) = skiff_fuzz::cut(parts) else { return };
    let language = LANGUAGES[usize::from(how % 3)];
    let strictness = STRICTNESS[usize::from(how / 3 % 3)];
    let target = Target::of(kind);
    let Ok(patch) = Patch::read(language, patch, strictness) else { return };
    let Ok(read) = decode(object, Format::Json, &target) else { return };
    let Ok(patched) = patch.apply(read.object, &target) else { return };
    let text = patched.object.to_string();
    let again = decode(text.as_bytes(), Format::Json, &target);
    assert_eq!(again.expect("what a patch made is accepted").object, patched.object);
});
