//! What is known about tokens that were seen lately, so that a hot one costs a hash and no signature check.
//!
//! SHA-256 of a token -> whatever its authenticator found out. Counterpart: `token/cache`. Invariant: no token is kept.

use sha2::{Digest, Sha256};

use crate::recent::Recent;

const GENERATION: usize = 4096;

pub struct TokenCache<V> {
    known: Recent<[u8; 32], V>,
}

impl<V> Default for TokenCache<V> {
    fn default() -> TokenCache<V> {
        TokenCache { known: Recent::of_size(GENERATION) }
    }
}

impl<V: Clone> TokenCache<V> {
    pub fn get(&self, token: &str) -> Option<V> {
        self.known.get(&Sha256::digest(token).into())
    }

    pub fn put(&self, token: &str, value: V) {
        self.known.put(Sha256::digest(token).into(), value);
    }
}
