//! What the fuzz targets share: how an input is cut into parts, and which kinds it may be about.

use std::sync::{Arc, LazyLock};

use skiff_api::KindDef;

/// Parts of an input are separated by this byte, which no JSON, YAML or selector contains.
pub const SEPARATOR: u8 = 0;

static KINDS: LazyLock<Vec<Arc<KindDef>>> =
    LazyLock::new(|| skiff_api::kinds::builtin().iter().cloned().collect());

/// The kind an input's first byte chooses, and the rest of the input.
pub fn kind(input: &[u8]) -> Option<(&'static KindDef, &[u8])> {
    let (choice, rest) = input.split_first()?;
    Some((&KINDS[usize::from(*choice) % KINDS.len()], rest))
}

/// Which byte chooses a kind; for seeds.
pub fn choice(api_version: &str, kind: &str) -> Option<u8> {
    let at = KINDS
        .iter()
        .position(|known| known.kind == kind && known.api_version() == api_version)?;
    u8::try_from(at).ok()
}

/// The input up to the first separator, and what follows it.
pub fn cut(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = input.iter().position(|byte| *byte == SEPARATOR)?;
    Some((&input[..at], &input[at + 1..]))
}
