//! The disk as the store sees it: named files in one directory, written by offset, durable once synced.
//!
//! Small, so that tests run the same engine on a disk that crashes, tears writes and fills up. Assumptions about the
//! medium: a synced write survives power loss; an unsynced one may be there in whole, in part (by sectors, in any order)
//! or not at all; a rename happens or does not; names are durable once [`Disk::sync_names`] returns.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::OpenError;

pub trait Disk: Send + Sync + 'static {
    fn list(&self) -> io::Result<Vec<String>>;
    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>>;
    /// Makes a new, empty file, with room set aside so that writing to it need not look for any.
    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>>;
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations, renames and removals durable.
    fn sync_names(&self) -> io::Result<()>;
}

pub trait DiskFile: Send {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    /// Drops everything from `len` on; reads as zeros up to `reserve`, where room is set aside anew.
    fn cut(&mut self, len: u64, reserve: u64) -> io::Result<()>;
}

/// A directory, held by one process at a time.
pub struct Directory {
    path: PathBuf,
    /// Held for its lock, and to sync the names in it.
    handle: File,
    _lock: File,
}

/// Keeps nothing: a store on it lives in memory alone.
pub struct NoDisk;

struct NoFile;

/// A file with room for what is still to be written.
///
/// Room that was only set aside costs a sync its speed: file systems note of every part of it that it now holds data,
/// and that note has to be durable too. So zeros go ahead of the data, and a sync finds nothing but data to write.
struct Roomy {
    file: File,
    /// Everything before this has been written once.
    written: u64,
    /// Where the room ends.
    reserve: u64,
}

/// How far zeros are written ahead at a time.
const AHEAD: usize = 1 << 20;

// === impl Directory ===

impl Directory {
    /// Makes the directory if need be and locks it against other processes.
    pub fn lock(path: &Path) -> Result<Directory, OpenError> {
        let failed = |action: &str| {
            let action = format!("{action} {}", path.display());
            move |source| OpenError::Io { action, source }
        };
        make_durably(path).map_err(failed("create"))?;
        let lock = private().create(true).truncate(false).open(path.join("lock"));
        let lock = lock.map_err(failed("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::Locked { path: path.to_owned() });
            }
            Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
        }
        let handle = File::open(path).map_err(failed("open"))?;
        Ok(Directory { path: path.to_owned(), handle, _lock: lock })
    }
}

/// Makes a directory that is still there after power loss: each new name is synced in the directory that holds it.
fn make_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    make_durably(parent)?;
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => File::open(parent)?.sync_all(),
    }
}

/// The store holds Secrets: nobody else reads its files.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}

impl Disk for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = fs::read_dir(&self.path)?.map(|entry| entry.map(|entry| entry.file_name()));
        names.map(|name| name.map(|name| name.to_string_lossy().into_owned())).collect()
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Ok(Box::new(File::open(self.path.join(name))?))
    }

    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn DiskFile>> {
        let file = private().create(true).truncate(true).open(self.path.join(name))?;
        Ok(Box::new(Roomy::new(file, 0, reserve)?))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let file = private().open(self.path.join(name))?;
        let len = file.metadata()?.len();
        Ok(Box::new(Roomy { file, written: len, reserve: len }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.handle.sync_all()
    }
}

// === impl Roomy ===

impl Roomy {
    fn new(file: File, written: u64, reserve: u64) -> io::Result<Roomy> {
        set_aside(&file, reserve)?;
        Ok(Roomy { file, written, reserve })
    }

    /// Writes zeros ahead once data has come to where those before it end.
    fn go_ahead(&mut self, end: u64) -> io::Result<()> {
        static ZEROS: [u8; AHEAD] = [0; AHEAD];
        if end <= self.written {
            return Ok(());
        }
        let room = self.reserve.saturating_sub(end).min(AHEAD as u64);
        self.file.write_all_at(&ZEROS[..room as usize], end)?;
        self.written = end + room;
        Ok(())
    }
}

impl DiskFile for Roomy {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)?;
        self.go_ahead(offset + bytes.len() as u64)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn cut(&mut self, len: u64, reserve: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        set_aside(&self.file, reserve)?;
        (self.written, self.reserve) = (len, reserve);
        Ok(())
    }
}

/// Grows a file to `reserve` bytes of zeros that are already allocated. A file system that cannot do this writes a little
/// slower; one that is full says so now.
fn set_aside(file: &File, reserve: u64) -> io::Result<()> {
    if reserve == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, reserve as i64) {
        Err(nix::Error::EOPNOTSUPP) => Ok(()),
        result => result.map_err(io::Error::from),
    }
}

// === impl NoDisk ===

impl Disk for NoDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        Err(io::Error::new(io::ErrorKind::NotFound, name))
    }

    fn create(&self, _: &str, _: u64) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(NoFile))
    }

    fn open(&self, _: &str) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(NoFile))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
}

impl DiskFile for NoFile {
    fn write_at(&mut self, _: u64, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn cut(&mut self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_written_ahead_never_cover_data_nor_outlast_a_cut() {
        const PIECE: usize = 300 << 10;
        const RESERVE: usize = 3 << 20;
        let home = std::env::temp_dir().join(format!("skiff-store-disk-{}", std::process::id()));
        let disk = Directory::lock(&home).expect("nobody else holds it");
        let path = home.join("log");
        let mut file = disk.create("log", RESERVE as u64).expect("a file");
        let mut written = Vec::new();
        for piece in 1..=(RESERVE / PIECE) as u8 {
            file.write_at(written.len() as u64, &[piece; PIECE]).expect("written");
            written.extend_from_slice(&[piece; PIECE]);
            let found = fs::read(&path).expect("readable");
            assert_eq!(found.len(), RESERVE, "no zeros go beyond the room");
            assert!(found.starts_with(&written), "piece {piece} stands over one before it");
            assert!(found[written.len()..].iter().all(|byte| *byte == 0));
        }
        file.cut(10, 0).expect("cut");
        file.write_at(10, b"more").expect("written");
        assert_eq!(fs::read(&path).expect("readable"), [&written[..10], b"more"].concat());
        fs::remove_dir_all(home).expect("removed");
    }
}
