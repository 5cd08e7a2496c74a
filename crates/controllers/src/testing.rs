//! How tests write objects down: as the YAML a user would; and chance that can be repeated.

use serde::de::DeserializeOwned;

/// Parses a test object. Panics on bad YAML, since the test itself is then wrong.
pub fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("bad test object: {error}\n{text}"))
}

/// Random numbers of a seed (xorshift), so that a failing run can be run again.
pub struct Dice(u64);

// === impl Dice ===

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % limit
    }
}
