//! Which pod sandbox holds which address of the node's range.
//!
//! A sandbox id comes in, an address goes out, and an empty file named `<address>_<sandbox>` says so on disk: creating
//! and removing a name are single steps, so no crash leaves a half-written record. Counterpart: the host-local plugin.
//! Differs from upstream: the daemon is the only writer, so the directory is read once and needs no lock file.
//!
//! Invariant: an address has at most one holder, and one that was freed is handed out again as late as possible.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use ipnet::Ipv4Net;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no free pod address left in {range}")]
    Exhausted { range: Ipv4Net },
    #[error("invalid sandbox id {id:?}: must be 1 to 200 letters, digits, '-' or '.'")]
    InvalidSandboxId { id: String },
    #[error("pod range {range} is too small: it must leave room for a gateway and a pod")]
    RangeTooSmall { range: Ipv4Net },
    #[error("cannot record pod addresses in {path}")]
    Record {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// The allocator of one node's pod range.
#[derive(Debug)]
pub struct Ipam {
    range: Ipv4Net,
    dir: PathBuf,
    by_address: BTreeMap<Ipv4Addr, String>,
    by_sandbox: HashMap<String, Ipv4Addr>,
    /// The address handed out last.
    cursor: u32,
}

// === impl Ipam ===

impl Ipam {
    /// Reads the records under `dir`; records outside `range` are left over from another range and are removed.
    pub fn open(range: Ipv4Net, dir: &Path) -> Result<Self, Error> {
        if range.prefix_len() > 29 {
            return Err(Error::RangeTooSmall { range });
        }
        let failed = |source| Error::Record { path: dir.to_path_buf(), source };
        fs::create_dir_all(dir).map_err(failed)?;
        let mut ipam = Self {
            range,
            dir: dir.to_path_buf(),
            by_address: BTreeMap::new(),
            by_sandbox: HashMap::new(),
            cursor: u32::from(gateway(range)),
        };
        for entry in fs::read_dir(dir).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            ipam.load(&name.to_string_lossy())?;
        }
        ipam.cursor =
            ipam.by_address.keys().next_back().map_or(ipam.cursor, |last| u32::from(*last));
        Ok(ipam)
    }

    fn load(&mut self, name: &str) -> Result<(), Error> {
        let Some((address, sandbox)) = parse_record(name) else {
            return Ok(());
        };
        if !self.range.contains(&address) || self.by_sandbox.contains_key(sandbox) {
            return self.remove_record(address, sandbox);
        }
        self.by_address.insert(address, sandbox.to_string());
        self.by_sandbox.insert(sandbox.to_string(), address);
        Ok(())
    }

    pub fn gateway(&self) -> Ipv4Addr {
        gateway(self.range)
    }

    pub fn address_of(&self, sandbox: &str) -> Option<Ipv4Addr> {
        self.by_sandbox.get(sandbox).copied()
    }

    /// Every holder, by address.
    pub fn holders(&self) -> impl Iterator<Item = (Ipv4Addr, &str)> {
        self.by_address.iter().map(|(address, sandbox)| (*address, sandbox.as_str()))
    }

    /// The sandbox's address: the one it holds, or a free one.
    pub fn allocate(&mut self, sandbox: &str) -> Result<Ipv4Addr, Error> {
        check_sandbox_id(sandbox)?;
        if let Some(held) = self.address_of(sandbox) {
            return Ok(held);
        }
        let address = self.next_free().ok_or(Error::Exhausted { range: self.range })?;
        let path = self.dir.join(record_name(address, sandbox));
        File::create_new(&path).map_err(|source| Error::Record { path, source })?;
        self.by_address.insert(address, sandbox.to_string());
        self.by_sandbox.insert(sandbox.to_string(), address);
        self.cursor = u32::from(address);
        Ok(address)
    }

    /// Frees the sandbox's address, if it holds one.
    pub fn release(&mut self, sandbox: &str) -> Result<Option<Ipv4Addr>, Error> {
        let Some(address) = self.address_of(sandbox) else {
            return Ok(None);
        };
        self.remove_record(address, sandbox)?;
        self.by_sandbox.remove(sandbox);
        self.by_address.remove(&address);
        Ok(Some(address))
    }

    fn remove_record(&self, address: Ipv4Addr, sandbox: &str) -> Result<(), Error> {
        let path = self.dir.join(record_name(address, sandbox));
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(Error::Record { path, source })
            }
            _ => Ok(()),
        }
    }

    /// The first free address after the one handed out last, going round.
    fn next_free(&self) -> Option<Ipv4Addr> {
        let first = u32::from(self.gateway()) + 1;
        let last = u32::from(self.range.broadcast()) - 1;
        let after = self.cursor.clamp(first - 1, last) + 1;
        let mut candidates = (after..=last).chain(first..after).map(Ipv4Addr::from);
        candidates.find(|address| !self.by_address.contains_key(address))
    }
}

