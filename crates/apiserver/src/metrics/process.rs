//! What the kernel says about this process.
//!
//! `/proc/self` -> the `process_*` families and the build. Counterpart: Prometheus' process collector.

use super::exposition::Exposition;

/// Clock ticks and page size are fixed on every Linux that Skiff runs on.
const TICKS: f64 = 100.0;
const PAGE: u64 = 4096;

/// What of `/proc/self/stat` is told, by its place after the program's name.
struct Stat {
    fields: Vec<u64>,
}

const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const START_TICKS: usize = 19;
const VIRTUAL_BYTES: usize = 20;
const RESIDENT_PAGES: usize = 21;

pub fn expose(out: &mut Exposition) {
    let version = env!("CARGO_PKG_VERSION");
    let name = "kubernetes_build_info";
    out.family(name, "gauge", "[ALPHA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.");
    out.sample(
        name,
        &format!("git_version=\"v1.36.2\",major=\"1\",minor=\"36\",skiff=\"{version}\""),
        1,
    );
    let Some(stat) = Stat::read() else { return };
    let cpu = (stat.at(USER_TICKS) + stat.at(SYSTEM_TICKS)) as f64 / TICKS;
    out.single(
        "process_cpu_seconds_total",
        "counter",
        "Total user and system CPU time spent in seconds.",
        cpu,
    );
    out.single(
        "process_resident_memory_bytes",
        "gauge",
        "Resident memory size in bytes.",
        stat.at(RESIDENT_PAGES) * PAGE,
    );
    out.single(
        "process_virtual_memory_bytes",
        "gauge",
        "Virtual memory size in bytes.",
        stat.at(VIRTUAL_BYTES),
    );
    out.single(
        "process_start_time_seconds",
        "gauge",
        "Start time of the process since unix epoch in seconds.",
        start_time(),
    );
    if let Ok(open) = std::fs::read_dir("/proc/self/fd") {
        out.single("process_open_fds", "gauge", "Number of open file descriptors.", open.count());
    }
    if let Some(most) = most_files() {
        out.single("process_max_fds", "gauge", "Maximum number of open file descriptors.", most);
    }
}

/// When this process began, in seconds since 1970.
pub fn start_time() -> u64 {
    let ticks = Stat::read().map_or(0, |stat| stat.at(START_TICKS));
    boot_time().unwrap_or(0) + ticks / TICKS as u64
}

// === impl Stat ===

impl Stat {
    fn read() -> Option<Stat> {
        Stat::parse(&std::fs::read_to_string("/proc/self/stat").ok()?)
    }

    /// A program's name may hold spaces and parentheses: what counts comes after the last one.
    fn parse(text: &str) -> Option<Stat> {
        let (_, rest) = text.rsplit_once(')')?;
        let fields = rest.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        Some(Stat { fields })
    }

    fn at(&self, place: usize) -> u64 {
        self.fields.get(place).copied().unwrap_or(0)
    }
}

fn boot_time() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    text.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok())
}

fn most_files() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = text.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_called_anything() {
        let stat =
            Stat::parse("7 (a ) b) S 1 7 7 0 -1 0 0 0 0 0 150 50 0 0 20 0 9 0 1234 4096 3 0")
                .expect("a stat");
        assert_eq!((stat.at(USER_TICKS), stat.at(SYSTEM_TICKS)), (150, 50));
        assert_eq!(
            (stat.at(START_TICKS), stat.at(VIRTUAL_BYTES), stat.at(RESIDENT_PAGES)),
            (1234, 4096, 3)
        );
    }

    #[test]
    fn this_process_is_described() {
        let mut out = Exposition::default();
        expose(&mut out);
        let text = out.into_text();
        for name in
            ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"]
        {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "{name}");
        }
        assert!(start_time() > 1_600_000_000);
    }
}
