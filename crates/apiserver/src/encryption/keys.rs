//! The data keys that the server keeps itself.
//!
//! A directory -> the keys that Secrets are sealed with, the current one first. The keys are in `secrets-encryption.json`
//! beside the store, each sealed in turn by `pki/secrets-encryption.key`: a copy of the store alone opens nothing.
//! Counterpart: the encryption configuration that k3s writes. Invariant: a key is on disk before anything is sealed with
//! it, and leaves it only when nothing is; this process opens with it until it ends, as reads that began before and
//! earlier revisions still meet it.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use super::EncryptionError;
use super::provider::{GcmKey, SealError};

const FILE: &str = "secrets-encryption.json";
const WRAPPING_KEY: &str = "pki/secrets-encryption.key";
const KEY_BYTES: usize = 32;

pub struct ManagedKeys {
    file: PathBuf,
    wrapping: GcmKey,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    /// Those on disk, the current one first.
    kept: Vec<DataKey>,
    /// Those that have left the disk since this process began.
    retired: Vec<DataKey>,
}

#[derive(Clone)]
struct DataKey {
    name: String,
    bytes: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    keys: Vec<Wrapped>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped {
    name: String,
    /// The key, sealed and in base64.
    wrapped: String,
}

impl ManagedKeys {
    /// Reads the keys, or makes the first one.
    pub fn open(data_dir: &Path) -> Result<ManagedKeys, EncryptionError> {
        if let Some(keys) = ManagedKeys::present(data_dir)? {
            return Ok(keys);
        }
        let path = data_dir.join(WRAPPING_KEY);
        let wrapping = match fs::read(&path) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
                let text = BASE64_STANDARD.encode(random()?).into_bytes();
                write(&path, &text)?;
                text
            }
            Err(source) => return Err(file_error(&path, source)),
        };
        let keys = ManagedKeys {
            file: data_dir.join(FILE),
            wrapping: wrapping_key(&path, &wrapping)?,
            keys: Mutex::default(),
        };
        keys.add()?;
        Ok(keys)
    }

    /// The keys, if there are any.
    pub fn present(data_dir: &Path) -> Result<Option<ManagedKeys>, EncryptionError> {
        let (file, path) = (data_dir.join(FILE), data_dir.join(WRAPPING_KEY));
        let text = match fs::read(&file) {
            Ok(text) => text,
            Err(missing) if missing.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(file_error(&file, source)),
        };
        let wrapping = fs::read(&path).map_err(|source| file_error(&path, source))?;
        let wrapping = wrapping_key(&path, &wrapping)?;
        let read: File = serde_json::from_slice(&text).map_err(|error| {
            EncryptionError::Malformed { path: file.clone(), reason: error.to_string() }
        })?;
        let unwrap = |one: Wrapped| {
            let sealed = BASE64_STANDARD.decode(&one.wrapped).map_err(|_| SealError::Broken)?;
            Ok(DataKey { bytes: wrapping.open(&sealed, &one.name)?, name: one.name })
        };
        let keys: Result<Vec<DataKey>, SealError> = read.keys.into_iter().map(unwrap).collect();
        let keys = Mutex::new(Keys { kept: keys?, retired: Vec::new() });
        Ok(Some(ManagedKeys { file, wrapping, keys }))
    }

    fn lock(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The keys ready for use, the current one first, those that are only good for opening last.
    pub fn opened(&self) -> Result<Vec<GcmKey>, SealError> {
        let keys = self.lock();
        let each = keys.kept.iter().chain(&keys.retired);
        each.map(|key| GcmKey::new(&key.name, &key.bytes)).collect()
    }

    /// Those on disk.
    pub fn names(&self) -> Vec<String> {
        self.lock().kept.iter().map(|key| key.name.clone()).collect()
    }

    /// Makes a new key the current one. It is on disk when this returns.
    pub fn add(&self) -> Result<(), EncryptionError> {
        let number = uuid::Uuid::new_v4().simple().to_string();
        let fresh = DataKey { name: format!("key-{}", &number[..8]), bytes: random()? };
        let mut keys = self.lock();
        let next: Vec<DataKey> = std::iter::once(fresh).chain(keys.kept.iter().cloned()).collect();
        self.save(&next)?;
        keys.kept = next;
        Ok(())
    }

    /// Takes every key but the current one from the disk: nothing may be sealed with the others any more.
    pub fn keep_current(&self) -> Result<(), EncryptionError> {
        let mut keys = self.lock();
        if keys.kept.len() > 1 {
            self.save(&keys.kept[..1])?;
            let retired = keys.kept.split_off(1);
            keys.retired.extend(retired);
        }
        Ok(())
    }

    fn save(&self, keys: &[DataKey]) -> Result<(), EncryptionError> {
        let wrap = |key: &DataKey| {
            let mut sealed = Vec::new();
            self.wrapping.seal(&mut sealed, &key.bytes, &key.name)?;
            Ok(Wrapped { name: key.name.clone(), wrapped: BASE64_STANDARD.encode(sealed) })
        };
        let keys: Result<Vec<Wrapped>, SealError> = keys.iter().map(wrap).collect();
        let text = serde_json::to_vec_pretty(&File { keys: keys? }).expect("names and texts");
        write(&self.file, &text)
    }
}

fn wrapping_key(path: &Path, text: &[u8]) -> Result<GcmKey, EncryptionError> {
    let text = String::from_utf8_lossy(text);
    let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|error| {
        EncryptionError::Malformed { path: path.to_owned(), reason: error.to_string() }
    })?;
    Ok(GcmKey::new("wrapping", &bytes)?)
}

fn random() -> Result<Vec<u8>, SealError> {
    let mut bytes = vec![0; KEY_BYTES];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError::Broken)?;
    Ok(bytes)
}

/// Whole, on the disk, and for the owner alone; a crash leaves the old file.
fn write(path: &Path, text: &[u8]) -> Result<(), EncryptionError> {
    let fresh = path.with_extension("new");
    let parent = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(parent)
        .and_then(|()| {
            let options = &mut fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)
        })
        .and_then(|mut file| {
            file.write_all(text)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&fresh, path))
        .and_then(|()| fs::File::open(parent)?.sync_all());
    written.map_err(|source| file_error(path, source))
}

fn file_error(path: &Path, source: io::Error) -> EncryptionError {
    EncryptionError::File { path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_kept_wrapped_and_private() {
        let dir = std::env::temp_dir().join(format!("skiff-keys-{}", uuid::Uuid::new_v4()));
        let keys = ManagedKeys::open(&dir).expect("made");
        keys.add().expect("added");
        let names = keys.names();
        let again = ManagedKeys::open(&dir).expect("read");
        assert_eq!((again.names(), names.len()), (names, 2));
        let text = fs::read_to_string(dir.join(FILE)).expect("there");
        let plain = BASE64_STANDARD.encode(&keys.lock().kept[0].bytes);
        assert!(!text.contains(&plain));
        for file in [FILE, WRAPPING_KEY] {
            let mode = fs::metadata(dir.join(file)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
        again.keep_current().expect("forgotten");
        assert_eq!(ManagedKeys::open(&dir).expect("read").names().len(), 1);
        fs::write(dir.join(WRAPPING_KEY), BASE64_STANDARD.encode([1; KEY_BYTES])).expect("written");
        assert!(matches!(ManagedKeys::open(&dir), Err(EncryptionError::Seal(SealError::Broken))));
        fs::remove_dir_all(&dir).expect("ours to remove");
    }
}
