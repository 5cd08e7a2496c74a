//! Control groups: one directory (v2) or one per controller (v1) for each container.
//!
//! Consumes a path and CRI resources, decides which controller files say so, emits a [`Handle`]
//! that needs no further detection: the shim kills, watches and lets processes join through it.
//! Counterpart: runc's `libcontainer/cgroups/fs` and `fs2`. A hybrid layout counts as v1 if
//! controllers are mounted there.
//! Degrades: a controller this machine lacks is skipped; one that refuses a limit it was asked for
//! is an error.

mod devices;
mod pods;
mod v1;
mod v2;

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

pub(crate) use devices::{DeviceKind, DeviceRule};
pub use pods::PodCgroups;

use crate::{
    cri::{LinuxContainerResources, Pressures},
    error::{Error, IoContext, Result},
};

const MOUNTS: &str = "/proc/self/mountinfo";
const LIMITING: [&str; 3] = ["cpu", "memory", "pids"];

/// The controllers of this machine, below the path all our groups live under.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    hierarchy: Hierarchy,
    root: PathBuf,
}

#[derive(Debug, Clone)]
enum Hierarchy {
    V1(Vec<v1::Controller>),
    V2(PathBuf),
}

/// One group, by its directories.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum Handle {
    V1(Vec<v1::GroupDir>),
    V2(PathBuf),
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Usage {
    pub cpu: Duration,
    pub memory_usage: u64,
    pub memory_working_set: u64,
    pub memory_rss: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    pub pressure: Option<Pressures>,
}

// === impl Cgroups ===

impl Cgroups {
    /// Looks at what is mounted; `root` is the path below each hierarchy that belongs to us (`/`
    /// for all of it).
    pub fn detect(root: &str) -> Result<Self> {
        let mounts = fs::read_to_string(MOUNTS).at("read", MOUNTS)?;
        let controllers = v1::controllers(&mounts);
        let hierarchy = match (controllers.is_empty(), v2::mount_point(&mounts)) {
            (false, _) => Hierarchy::V1(controllers),
            (true, Some(mount)) => Hierarchy::V2(mount),
            (true, None) => return Err(Error::NoCgroups),
        };
        Ok(Cgroups { hierarchy, root: relative(root) })
    }

    /// Creates the group and its parents. An existing one is fine.
    pub fn create(&self, path: &str) -> Result<Handle> {
        let path = self.root.join(relative(path));
        match &self.hierarchy {
            Hierarchy::V1(controllers) => v1::create(controllers, &path),
            Hierarchy::V2(mount) => v2::create(mount, &path),
        }?;
        Ok(self.handle_at(&path))
    }

    /// Controllers of common limits that our groups do not have: such limits are not kept here.
    pub fn missing(&self) -> Vec<&'static str> {
        let had: Vec<String> = match &self.hierarchy {
            Hierarchy::V1(controllers) => controllers.iter().flat_map(v1::names).collect(),
            Hierarchy::V2(mount) => v2::controllers(&mount.join(&self.root)),
        };
        LIMITING.into_iter().filter(|name| !had.iter().any(|had| had == name)).collect()
    }

    /// The handle of a group that may not exist.
    pub fn handle(&self, path: &str) -> Handle {
        self.handle_at(&self.root.join(relative(path)))
    }

    fn handle_at(&self, path: &Path) -> Handle {
        match &self.hierarchy {
            Hierarchy::V1(controllers) => Handle::V1(v1::group(controllers, path)),
            Hierarchy::V2(mount) => Handle::V2(mount.join(path)),
        }
    }
}

fn relative(path: &str) -> PathBuf {
    path.trim_start_matches('/').into()
}

// === impl Handle ===

impl Handle {
    pub fn apply(&self, resources: &LinuxContainerResources) -> Result<()> {
        match self {
            Handle::V1(dirs) => v1::apply(dirs, resources),
            Handle::V2(dir) => v2::apply(dir, resources),
        }
    }

