//! What is known about tokens that were seen lately, so that a hot one costs a hash and no signature check.
//!
//! SHA-256 of a token -> whatever its authenticator found out. Two generations: when the young one is full it becomes the
//! old one, and what the old one held and nobody asked for is forgotten. Counterpart: `token/cache`.
//! Invariant: no token is kept, and never more than two generations of hashes.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use sha2::{Digest, Sha256};

const GENERATION: usize = 4096;

type Hash = [u8; 32];

pub struct TokenCache<V> {
    generations: Mutex<Generations<V>>,
    size: usize,
}

struct Generations<V> {
    young: HashMap<Hash, V>,
    old: HashMap<Hash, V>,
}

impl<V> Default for TokenCache<V> {
    fn default() -> TokenCache<V> {
        TokenCache::of_size(GENERATION)
    }
}

impl<V> TokenCache<V> {
    fn of_size(size: usize) -> TokenCache<V> {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        TokenCache { generations: Mutex::new(generations), size }
    }

    fn lock(&self) -> MutexGuard<'_, Generations<V>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Clone> TokenCache<V> {
    pub fn get(&self, token: &str) -> Option<V> {
        let hash: Hash = Sha256::digest(token).into();
        let mut generations = self.lock();
        if let Some(found) = generations.young.get(&hash) {
            return Some(found.clone());
        }
        let found = generations.old.remove(&hash)?;
        self.insert(&mut generations, hash, found.clone());
        Some(found)
    }

    pub fn put(&self, token: &str, value: V) {
        let hash: Hash = Sha256::digest(token).into();
        self.insert(&mut self.lock(), hash, value);
    }

    fn insert(&self, generations: &mut Generations<V>, hash: Hash, value: V) {
        if generations.young.len() >= self.size {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(hash, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let cache = TokenCache::of_size(2);
        cache.put("hot", 0);
        for (number, token) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            cache.put(token, number);
            assert_eq!(cache.get("hot"), Some(0), "after {token}");
        }
        assert_eq!((cache.get("f"), cache.get("a")), (Some(5), None));
        let generations = cache.lock();
        assert!(generations.young.len() + generations.old.len() <= 4);
    }
}
