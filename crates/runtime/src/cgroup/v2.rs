//! Cgroup v2: one tree, controllers switched on from the top.
//!
//! Counterpart: runc's `cgroups/fs2`. Invariant: a group's parent has every available controller
//! enabled for it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{DeviceRule, Usage, devices, keyed, number, set, write};
use crate::{
    cri::{LinuxContainerResources, Pressures},
    error::{IoContext, Result},
};

pub(super) fn mount_point(mounts: &str) -> Option<PathBuf> {
    let line = mounts.lines().find(|line| line.contains(" - cgroup2 "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

pub(super) fn create(mount: &Path, path: &Path) -> Result<()> {
    let mut dir: PathBuf = mount.to_owned();
    for part in path.components() {
        enable_controllers(&dir);
        dir.push(part);
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.at("create cgroup", &dir)?,
        }
    }
    Ok(())
}

/// What a group can limit.
pub(super) fn controllers(dir: &Path) -> Vec<String> {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    available.split_whitespace().map(str::to_owned).collect()
}

/// One at a time: a controller that refuses must not take the others with it.
fn enable_controllers(dir: &Path) {
    let enabled = fs::read_to_string(dir.join("cgroup.subtree_control")).unwrap_or_default();
    let is_off = |name: &String| !enabled.split_whitespace().any(|on| on == name);
    for name in controllers(dir).into_iter().filter(is_off) {
        if let Err(error) = fs::write(dir.join("cgroup.subtree_control"), format!("+{name}")) {
            tracing::warn!(cgroup = %dir.display(), controller = %name, %error, "cannot enable the controller");
        }
    }
}

pub(super) fn apply(dir: &Path, resources: &LinuxContainerResources) -> Result<()> {
    if resources.cpu_shares != 0 {
        set(dir, "cpu.weight", weight(resources.cpu_shares))?;
    }
    if resources.cpu_quota != 0 {
        let quota = match resources.cpu_quota {
            quota if quota < 0 => "max".to_owned(),
            quota => quota.to_string(),
        };
        let period = if resources.cpu_period == 0 { 100_000 } else { resources.cpu_period };
        set(dir, "cpu.max", format!("{quota} {period}"))?;
    }
    for (file, limit) in
        [("memory.max", resources.memory_limit_bytes), ("pids.max", resources.pids_limit)]
    {
        match limit {
            0 => {}
            limit if limit < 0 => set(dir, file, "max")?,
            limit => set(dir, file, limit)?,
        }
    }
    for (file, value) in
        [("cpuset.cpus", &resources.cpuset_cpus), ("cpuset.mems", &resources.cpuset_mems)]
    {
        if !value.is_empty() {
            set(dir, file, value)?;
        }
    }
    for limit in &resources.hugepage_limits {
        // What is mapped and not yet touched counts too, or a mapping within the reservation would die on first use.
        for file in ["max", "rsvd.max"] {
            set(dir, &format!("hugetlb.{}.{file}", limit.page_size), limit.limit)?;
        }
    }
    resources.unified.iter().try_for_each(|(file, value)| set(dir, file, value))
}

/// The kernel documentation's mapping of shares (2..262144) onto weights (1..10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
}

/// Joins the group in which process `first` is, which is `dir` or one below.
pub(super) fn join_group_of(dir: &Path, first: i32) -> io::Result<()> {
    let path = format!("/proc/{first}/cgroup");
    let text = fs::read_to_string(path)?;
    let below = below(dir, &text).ok_or(io::ErrorKind::NotFound)?;
    write(&dir.join(below).join("cgroup.procs"), "0")
}

/// What a process's own listing says of where it is below `dir`, whose path it tells from some root above.
fn below(dir: &Path, listing: &str) -> Option<PathBuf> {
    let group = Path::new(listing.lines().find_map(|line| line.strip_prefix("0::"))?);
    let name = dir.file_name()?;
    let parts: Vec<_> = group.components().collect();
    let at = parts.iter().position(|part| part.as_os_str() == name)?;
    Some(parts[at + 1..].iter().collect())
}

pub(super) fn restrict_devices(dir: &Path, rules: &[DeviceRule]) -> Result<()> {
    devices::attach(dir, rules)
}

pub(super) fn usage(dir: &Path) -> Usage {
    let stat = |key| keyed(dir, "memory.stat", key);
    let memory_usage = number(dir, "memory.current");
    Usage {
        cpu: Duration::from_micros(keyed(dir, "cpu.stat", "usage_usec")),
        memory_usage,
        memory_working_set: memory_usage.saturating_sub(stat("inactive_file")),
        memory_rss: stat("anon"),
        page_faults: stat("pgfault"),
        major_page_faults: stat("pgmajfault"),
        pids: number(dir, "pids.current"),
        pressure: Pressures::read(|resource| dir.join(format!("{resource}.pressure"))),
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::{super::*, *};

    struct Cleanup(Handle);

    impl Drop for Cleanup {
        fn drop(&mut self) {
            self.0.kill_all();
            self.0.remove();
        }
    }

    /// On a real tree, which a v1 machine usually has too, if without controllers.
    #[test]
    fn groups_hold_and_release_processes() {
        let mounts = fs::read_to_string(MOUNTS).unwrap();
        let Some(mount) = v2::mount_point(&mounts).filter(|_| nix::unistd::geteuid().is_root())
        else {
            eprintln!("skipped: needs root and a cgroup2 mount");
            return;
        };
        let root = PathBuf::from(format!("skiff-test-v2-{}", std::process::id()));
        let cgroups = Cgroups { hierarchy: Hierarchy::V2(mount), root: root.clone() };
        let _cleanup = Cleanup(cgroups.handle("/"));
        let group = cgroups.create("/kubepods/pod1/container").unwrap();
        let Handle::V2(dir) = &group else { panic!("{group:?} is not of one tree") };
        group
            .apply(&LinuxContainerResources {
                pids_limit: 10,
                cpu_shares: 512,
                ..Default::default()
            })
            .unwrap();
        // The kernel's verifier judges the programs.
        for rules in [vec![DeviceRule::everything()], vec![], DeviceRule::defaults()] {
            group.restrict_devices(&rules).unwrap();
        }
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        fs::write(dir.join("cgroup.procs"), child.id().to_string()).unwrap();
        assert_eq!(cgroups.handle("/kubepods").processes(), [child.id() as i32]);
        let reaper = std::thread::spawn(move || child.wait().unwrap());
        cgroups.handle("/").kill_all();
        reaper.join().unwrap();
        cgroups.handle("/").remove();
        assert!(!dir.exists());
    }

    /// A directory of plain files stands for the group: writing is all that is asked of it.
    fn fake_group(name: &str, files: &[&str]) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("skiff-v2-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        files.iter().for_each(|file| fs::write(dir.join(file), "").unwrap());
        dir
    }

    #[test]
    fn limits_reach_every_file_that_keeps_them() {
        let files = ["memory.max", "memory.swap.max", "memory.oom.group", "cpu.max", "pids.max"];
        let pages = ["hugetlb.2MB.max", "hugetlb.2MB.rsvd.max"];
        let dir = fake_group("limits", &[&files[..], &pages[..]].concat());
        let unified = [("memory.swap.max", "0"), ("memory.oom.group", "1"), ("io.weight", "5")];
        let resources = LinuxContainerResources {
            cpu_quota: 20_000,
            memory_limit_bytes: 1 << 20,
            pids_limit: -1,
            hugepage_limits: vec![crate::cri::HugepageLimit { page_size: "2MB".into(), limit: 0 }],
            unified: unified.map(|(file, value)| (file.to_owned(), value.to_owned())).into(),
            ..Default::default()
        };
        apply(&dir, &resources).unwrap();
        let written = |file: &&str| fs::read_to_string(dir.join(file)).unwrap();
        assert_eq!(
            files.iter().chain(&pages).map(written).collect::<Vec<_>>(),
            ["1048576", "0", "1", "20000 100000", "max", "0", "0"]
        );
        // A controller this kernel lacks.
        assert!(!dir.join("io.weight").exists());
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn limits_that_cannot_be_kept_are_known() {
        let dir = fake_group("missing", &[]);
        fs::write(dir.join("cgroup.controllers"), "cpuset cpu pids\n").unwrap();
        let hierarchy = Hierarchy::V2(dir.clone());
        let cgroups = Cgroups { hierarchy, root: PathBuf::new() };
        assert_eq!(cgroups.missing(), ["memory"]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_process_is_found_in_a_group_the_container_made() {
        let dir = Path::new("/sys/fs/cgroup/skiff-a/kubepods/pod1/c0ffee");
        for (listing, expected) in [
            ("0::/skiff-a/kubepods/pod1/c0ffee/init\n", Some("init")),
            ("0::/skiff-a/kubepods/pod1/c0ffee\n", Some("")),
            // As seen from a cgroup namespace that starts beside it.
            ("0::/../c0ffee/a/b\n", Some("a/b")),
            ("0::/elsewhere\n", None),
            ("12:pids:/skiff-a/kubepods/pod1/c0ffee\n", None),
        ] {
            assert_eq!(below(dir, listing), expected.map(PathBuf::from), "{listing}");
        }
    }

    #[test]
    fn shares_map_onto_weights() {
        for (shares, expected) in
            [(0, 1), (2, 1), (1024, 39), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight(shares), expected, "{shares} shares");
        }
    }
}