    pub fn restrict_devices(&self, rules: &[DeviceRule]) -> Result<()> {
        match self {
            Handle::V1(dirs) => v1::restrict_devices(dirs, rules),
            Handle::V2(dir) => v2::restrict_devices(dir, rules),
        }
    }

    /// Moves the calling process in. A hierarchy without the group is skipped: its controller was
    /// not there.
    pub fn join(&self) -> io::Result<()> {
        for dir in self.dirs() {
            match write(&dir.join("cgroup.procs"), "0") {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// The same, for one who comes later. The container may have moved its processes into groups it made below, and
    /// v2 takes no process beside such groups: then it goes where the container's first process is.
    pub fn join_beside(&self, first: i32) -> io::Result<()> {
        match (self.join(), self) {
            (Err(error), Handle::V2(dir)) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                v2::join_group_of(dir, first)
            }
            (result, _) => result,
        }
    }

    /// Every process in the group and the groups below it. On v1 any hierarchy tells: processes
    /// join all of them.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for dir in self.dirs().take(1) {
            walk(dir, &mut |dir| {
                let listed = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
                found.extend(
                    listed
                        .lines()
                        .filter_map(|line| line.parse::<i32>().ok())
                        .filter(|pid| *pid > 0),
                );
            });
        }
        found
    }

    /// Kills until nobody is left to fork, for at most a second of trying. Where the kernel can kill a group at once
    /// (v2 since 5.14), nobody gets the time to fork, and signals are only sent to what came in since.
    pub fn kill_all(&self) {
        if let Handle::V2(dir) = self {
            // An older kernel has no such file.
            let _ = write(&dir.join("cgroup.kill"), "1");
        }
        for attempt in 0..100 {
            let processes = self.processes();
            if processes.is_empty() {
                return;
            }
            for pid in processes {
                // Gone already is as good as killed.
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(if attempt < 10 { 1 } else { 10 }));
        }
    }

    pub fn oom_kills(&self) -> u64 {
        match self {
            Handle::V1(dirs) => v1::oom_kills(dirs),
            Handle::V2(dir) => keyed(dir, "memory.events", "oom_kill"),
        }
    }

    pub fn usage(&self) -> Usage {
        match self {
            Handle::V1(dirs) => v1::usage(dirs),
            Handle::V2(dir) => v2::usage(dir),
        }
    }

    /// Removes the group and those below. One that still has processes stays.
    pub fn remove(&self) {
        self.dirs().for_each(remove_dirs);
    }

    fn dirs(&self) -> impl Iterator<Item = &Path> {
        let (v1, v2): (&[v1::GroupDir], _) = match self {
            Handle::V1(dirs) => (dirs, None),
            Handle::V2(dir) => (&[], Some(dir.as_path())),
        };
        v1.iter().map(|dir| dir.path.as_path()).chain(v2)
    }
}

/// Children first, as rmdir needs them. The kernel releases a group a moment after its last
/// process.
fn remove_dirs(dir: &Path) {
    for child in children(dir) {
        remove_dirs(&child);
    }
    for _ in 0..50 {
        match fs::remove_dir(dir) {
            Err(error) if error.raw_os_error() == Some(nix::libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(1));
            }
            _ => return,
        }
    }
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path)) {
    visit(dir);
    for child in children(dir) {
        walk(&child, visit);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn number(dir: &Path, file: &str) -> u64 {
    fs::read_to_string(dir.join(file)).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The value behind `key` in a file of `key value` lines.
fn keyed(dir: &Path, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(dir.join(file)).unwrap_or_default();
    let value = |line: &str| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok();
    text.lines().find_map(value).unwrap_or(0)
}

/// Writes a limit. A file that is missing belongs to a controller this kernel lacks.
fn set(dir: &Path, file: &str, value: impl std::fmt::Display) -> Result<()> {
    let path = dir.join(file);
    match write(&path, &value.to_string()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("set cgroup limit", path),
    }
}

/// Without creating: cgroupfs answers that with "permission denied" where "not found" is meant.
fn write(path: &Path, value: &str) -> io::Result<()> {
    fs::OpenOptions::new().write(true).open(path)?.write_all(value.as_bytes())
}
