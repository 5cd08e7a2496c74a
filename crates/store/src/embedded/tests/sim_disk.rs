//! A disk in memory that loses power: what was not synced may be there, be gone, or be there by halves.
//!
//! Keeps the promises of `disk.rs` and no more. Unsynced writes survive sector by sector, at random; unsynced
//! creations, renames and removals survive as a random prefix of the order they were made in.

use std::collections::BTreeMap;
use std::io::{self, Cursor, ErrorKind, Read};
use std::sync::{Arc, Mutex};

use super::super::disk::{Disk, DiskFile};
use super::Random;

const SECTOR: usize = 512;

#[derive(Clone, Default)]
pub struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Clone, Default)]
struct Sim {
    names: Names,
    durable_names: Names,
    unsynced_names: Vec<NameChange>,
    files: BTreeMap<u64, SimFile>,
    /// How many more changes until the power goes.
    steps_left: Option<u64>,
    /// What every sync and every reservation answers from now on.
    sync_fault: Option<ErrorKind>,
    space_fault: bool,
    changes: u64,
}

type Names = BTreeMap<String, u64>;

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Rename(String, String),
    Remove(String),
}

#[derive(Clone, Default)]
struct SimFile {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Cut(u64, u64),
}

struct SimHandle {
    disk: SimDisk,
    id: u64,
}

// === impl SimDisk ===

impl SimDisk {
    /// The power goes at the change after the next `steps`: that one may be torn, all later ones fail.
    pub fn lose_power_after(&self, steps: u64) {
        self.0.lock().unwrap().steps_left = Some(steps);
    }

    pub fn fail_syncs(&self, error: ErrorKind) {
        self.0.lock().unwrap().sync_fault = Some(error);
    }

    pub fn fill_up(&self) {
        self.0.lock().unwrap().space_fault = true;
    }

    /// How often anything was changed.
    pub fn changes(&self) -> u64 {
        self.0.lock().unwrap().changes
    }

    /// What is found when the power is back.
    pub fn after_power_loss(&self, random: &mut Random) -> SimDisk {
        let sim = self.0.lock().unwrap();
        let mut names = sim.durable_names.clone();
        let kept = random.below(sim.unsynced_names.len() as u64 + 1) as usize;
        sim.unsynced_names[..kept].iter().for_each(|change| change.apply(&mut names));
        let survivor = |(&id, file): (&u64, &SimFile)| (id, file.after_power_loss(random));
        let files = sim.files.iter().map(survivor).collect();
        let sim = Sim { names: names.clone(), durable_names: names, files, ..Sim::default() };
        SimDisk(Arc::new(Mutex::new(sim)))
    }

    /// The names of files that begin so, in order.
    pub fn named(&self, prefix: &str) -> Vec<String> {
        let sim = self.0.lock().unwrap();
        sim.names.keys().filter(|name| name.starts_with(prefix)).cloned().collect()
    }

    /// Changes a file behind the store's back.
    pub fn tamper(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut sim = self.0.lock().unwrap();
        let id = sim.names[name];
        let file = sim.files.get_mut(&id).unwrap();
        change(&mut file.now);
        file.durable = file.now.clone();
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        let sim = self.0.lock().unwrap();
        sim.files[&sim.names[name]].now.clone()
    }

    /// One change, unless the power is off.
    fn change<T>(&self, apply: impl FnOnce(&mut Sim) -> io::Result<T>) -> io::Result<T> {
        let mut sim = self.0.lock().unwrap();
        sim.changes += 1;
        match &mut sim.steps_left {
            Some(0) => return Err(io::Error::other("the power is off")),
            Some(left) => *left -= 1,
            None => {}
        }
        apply(&mut sim)
    }

