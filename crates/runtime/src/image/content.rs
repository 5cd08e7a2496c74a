//! Blobs by digest: manifests, configs and layers as they are stored and travel.
//!
//! Consumes bytes from archives and registries, decides whether they are what their digest says,
//! emits files. Layout: `blobs/sha256/<hex>` (whole and verified), `ingest/<hex>` (on the way in; a
//! later try goes on where this one ended). Counterpart: containerd's content store.
//! Invariant: a file below `blobs` has the content its name promises.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, Weak},
    time::{Duration, SystemTime},
};

use sha2::{Digest, Sha256};

use super::reference::is_digest;
use crate::{
    error::{Error, IoContext, Result},
    files,
};

/// How long a download that was given up waits to be resumed.
const RESUMABLE_FOR: Duration = Duration::from_secs(3600);
const CHUNK: usize = 256 << 10;

pub(super) struct ContentStore {
    root: PathBuf,
    /// One writer per digest.
    writers: KeyedLocks,
}

/// A blob on its way in. Dropping it keeps what has come so far.
pub(super) struct Ingest {
    pub digest: String,
    file: File,
    partial: PathBuf,
    place: PathBuf,
    hash: Sha256,
    /// Bytes that are here.
    pub received: u64,
}

// === impl ContentStore ===

impl ContentStore {
    pub fn open(root: PathBuf) -> Result<Self> {
        for dir in ["blobs/sha256", "ingest"] {
            files::create_private_dir(&root.join(dir))?;
        }
        Ok(ContentStore { root, writers: KeyedLocks::default() })
    }

    pub fn has(&self, digest: &str) -> bool {
        self.path(digest).exists()
    }

    /// Where the blob is, or would be.
    pub fn path(&self, digest: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex(digest))
    }

    pub fn read(&self, digest: &str) -> Result<Vec<u8>> {
        fs::read(self.path(digest)).at("read image content", self.path(digest))
    }

    pub fn size(&self, digest: &str) -> Result<u64> {
        let found = fs::metadata(self.path(digest));
        Ok(found.at("measure image content", self.path(digest))?.len())
    }

    pub fn file(&self, digest: &str) -> Result<File> {
        File::open(self.path(digest)).at("open image content", self.path(digest))
    }

    /// Stores a document and answers its digest.
    pub fn put(&self, content: &[u8]) -> Result<String> {
        let digest = digest_of(content);
        if !self.has(&digest) {
            files::write_atomic(&self.path(&digest), content)?;
        }
        Ok(digest)
    }

    /// Stores what `input` yields under the digest it turns out to have.
    pub fn put_stream(&self, mut input: impl Read) -> Result<String> {
        let (mut file, scratch) = self.scratch()?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        loop {
            let read = input.read(&mut chunk).at("read an image layer into", &scratch)?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            file.write_all(&chunk[..read]).at("write", &scratch)?;
        }
        let digest = to_digest(hash.finalize().as_slice());
        self.adopt(&scratch, &digest)?;
        Ok(digest)
    }

    /// Makes a file of [`Self::scratch`] the blob it turned out to be.
    pub fn adopt(&self, scratch: &Path, digest: &str) -> Result<()> {
        fs::rename(scratch, self.path(digest)).at("move image content to", scratch)
    }

    /// A new file that is swept should its writer die.
    pub fn scratch(&self) -> Result<(File, PathBuf)> {
        let path = self.root.join("ingest").join(format!("new-{}", random_name()));
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        Ok((file.at("create", &path)?, path))
    }

    /// Waits until nobody else writes this blob.
    pub async fn lock(&self, digest: &str) -> tokio::sync::OwnedMutexGuard<()> {
        self.writers.of(digest).lock_owned().await
    }

    /// Begins a blob, or goes on with what an earlier try left. The caller holds its lock.
    pub fn ingest(&self, digest: &str) -> Result<Ingest> {
        if !is_digest(digest) {
            let reason = format!("{digest:?} is not a sha256 digest");
            return Err(Error::InvalidConfig { what: "image content", reason });
        }
        let partial = self.root.join("ingest").join(hex(digest));
        let options = || {
            fs::OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&partial)
        };
        let mut file = options().at("open", &partial)?;
        let mut hash = Sha256::new();
        let mut chunk = vec![0; CHUNK];
        let mut received = 0;
        loop {
            let read = file.read(&mut chunk).at("read", &partial)?;
            if read == 0 {
                break;
            }
            hash.update(&chunk[..read]);
            received += read as u64;
        }
        let (digest, place) = (digest.to_owned(), self.path(digest));
        Ok(Ingest { digest, file, partial, place, hash, received })
    }

    /// Deletes blobs that are not kept, and downloads nobody resumed.
    pub fn sweep(&self, keep: &HashSet<&str>) {
        sweep(&self.root.join("blobs/sha256"), |name, _| keep.contains(name));
        sweep(&self.root.join("ingest"), |name, found| {
            let recent = |at: SystemTime| at.elapsed().is_ok_and(|age| age < RESUMABLE_FOR);
            name.len() == 64 && found.modified().is_ok_and(recent)
        });
    }
}

// === impl Ingest ===

impl Ingest {
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.hash.update(bytes);
        self.received += bytes.len() as u64;
        Ok(())
    }

    /// Forgets what has come: the source begins anew.
    pub fn restart(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.hash = Sha256::new();
        self.received = 0;
        Ok(())
    }

    /// Makes it a blob if it is what was promised; throws it away if not.
    pub fn finish(self) -> Result<bool> {
        if to_digest(self.hash.finalize().as_slice()) != self.digest {
            fs::remove_file(&self.partial).at("remove", &self.partial)?;
            return Ok(false);
        }
        fs::rename(&self.partial, &self.place).at("move image content to", &self.place)?;
        Ok(true)
    }
}

// === KeyedLocks ===

/// A lock per name, for as long as somebody wants it.
#[derive(Default)]
pub(super) struct KeyedLocks(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl KeyedLocks {
    pub fn of(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }
}

/// Deletes the entries of `dir` that are not kept. What cannot be deleted now is tried again next
/// time.
pub(super) fn sweep(dir: &Path, keep: impl Fn(&str, &fs::Metadata) -> bool) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let Ok(found) = entry.metadata() else { continue };
        if entry.file_name().to_str().is_some_and(|name| keep(name, &found)) {
            continue;
        }
        let path = entry.path();
        let removed =
            if found.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove unused image content");
        }
    }
}

pub(super) fn digest_of(content: &[u8]) -> String {
    to_digest(Sha256::digest(content).as_slice())
}

pub(super) fn to_digest(hash: &[u8]) -> String {
    hash.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

fn random_name() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
