//! The cgroup of a node, in every hierarchy this machine has.
//!
//! v1 mounts a hierarchy per controller, v2 one for all; a machine may have both. The node's
//! cgroup exists in each, and whoever is in one of them belongs to the node.
//! Invariant: removing never leaves the node's own subtree.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// One node's directories.
pub(crate) struct NodeCgroup {
    dirs: Vec<PathBuf>,
}

impl NodeCgroup {
    /// The cgroup at `path` in every mounted hierarchy.
    pub fn at(path: &str) -> NodeCgroup {
        let dirs = hierarchies().into_iter().map(|root| root.join(path.trim_start_matches('/')));
        NodeCgroup { dirs: dirs.collect() }
    }

    /// Makes the directories that can be made, and moves this process into a child for the
    /// daemon: v2 allows no process beside child groups.
    pub fn enter(&self, child: &str) -> io::Result<()> {
        let pid = std::process::id().to_string();
        for dir in &self.dirs {
            let own = dir.join(child);
            fs::create_dir_all(&own)?;
            inherit_cpuset(dir, &own);
            enable_controllers(dir);
            fs::write(own.join("cgroup.procs"), &pid)?;
        }
        Ok(())
    }

    /// Every process in the subtree, whichever hierarchy it is listed in.
    pub fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        for dir in &self.dirs {
            for group in subtree(dir) {
                let listed = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
            }
        }
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Asks every process to end, then ends those that have not within `grace`.
    pub fn stop_all(&self, grace: Duration) {
        let deadline = Instant::now() + grace;
        if !grace.is_zero() {
            self.signal(Signal::SIGTERM);
            while Instant::now() < deadline && !self.processes().is_empty() {
                sleep(Duration::from_millis(10));
            }
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && !self.processes().is_empty() {
            self.signal(Signal::SIGKILL);
            sleep(Duration::from_millis(5));
        }
    }

    /// Removes the emptied subtree everywhere. What is still busy is reported.
    pub fn remove(&self) -> io::Result<()> {
        let mut result = Ok(());
        for dir in &self.dirs {
            for group in subtree(dir).into_iter().rev() {
                match remove_patiently(&group) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => result = Err(error),
                }
            }
        }
        result
    }

    fn signal(&self, signal: Signal) {
        for pid in self.processes() {
            // A process that ended meanwhile is what we want.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }
}

/// Mount points of cgroup v1 controllers and of cgroup v2, as this process sees them.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let cgroups = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (place, kind) = (fields.nth(1)?, fields.next()?);
        matches!(kind, "cgroup" | "cgroup2").then(|| PathBuf::from(place))
    });
    let mut places: Vec<PathBuf> = cgroups.collect();
    places.sort();
    places.dedup();
    places
}

/// The directory and all below, parents first.
fn subtree(dir: &Path) -> Vec<PathBuf> {
    if !dir.is_dir() {
        return Vec::new();
    }
    let mut all = vec![dir.to_path_buf()];
    let children = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        all.extend(subtree(&child.path()));
    }
    all
}

/// A v1 cpuset is empty until it is told which cores and memory it has, and takes no process then.
fn inherit_cpuset(dir: &Path, own: &Path) {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let groups = [dir.parent(), Some(dir), Some(own)];
        for pair in groups.windows(2) {
            let [Some(from), Some(to)] = pair else { continue };
            let set = fs::read_to_string(to.join(file)).unwrap_or_default();
            if set.trim().is_empty()
                && let Ok(given) = fs::read_to_string(from.join(file))
            {
                // No such file outside of the cpuset hierarchy; v2 needs none.
                let _ = fs::write(to.join(file), given);
            }
        }
    }
}

/// v2 hands controllers down one level at a time.
fn enable_controllers(dir: &Path) {
    for group in [dir.parent(), Some(dir)].into_iter().flatten() {
        let Ok(known) = fs::read_to_string(group.join("cgroup.controllers")) else { continue };
        for controller in known.split_whitespace() {
            let enable =
                || fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"));
            let busy = |error: &io::Error| error.kind() == io::ErrorKind::ResourceBusy;
            // One that cannot be had is reported by the node when a pod needs it.
            if enable().is_err_and(|error| busy(&error)) {
                let _ = evacuate(group).and_then(|()| enable());
            }
        }
    }
}

/// Inside of a container the topmost group is not the machine's: processes sit in it, and v2 hands nothing down beside
/// processes. They move one level down, as container images that hold nodes have it done by their entrypoint.
fn evacuate(group: &Path) -> io::Result<()> {
    // Only the machine's own topmost group lacks this file, and it may hold both.
    if !group.join("cgroup.type").exists() {
        return Ok(());
    }
    let below = group.join("init");
    fs::create_dir_all(&below)?;
    let listed = fs::read_to_string(group.join("cgroup.procs"))?;
    for pid in listed.lines() {
        // One that has ended meanwhile is out of the way too.
        let _ = fs::write(below.join("cgroup.procs"), pid);
    }
    Ok(())
}

/// A group whose last process has just died can be busy for a moment.
fn remove_patiently(group: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(group) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < deadline =>
            {
                sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_of_a_container_make_room_for_groups_those_of_a_machine_stay() {
        let group = std::env::temp_dir().join(format!("skiff-evacuate-{}", std::process::id()));
        fs::create_dir_all(&group).expect("a directory");
        fs::write(group.join("cgroup.procs"), "4711\n").expect("a file");
        evacuate(&group).expect("nothing to do");
        assert!(!group.join("init").exists());
        fs::write(group.join("cgroup.type"), "domain\n").expect("a file");
        evacuate(&group).expect("it can be left");
        let moved = fs::read_to_string(group.join("init/cgroup.procs")).expect("they moved");
        assert_eq!(moved, "4711");
        fs::remove_dir_all(group).expect("it was made here");
    }
}
