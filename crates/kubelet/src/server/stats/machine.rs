//! The machine's own counters, of `/proc`.
//!
//! Differs from upstream: what is in use counts what cannot be reclaimed, as `MemAvailable` has it, not a cgroup's working set.

use std::time::Duration;

use crate::node::machine::meminfo;

const CLOCK_TICKS_PER_SECOND: u64 = 100;

/// All CPU time that was not idle, since boot.
pub fn node_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.lines().next().unwrap_or_default().split_whitespace().skip(1).take(8);
    // user, nice, system, (idle, iowait), irq, softirq, steal
    let busy: u64 = fields
        .enumerate()
        .filter(|(i, _)| !matches!(i, 3 | 4))
        .filter_map(|(_, f)| f.parse::<u64>().ok())
        .sum();
    Duration::from_millis(busy * 1000 / CLOCK_TICKS_PER_SECOND)
}

pub fn node_memory() -> u64 {
    let read = |field| meminfo(field).unwrap_or(0);
    read("MemTotal").saturating_sub(read("MemAvailable"))
}

pub fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|s| s.parse::<f64>().ok());
    Duration::from_secs_f64(seconds.unwrap_or(0.0))
}
