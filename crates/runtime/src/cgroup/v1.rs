//! Cgroup v1: every controller has a tree of its own.
//!
//! Counterpart: runc's `cgroups/fs`. Invariant: a cpuset directory has its CPUs and memory nodes
//! before anyone joins.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{DeviceRule, Usage, keyed, number, set};
use crate::{
    cri::LinuxContainerResources,
    error::{IoContext, Result},
};

/// A mounted hierarchy and the controllers it carries (`cpu,cpuacct` is one hierarchy with two).
#[derive(Debug, Clone)]
pub(super) struct Controller {
    mount: PathBuf,
    names: Vec<String>,
}

/// What we put containers into. Others (net_cls, perf_event, rdma) have no setting in a pod.
const USED: [&str; 9] =
    ["cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb"];

/// Limits nothing, but tells a service manager whose a process is.
const SYSTEMD: &str = "name=systemd";

/// From mountinfo, so that unusual mount points work.
pub(super) fn controllers(mounts: &str) -> Vec<Controller> {
    let mut found: Vec<Controller> = Vec::new();
    for controller in mounts.lines().filter_map(controller) {
        if !found.iter().any(|known| known.names == controller.names) {
            found.push(controller);
        }
    }
    // The systemd tree alone limits nothing: that machine is v2.
    let limits = |controller: &Controller| controller.names.iter().any(|name| name != SYSTEMD);
    if found.iter().any(limits) { found } else { Vec::new() }
}

pub(super) fn names(controller: &Controller) -> impl Iterator<Item = String> + use<> {
    controller.names.clone().into_iter()
}

fn controller(line: &str) -> Option<Controller> {
    let (place, kind) = line.split_once(" - ")?;
    let mut kind = kind.split(' ');
    if kind.next() != Some("cgroup") {
        return None;
    }
    let names = kind.nth(1)?.split(',').filter(|name| USED.contains(name) || *name == SYSTEMD);
    let names: Vec<String> = names.map(str::to_owned).collect();
    let mount = place.split(' ').nth(4)?.into();
    (!names.is_empty()).then_some(Controller { mount, names })
}

/// A group in one hierarchy.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct GroupDir {
    pub(super) path: PathBuf,
    controllers: Vec<String>,
}

pub(super) fn group(controllers: &[Controller], path: &Path) -> Vec<GroupDir> {
    let dir =
        |one: &Controller| GroupDir { path: one.mount.join(path), controllers: one.names.clone() };
    controllers.iter().map(dir).collect()
}

/// Where a controller has its files; `None` on a machine without it.
fn controlled<'a>(dirs: &'a [GroupDir], name: &str) -> Option<&'a Path> {
    let dir = dirs.iter().find(|dir| dir.controllers.iter().any(|known| known == name));
    dir.map(|dir| dir.path.as_path())
}

pub(super) fn create(controllers: &[Controller], path: &Path) -> Result<()> {
    for controller in controllers {
        let dir = controller.mount.join(path);
        fs::create_dir_all(&dir).at("create cgroup", &dir)?;
        if controller.names.iter().any(|name| name == "cpuset") {
            inherit_cpuset(&controller.mount, path)?;
        }
    }
    Ok(())
}

fn inherit_cpuset(mount: &Path, path: &Path) -> Result<()> {
    let mut dir = mount.to_owned();
    for part in path.components() {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(dir.join(file)).at("read", dir.join(file))?;
            if own.trim().is_empty() {
                let inherited =
                    fs::read_to_string(parent.join(file)).at("read", parent.join(file))?;
                set(&dir, file, inherited.trim())?;
            }
        }
    }
    Ok(())
}

pub(super) fn apply(dirs: &[GroupDir], resources: &LinuxContainerResources) -> Result<()> {
    if let Some(dir) = controlled(dirs, "cpu") {
        apply_cpu(dir, resources)?;
    }
    if let Some(dir) = controlled(dirs, "cpuset") {
        for (file, value) in
            [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)]
        {
            if !value.is_empty() {
                set(dir, file, value)?;
            }
        }
    }
    if let Some(dir) = controlled(dirs, "memory").filter(|_| resources.memory_limit_bytes != 0) {
        set(dir, "memory.limit_in_bytes", resources.memory_limit_bytes)?;
    }
    if let Some(dir) = controlled(dirs, "pids").filter(|_| resources.pids_limit != 0) {
        set(dir, "pids.max", pids(resources.pids_limit))?;
    }
    if let Some(dir) = controlled(dirs, "hugetlb") {
        for limit in &resources.hugepage_limits {
            set(dir, &format!("hugetlb.{}.limit_in_bytes", limit.page_size), limit.limit)?;
        }
    }
    Ok(())
}

fn apply_cpu(dir: &Path, resources: &LinuxContainerResources) -> Result<()> {
    if resources.cpu_shares != 0 {
        set(dir, "cpu.shares", resources.cpu_shares)?;
    }
    if resources.cpu_period != 0 {
        set(dir, "cpu.cfs_period_us", resources.cpu_period)?;
    }
    match resources.cpu_quota {
        0 => Ok(()),
        quota => set(dir, "cpu.cfs_quota_us", quota),
    }
}

fn pids(limit: i64) -> String {
    if limit < 0 { "max".to_owned() } else { limit.to_string() }
}

pub(super) fn restrict_devices(dirs: &[GroupDir], rules: &[DeviceRule]) -> Result<()> {
    let Some(dir) = controlled(dirs, "devices") else {
        return Ok(());
    };
    set(dir, "devices.deny", "a")?;
    rules.iter().try_for_each(|rule| set(dir, "devices.allow", rule))
}

pub(super) fn oom_kills(dirs: &[GroupDir]) -> u64 {
    controlled(dirs, "memory").map_or(0, |dir| keyed(dir, "memory.oom_control", "oom_kill"))
}

pub(super) fn usage(dirs: &[GroupDir]) -> Usage {
    let mut usage = Usage::default();
    if let Some(dir) = controlled(dirs, "cpuacct") {
        usage.cpu = Duration::from_nanos(number(dir, "cpuacct.usage"));
    }
    if let Some(dir) = controlled(dirs, "memory") {
        let stat = |key| keyed(dir, "memory.stat", key);
        usage.memory_usage = number(dir, "memory.usage_in_bytes");
        usage.memory_working_set = usage.memory_usage.saturating_sub(stat("total_inactive_file"));
        usage.memory_rss = stat("total_rss");
        usage.page_faults = stat("total_pgfault");
        usage.major_page_faults = stat("total_pgmajfault");
    }
    if let Some(dir) = controlled(dirs, "pids") {
        usage.pids = number(dir, "pids.current");
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::controllers;

    const HYBRID: &str = "\
30 20 0:26 / /sys/fs/cgroup/unified rw shared:5 - cgroup2 cgroup2 rw,nsdelegate
31 20 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 20 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 20 0:28 / /mnt/again rw - cgroup cgroup rw,xattr,name=systemd
34 20 0:29 / /sys/fs/cgroup/net_cls rw - cgroup cgroup rw,net_cls
";

    #[test]
    fn hierarchies_are_found_where_they_are_mounted() {
        let found: Vec<_> =
            controllers(HYBRID).iter().map(|one| one.mount.display().to_string()).collect();
        assert_eq!(found, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/systemd"]);
    }

    #[test]
    fn a_machine_with_only_the_systemd_tree_is_v2() {
        let lines: Vec<_> = HYBRID
            .lines()
            .filter(|line| !line.contains("cpu") && !line.contains("net_cls"))
            .collect();
        assert!(controllers(&lines.join("\n")).is_empty());
    }
}
