//! Two managers apply to an object of any kind: applying the same again comes to rest.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skiff_api::KindDef;
use skiff_api::apply::{Manager, apply, decode_config, track};
use skiff_api::codec::{Format, Target, decode};

fuzz_target!(|input: &[u8]| {
    let Some((kind, parts)) = skiff_fuzz::kind(input) else { return };
    let Some((object, config)) = skiff_fuzz::cut(parts) else { return };
    let Ok(read) = decode(object, Format::Json, &Target::of(kind)) else { return };
    let Ok((config, _)) = decode_config(config, kind) else { return };
    let mut live = read.object;
    track(kind, None, &mut live, &manager(kind, "creator"));
    let applier = manager(kind, "applier");
    let Ok(applied) = apply(kind, Some(&live), &config, &applier, true) else { return };
    let again = |live| {
        let applied = apply(kind, Some(live), &config, &applier, false);
        applied.expect("what was applied is no conflict").object
    };
    // The first apply of all may still note who owned what before it.
    let settled = again(&applied.object);
    assert_eq!(again(&settled), settled);
});

fn manager(kind: &KindDef, name: &str) -> Manager {
    Manager { name: name.to_owned(), api_version: kind.api_version(), ..Manager::default() }
}
