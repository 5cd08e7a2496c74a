//! What steps of earlier builds made.
//!
//! Consumes keys, which name a step and all it depends on, emits the layer the step made. One file
//! beside the images' records. Counterpart: BuildKit's cache, `type=local`.
//! Invariant: an entry whose blob is gone does not count; entries keep their blobs from collection
//! until they are forgotten.

use std::{collections::BTreeMap, path::PathBuf, sync::Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    files,
    image::{content::digest_of, store::LayerBlob},
};

/// More steps than this are not remembered; the longest unused goes first.
const CAPACITY: usize = 1000;

pub(crate) struct BuildCache {
    path: PathBuf,
    entries: Mutex<BTreeMap<String, Entry>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub layer: LayerBlob,
    /// When the step was run; an image made of remembered steps is as old as they are.
    pub made: Timestamp,
    used: Timestamp,
}

// === impl BuildCache ===

impl BuildCache {
    pub fn open(path: PathBuf) -> Result<Self> {
        let entries = files::read_json(&path)?.unwrap_or_default();
        Ok(BuildCache { path, entries: Mutex::new(entries) })
    }

    pub fn find(&self, key: &str, present: impl Fn(&str) -> bool) -> Option<Entry> {
        let mut entries = self.lock();
        let entry = entries.get_mut(key)?;
        if !present(&entry.layer.digest) {
            entries.remove(key);
            return None;
        }
        entry.used = Timestamp::now();
        Some(entry.clone())
    }

    pub fn remember(&self, key: String, layer: LayerBlob) -> Result<Entry> {
        let now = Timestamp::now();
        let entry = Entry { layer, made: now, used: now };
        let mut entries = self.lock();
        entries.insert(key, entry.clone());
        while entries.len() > CAPACITY {
            let oldest = entries.iter().min_by_key(|(_, entry)| entry.used);
            let oldest = oldest.map(|(key, _)| key.clone()).expect("there are many");
            entries.remove(&oldest);
        }
        files::write_json(&self.path, &*entries)?;
        Ok(entry)
    }

    pub fn forget(&self) -> Result<()> {
        let mut entries = self.lock();
        entries.clear();
        files::write_json(&self.path, &*entries)
    }

    pub fn blobs(&self) -> Vec<String> {
        self.lock().values().map(|entry| entry.layer.digest.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Names a step by everything it depends on.
pub(crate) fn key(parts: &[&str]) -> String {
    // Lengths keep `ab`, `c` apart from `a`, `bc`.
    let text: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    digest_of(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_known_again_until_its_layer_is_gone() {
        let path = std::env::temp_dir().join(format!("skiff-cache-{}.json", std::process::id()));
        let layer = LayerBlob { digest: "sha256:a".into(), diff_id: "sha256:b".into() };
        let cache = BuildCache::open(path.clone()).unwrap();
        let step = key(&["base", "RUN x"]);
        assert!(cache.find(&step, |_| true).is_none());
        let made = cache.remember(step.clone(), layer).unwrap().made;
        let again = BuildCache::open(path.clone()).unwrap();
        assert_eq!(again.find(&step, |_| true).unwrap().made, made);
        assert_eq!(again.blobs(), ["sha256:a"]);
        assert!(again.find(&step, |_| false).is_none());
        assert!(again.find(&step, |_| true).is_none(), "it was forgotten");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn keys_tell_steps_apart() {
        assert_ne!(key(&["ab", "c"]), key(&["a", "bc"]));
        assert_eq!(key(&["a"]), key(&["a"]));
    }
}