    fn change_names(&self, change: NameChange) -> io::Result<()> {
        self.change(|sim| {
            change.apply(&mut sim.names);
            sim.unsynced_names.push(change);
            Ok(())
        })
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.named(""))
    }

    fn read(&self, name: &str) -> io::Result<Box<dyn Read + Send>> {
        let sim = self.0.lock().unwrap();
        let id = sim.names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(Cursor::new(sim.files[id].now.clone())))
    }

    fn create(&self, name: &str, reserve: u64) -> io::Result<Box<dyn DiskFile>> {
        let id = self.change(|sim| {
            if sim.space_fault {
                return Err(ErrorKind::StorageFull.into());
            }
            let id = sim.files.len() as u64;
            let mut file = SimFile::default();
            file.change(Change::Cut(0, reserve));
            sim.files.insert(id, file);
            let change = NameChange::Create(name.to_owned(), id);
            change.apply(&mut sim.names);
            sim.unsynced_names.push(change);
            Ok(id)
        })?;
        Ok(Box::new(SimHandle { disk: self.clone(), id }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn DiskFile>> {
        let id = *self.0.lock().unwrap().names.get(name).ok_or(ErrorKind::NotFound)?;
        Ok(Box::new(SimHandle { disk: self.clone(), id }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change_names(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.change_names(NameChange::Remove(name.to_owned()))
    }

    fn sync_names(&self) -> io::Result<()> {
        self.change(|sim| {
            sim.durable_names = sim.names.clone();
            sim.unsynced_names.clear();
            Ok(())
        })
    }
}

// === impl SimHandle ===

impl SimHandle {
    fn with(&self, apply: impl FnOnce(&mut SimFile)) -> io::Result<()> {
        self.disk.change(|sim| {
            apply(sim.files.get_mut(&self.id).expect("an open file exists"));
            Ok(())
        })
    }
}

impl DiskFile for SimHandle {
    /// A write at the moment the power goes still reaches the disk in part.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let torn = self.disk.0.lock().unwrap().steps_left == Some(0);
        let change = Change::Write(offset, bytes.to_vec());
        if torn {
            let mut sim = self.disk.0.lock().unwrap();
            sim.files.get_mut(&self.id).expect("an open file exists").change(change);
            return Err(io::Error::other("the power is off"));
        }
        self.with(|file| file.change(change))
    }

    fn sync(&mut self) -> io::Result<()> {
        if let Some(error) = self.disk.0.lock().unwrap().sync_fault {
            return Err(error.into());
        }
        self.with(|file| {
            file.durable = file.now.clone();
            file.unsynced.clear();
        })
    }

    fn cut(&mut self, len: u64, reserve: u64) -> io::Result<()> {
        self.with(|file| file.change(Change::Cut(len, reserve)))
    }
}

// === impl NameChange ===

impl NameChange {
    fn apply(&self, names: &mut Names) {
        match self {
            NameChange::Create(name, id) => drop(names.insert(name.clone(), *id)),
            NameChange::Remove(name) => drop(names.remove(name)),
            NameChange::Rename(from, to) => {
                if let Some(id) = names.remove(from) {
                    names.insert(to.clone(), id);
                }
            }
        }
    }
}

// === impl SimFile ===

impl SimFile {
    fn change(&mut self, change: Change) {
        change.apply(&mut self.now, || true);
        self.unsynced.push(change);
    }

    fn after_power_loss(&self, random: &mut Random) -> SimFile {
        let mut bytes = self.durable.clone();
        for change in &self.unsynced {
            match random.below(3) {
                0 => {}
                1 => change.apply(&mut bytes, || true),
                _ => change.apply(&mut bytes, || random.one_in(2)),
            }
        }
        SimFile { now: bytes.clone(), durable: bytes, unsynced: Vec::new() }
    }
}

// === impl Change ===

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>, mut sector_lands: impl FnMut() -> bool) {
        match self {
            Change::Cut(len, reserve) => {
                bytes.truncate(*len as usize);
                bytes.resize((*reserve).max(*len) as usize, 0);
            }
            Change::Write(offset, written) => {
                let start = *offset as usize;
                bytes.resize(bytes.len().max(start + written.len()), 0);
                let mut at = start;
                while at < start + written.len() {
                    let end = ((at / SECTOR + 1) * SECTOR).min(start + written.len());
                    if sector_lands() {
                        bytes[at..end].copy_from_slice(&written[at - start..end - start]);
                    }
                    at = end;
                }
            }
        }
    }
}
