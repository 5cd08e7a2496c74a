//! How much of everything the node has left.
//!
//! Counterpart: the node's part of `stats.Summary`, as `makeSignalObservations` reads it.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use super::{
    pressure::{Reading, Readings},
    threshold::Signal,
};
use crate::{context::NodeContext, node::machine::meminfo};

#[derive(Debug, Default)]
pub struct NodeReadings {
    pub readings: Readings,
    pub dedicated_image_fs: bool,
}

pub async fn read(ctx: &NodeContext) -> NodeReadings {
    let root = &ctx.config.root_dir;
    let mut found = NodeReadings::default();
    let mut note = |signal, capacity: u64, available: u64| {
        // A file system without a number of inodes to run out of says zero.
        if capacity > 0 {
            found.readings.insert(signal, Reading { capacity, available });
        }
    };
    if let (Some(total), Some(available)) = (meminfo("MemTotal"), meminfo("MemAvailable")) {
        note(Signal::MemoryAvailable, total, available);
    }
    if let Ok(disk) = nix::sys::statvfs::statvfs(root) {
        let unit = disk.fragment_size();
        note(Signal::NodefsAvailable, disk.blocks() * unit, disk.blocks_available() * unit);
        note(Signal::NodefsInodesFree, disk.files(), disk.files_available());
    }
    if let Some((most, used)) = processes() {
        note(Signal::PidAvailable, most, most.saturating_sub(used));
    }
    if let Ok(disk) = ctx.runtime.image_fs_info().await {
        note(Signal::ImagefsAvailable, disk.capacity_bytes, disk.available_bytes);
        note(Signal::ImagefsInodesFree, disk.inodes, disk.inodes_free);
        found.dedicated_image_fs = device(&disk.mountpoint) != device(root);
    }
    found
}

fn device(path: &Path) -> Option<u64> {
    fs::metadata(path).map(|found| found.dev()).ok()
}

/// How many processes and threads there may be, and are.
fn processes() -> Option<(u64, u64)> {
    let number = |path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let most = number("/proc/sys/kernel/pid_max")?;
    let most = number("/proc/sys/kernel/threads-max").map_or(most, |threads| threads.min(most));
    let load = fs::read_to_string("/proc/loadavg").ok()?;
    // The fourth field is `running/all`.
    let all = load.split_whitespace().nth(3)?.split_once('/')?.1.parse().ok()?;
    Some((most, all))
}
