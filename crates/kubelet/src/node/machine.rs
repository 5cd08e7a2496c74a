//! What this machine has. Read once at start. Counterpart: cadvisor's `MachineInfo`.

use std::{collections::BTreeMap, fs, path::Path};

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use skiff_api::scheduling::resources::{milli_value, value};

use crate::{config::KubeletConfig, eviction::Signal};

#[derive(Debug, Clone)]
pub struct Machine {
    pub cpus: usize,
    pub memory_bytes: u64,
    pub disk_bytes: u64,
    /// Kept back from pods, so that the machine stays reachable: below this they are evicted.
    pub reserved_memory: u64,
    pub reserved_disk: u64,
    /// In thousandths.
    pub reserved_cpu: i64,
    /// What all pods together may take, as far as it is limited: without the reservations, but with what is only there so
    /// that pods are evicted in time.
    pub pods_memory: u64,
    pub swap_bytes: u64,
    pub hugepages: BTreeMap<String, u64>,
    pub max_pods: u32,
    pub machine_id: String,
    pub system_uuid: String,
    pub boot_id: String,
    pub kernel_version: String,
    pub os_image: String,
    pub architecture: &'static str,
}

// === impl Machine ===

impl Machine {
    pub fn read(config: &KubeletConfig) -> Self {
        let memory_bytes = meminfo("MemTotal").unwrap_or(0);
        let disk_bytes = disk(&config.root_dir).0;
        let eviction = &config.eviction;
        let kept_back = reserved(config, "memory", value).unsigned_abs();
        let reserved_cpu = reserved(config, "cpu", milli_value);
        let uname = nix::sys::utsname::uname().ok();
        let release = uname.as_ref().map(|u| u.release().to_string_lossy().into_owned());
        Machine {
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes,
            disk_bytes,
            reserved_memory: kept_back + eviction.reserved(Signal::MemoryAvailable, memory_bytes),
            reserved_disk: reserved(config, "ephemeral-storage", value).unsigned_abs()
                + eviction.reserved(Signal::NodefsAvailable, disk_bytes),
            reserved_cpu,
            pods_memory: memory_bytes.saturating_sub(kept_back),
            swap_bytes: meminfo("SwapTotal").unwrap_or(0),
            hugepages: hugepages(),
            max_pods: config.max_pods,
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
            kernel_version: release.unwrap_or_default(),
            os_image: os_image().unwrap_or_else(|| "Linux".into()),
            architecture: go_architecture(),
        }
    }

    pub fn capacity(&self) -> BTreeMap<String, Quantity> {
        self.resources(self.memory_bytes, self.disk_bytes)
    }

    /// What pods may be given in total.
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let memory = self.memory_bytes.saturating_sub(self.reserved_memory);
        let mut resources = self.resources(memory, 0);
        let disk = self.disk_bytes.saturating_sub(self.reserved_disk);
        resources.insert("ephemeral-storage".into(), number(disk));
        if self.reserved_cpu > 0 {
            resources.insert("cpu".into(), Quantity(format!("{}m", self.pods_milli_cpu())));
        }
        resources
    }

    /// The CPU that pods are given together, in thousandths.
    pub fn pods_milli_cpu(&self) -> i64 {
        let whole = i64::try_from(self.cpus).unwrap_or(i64::MAX).saturating_mul(1000);
        whole.saturating_sub(self.reserved_cpu).max(0)
    }

    fn resources(&self, memory: u64, disk: u64) -> BTreeMap<String, Quantity> {
        let mut resources: BTreeMap<String, Quantity> = BTreeMap::from([
            ("cpu".into(), number(self.cpus)),
            ("memory".into(), kibibytes(memory)),
            ("ephemeral-storage".into(), kibibytes(disk)),
            ("pods".into(), number(self.max_pods)),
        ]);
        resources.extend(
            self.hugepages.iter().map(|(size, bytes)| (format!("hugepages-{size}"), number(bytes))),
        );
        resources
    }
}

/// What the node's system and Kubernetes' own parts are to have together.
fn reserved(config: &KubeletConfig, resource: &str, read: fn(&Quantity) -> Option<i64>) -> i64 {
    let each = [&config.system_reserved, &config.kube_reserved].into_iter();
    each.filter_map(|one| one.get(resource).and_then(read)).sum()
}

/// Whether this machine is one that the node may run on.
pub fn check(config: &KubeletConfig) -> Result<(), String> {
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    if config.fail_swap_on && swaps.lines().count() > 1 {
        return Err("running with swap on is not supported, please disable swap or set --fail-swap-on flag to false".into());
    }
    if config.fail_cgroup_v1 && !Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return Err(
            "kubelet is configured to not run on a host using cgroup v1 (failCgroupV1)".into()
        );
    }
    Ok(())
}

/// A quantity of bytes as upstream's node status prints memory: whole `Ki`.
fn kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}

fn number(n: impl std::fmt::Display) -> Quantity {
    Quantity(n.to_string())
}

/// Bytes of a line of `/proc/meminfo`.
pub fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find(|l| l.split(':').next() == Some(field))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib * 1024)
}

/// Size and free space of the file system that holds `dir`.
pub fn disk(dir: &Path) -> (u64, u64) {
    match nix::sys::statvfs::statvfs(dir) {
        Ok(s) => (s.blocks() * s.fragment_size(), s.blocks_available() * s.fragment_size()),
        Err(_) => (0, 0),
    }
}

fn hugepages() -> BTreeMap<String, u64> {
    let Ok(entries) = fs::read_dir("/sys/kernel/mm/hugepages") else { return BTreeMap::new() };
    let sizes = entries.filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let count: u64 =
            line(format!("/sys/kernel/mm/hugepages/{name}/nr_hugepages")).parse().ok()?;
        let size =
            if kib >= 1 << 20 { format!("{}Gi", kib >> 20) } else { format!("{}Mi", kib >> 10) };
        Some((size, count * kib * 1024))
    });
    sizes.collect()
}

fn line(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn os_image() -> Option<String> {
    let text = fs::read_to_string("/etc/os-release").ok()?;
    let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim_matches('"').to_owned())
}

/// As Go names it, which is what `kubernetes.io/arch` holds.
fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
