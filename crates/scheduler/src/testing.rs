//! How tests write objects down: as the YAML a user would.

use serde::de::DeserializeOwned;

/// Parses a test object. Panics on bad YAML, since the test itself is then wrong.
pub fn yaml<T: DeserializeOwned>(text: &str) -> T {
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("bad test object: {error}\n{text}"))
}
