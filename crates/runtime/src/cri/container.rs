//! Containers: what is asked for, what is, and what they use.
//!
//! Counterpart: CRI `ContainerConfig`, `ContainerStatus` and `ContainerStats`.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use super::sandbox::NamespaceOptions;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerMetadata {
    pub name: String,
    pub attempt: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ContainerConfig {
    pub metadata: ContainerMetadata,
    /// Any reference `image_status` accepts.
    pub image: String,
    /// Replaces the image's entrypoint, and then its arguments too.
    pub command: Vec<String>,
    /// Replaces the image's arguments.
    pub args: Vec<String>,
    pub working_dir: String,
    /// Added to the image's, in order; the last of a name wins.
    pub envs: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Relative to the sandbox's `log_directory`. Empty: output is dropped.
    pub log_path: PathBuf,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// Overrides the image's; a name (`SIGUSR1`) or a number.
    pub stop_signal: Option<String>,
    pub linux: LinuxContainerConfig,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinuxContainerConfig {
    pub resources: LinuxContainerResources,
    pub security: LinuxContainerSecurityContext,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinuxContainerSecurityContext {
    pub capabilities: Capabilities,
    pub privileged: bool,
    pub namespaces: NamespaceOptions,
    pub run_as_user: Option<i64>,
    pub run_as_username: Option<String>,
    /// Only with a user; without one, the image's group stands.
    pub run_as_group: Option<i64>,
    pub supplemental_groups: Vec<i64>,
    /// `Strict`: only `supplemental_groups`, not those the image's `/etc/group` adds.
    pub supplemental_groups_policy: SupplementalGroupsPolicy,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub seccomp: SeccompProfile,
    /// As given: a `Default` procMount passes [`DEFAULT_MASKED_PATHS`], an `Unmasked` one nothing.
    pub masked_paths: Vec<String>,
    /// As given: see [`DEFAULT_READONLY_PATHS`].
    pub readonly_paths: Vec<String>,
}

/// What a pod should not read of the node it runs on.
pub const DEFAULT_MASKED_PATHS: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// What a pod should not write to.
pub const DEFAULT_READONLY_PATHS: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SupplementalGroupsPolicy {
    #[default]
    Merge,
    Strict,
}

/// Names with or without `CAP_`; `ALL` is understood in both lists.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Capabilities {
    pub add: Vec<String>,
    pub drop: Vec<String>,
    pub add_ambient: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeccompProfile {
    RuntimeDefault,
    #[default]
    Unconfined,
    /// A profile file in the OCI JSON form, by its absolute path.
    Localhost(PathBuf),
}

/// Zero or `None` means: leave it alone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LinuxContainerResources {
    pub cpu_period: u64,
    pub cpu_quota: i64,
    pub cpu_shares: u64,
    pub memory_limit_bytes: i64,
    pub pids_limit: i64,
    pub oom_score_adj: i64,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub hugepage_limits: Vec<HugepageLimit>,
    /// Cgroup v2 files by name (`memory.high`); ignored on v1.
    pub unified: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HugepageLimit {
    /// As the kernel names it: `2MB`, `1GB`.
    pub page_size: String,
    pub limit: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Mount {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    pub readonly: bool,
    /// With `readonly`: also what is mounted below.
    pub recursive_read_only: bool,
    pub propagation: MountPropagation,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountPropagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Device {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// Of `r`, `w` and `m`.
    pub permissions: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// For runtimes that can lose track; the embedded one always finds an end.
    Unknown,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub state: ContainerState,
    pub created_at: SystemTime,
    pub started_at: Option<SystemTime>,
    pub finished_at: Option<SystemTime>,
    /// 128 + signal when a signal ended it.
    pub exit_code: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled` or `StartError`; empty before the exit.
    pub reason: String,
    pub message: String,
    /// As the config named it.
    pub image: String,
    /// `name@digest` when known, else the image id: what `containerStatuses[].imageID` shows.
    pub image_ref: String,
    pub image_id: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub log_path: PathBuf,
    pub resources: LinuxContainerResources,
    /// What the process runs as, once started.
    pub user: Option<ContainerUser>,
    pub pid: Option<i32>,
    pub stop_signal: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    pub supplemental_groups: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ContainerStats {
    pub id: String,
    pub sandbox_id: String,
    pub metadata: ContainerMetadata,
    pub labels: BTreeMap<String, String>,
    pub timestamp: SystemTime,
    /// CPU time used since the start.
    pub cpu: Duration,
    pub memory_usage_bytes: u64,
    /// Usage less the inactive page cache: what eviction looks at.
    pub memory_working_set_bytes: u64,
    pub memory_rss_bytes: u64,
    pub page_faults: u64,
    pub major_page_faults: u64,
    pub pids: u64,
    /// How long its processes waited for what was short; only cgroup v2 tells.
    pub pressure: Option<Pressures>,
    /// The writable layer.
    pub rootfs_used_bytes: u64,
    pub rootfs_inodes_used: u64,
}

/// Pressure stall information of one group, or of the whole machine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressures {
    pub cpu: Pressure,
    pub memory: Pressure,
    pub io: Pressure,
}

/// Time in which `some` process waited, and in which `full`y all of them did.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    pub some: Stall,
    pub full: Stall,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last ten, sixty and three hundred seconds.
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: Duration,
}

// === impl Pressures ===

impl Pressures {
    /// The machine's, if its kernel keeps them.
    pub fn of_machine() -> Option<Self> {
        Self::read(|resource| format!("/proc/pressure/{resource}").into())
    }

    /// Reads the three files; `None` unless there are all of them.
    pub(crate) fn read(file: impl Fn(&str) -> PathBuf) -> Option<Self> {
        let of = |resource| Some(Pressure::parse(&std::fs::read_to_string(file(resource)).ok()?));
        Some(Pressures { cpu: of("cpu")?, memory: of("memory")?, io: of("io")? })
    }
}

// === impl Pressure ===

impl Pressure {
    /// Lines such as `some avg10=0.00 avg60=0.12 avg300=0.03 total=4711`, in microseconds.
    fn parse(text: &str) -> Self {
        let stall = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind)).unwrap_or_default();
            let value = |key: &str| {
                line.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
            };
            let share = |key| value(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
            let total = value("total").and_then(|v| v.parse().ok()).unwrap_or(0);
            Stall {
                avg10: share("avg10"),
                avg60: share("avg60"),
                avg300: share("avg300"),
                total: Duration::from_micros(total),
            }
        };
        Pressure { some: stall("some "), full: stall("full ") }
    }
}

// === impl LinuxContainerResources ===

impl LinuxContainerResources {
    /// Takes over what `change` says; what it leaves alone stays.
    pub fn update(&mut self, change: &LinuxContainerResources) {
        fn set<T: Clone + Default + PartialEq>(current: &mut T, new: &T) {
            if *new != T::default() {
                current.clone_from(new);
            }
        }
        set(&mut self.cpu_period, &change.cpu_period);
        set(&mut self.cpu_quota, &change.cpu_quota);
        set(&mut self.cpu_shares, &change.cpu_shares);
        set(&mut self.memory_limit_bytes, &change.memory_limit_bytes);
        set(&mut self.pids_limit, &change.pids_limit);
        set(&mut self.oom_score_adj, &change.oom_score_adj);
        set(&mut self.cpuset_cpus, &change.cpuset_cpus);
        set(&mut self.cpuset_mems, &change.cpuset_mems);
        set(&mut self.hugepage_limits, &change.hugepage_limits);
        set(&mut self.unified, &change.unified);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stalls_are_read_as_the_kernel_writes_them() {
        let text = "some avg10=1.50 avg60=0.25 avg300=0.00 total=4711\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=12\n";
        let found = Pressure::parse(text);
        assert_eq!((found.some.avg10, found.some.avg60), (1.5, 0.25));
        assert_eq!(found.some.total, Duration::from_micros(4711));
        assert_eq!(found.full.total, Duration::from_micros(12));
        // Kernels before 5.13 have no `full` line for the CPU.
        assert_eq!(Pressure::parse("some avg10=0.00 total=1").full, Stall::default());
    }
}