/// The first address of the range belongs to the bridge.
pub fn gateway(range: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(range.network()) + 1)
}

fn record_name(address: Ipv4Addr, sandbox: &str) -> String {
    format!("{address}_{sandbox}")
}

fn parse_record(name: &str) -> Option<(Ipv4Addr, &str)> {
    let (address, sandbox) = name.split_once('_')?;
    Some((address.parse().ok()?, sandbox))
}

fn check_sandbox_id(id: &str) -> Result<(), Error> {
    let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    if plain && (1..=200).contains(&id.len()) {
        Ok(())
    } else {
        Err(Error::InvalidSandboxId { id: id.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of this test's own, removed when the test ends.
    struct Dir(PathBuf);

    impl Dir {
        fn new(test: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("skiff-ipam-{}-{test}", std::process::id()));
            Self(path)
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn range(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_survives_a_restart_and_belongs_to_one_sandbox() {
        let dir = Dir::new("restart");
        let mut ipam = Ipam::open(range("10.42.0.0/24"), &dir.0).unwrap();
        let first = ipam.allocate("a").unwrap();
        assert_eq!(first, Ipv4Addr::new(10, 42, 0, 2));
        assert_eq!(ipam.allocate("a").unwrap(), first);
        assert_ne!(ipam.allocate("b").unwrap(), first);

        let mut reopened = Ipam::open(range("10.42.0.0/24"), &dir.0).unwrap();
        assert_eq!(reopened.address_of("a"), Some(first));
        assert_eq!(reopened.allocate("c").unwrap(), Ipv4Addr::new(10, 42, 0, 4));
    }

    #[test]
    fn a_freed_address_is_reused_last() {
        let dir = Dir::new("reuse");
        let mut ipam = Ipam::open(range("10.42.0.0/29"), &dir.0).unwrap();
        for id in ["a", "b", "c", "d", "e"] {
            ipam.allocate(id).unwrap();
        }
        assert!(matches!(ipam.allocate("f"), Err(Error::Exhausted { .. })));
        assert_eq!(ipam.release("b").unwrap(), Some(Ipv4Addr::new(10, 42, 0, 3)));
        assert_eq!(ipam.release("b").unwrap(), None);
        assert_eq!(ipam.release("a").unwrap(), Some(Ipv4Addr::new(10, 42, 0, 2)));
        assert_eq!(ipam.allocate("f").unwrap(), Ipv4Addr::new(10, 42, 0, 2));
        assert_eq!(ipam.allocate("g").unwrap(), Ipv4Addr::new(10, 42, 0, 3));
    }

    #[test]
    fn records_of_another_range_and_foreign_files_do_not_count() {
        let dir = Dir::new("foreign");
        Ipam::open(range("10.1.0.0/24"), &dir.0).unwrap().allocate("old").unwrap();
        File::create_new(dir.0.join("lock")).unwrap();
        let ipam = Ipam::open(range("10.2.0.0/24"), &dir.0).unwrap();
        assert_eq!(ipam.holders().count(), 0);
        assert!(!dir.0.join("10.1.0.2_old").exists());
        assert!(dir.0.join("lock").exists());
    }

    #[test]
    fn an_id_that_is_not_a_plain_name_is_refused() {
        let dir = Dir::new("id");
        let mut ipam = Ipam::open(range("10.42.0.0/24"), &dir.0).unwrap();
        for id in ["", "../x", "a/b", "a_b", "\0"] {
            assert!(matches!(ipam.allocate(id), Err(Error::InvalidSandboxId { .. })), "{id:?}");
        }
    }
}
