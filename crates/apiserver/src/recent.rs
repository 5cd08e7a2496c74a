//! A bounded map of what was asked for lately.
//!
//! Two generations: when the young one is full it becomes the old one, and what the old one held and nobody asked for is
//! forgotten. Invariant: never more than two generations.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

pub struct Recent<K, V> {
    generations: Mutex<Generations<K, V>>,
    size: usize,
}

struct Generations<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
}

impl<K, V> Recent<K, V> {
    /// `size` is that of one generation.
    pub fn of_size(size: usize) -> Recent<K, V> {
        let generations = Generations { young: HashMap::new(), old: HashMap::new() };
        Recent { generations: Mutex::new(generations), size }
    }

    fn lock(&self) -> MutexGuard<'_, Generations<K, V>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq, V: Clone> Recent<K, V> {
    pub fn get(&self, key: &K) -> Option<V> {
        let mut generations = self.lock();
        if let Some(found) = generations.young.get(key) {
            return Some(found.clone());
        }
        let (key, found) = generations.old.remove_entry(key)?;
        self.insert(&mut generations, key, found.clone());
        Some(found)
    }

    pub fn put(&self, key: K, value: V) {
        self.insert(&mut self.lock(), key, value);
    }

    fn insert(&self, generations: &mut Generations<K, V>, key: K, value: V) {
        if generations.young.len() >= self.size {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_stays_and_the_rest_is_forgotten() {
        let recent = Recent::of_size(2);
        recent.put("hot", 0);
        for (number, key) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            recent.put(key, number);
            assert_eq!(recent.get(&"hot"), Some(0), "after {key}");
        }
        assert_eq!((recent.get(&"f"), recent.get(&"a")), (Some(5), None));
        let generations = recent.lock();
        assert!(generations.young.len() + generations.old.len() <= 4);
    }
}
