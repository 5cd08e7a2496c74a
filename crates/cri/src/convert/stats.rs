//! What containers use. Lost in CRI: how many processes one has; it tells only the pod's.

use std::time::Duration;

use skiff_runtime::{ContainerStats, Pressure, Pressures, Stall};

use super::{count, nanos, time, uint64};
use crate::api;

impl From<ContainerStats> for api::ContainerStats {
    fn from(from: ContainerStats) -> Self {
        let timestamp = nanos(from.timestamp);
        let psi = |of: fn(&Pressures) -> Pressure| from.pressure.as_ref().map(|all| of(all).into());
        let cpu = api::CpuUsage {
            timestamp,
            usage_core_nano_seconds: uint64(u64::try_from(from.cpu.as_nanos()).unwrap_or(u64::MAX)),
            psi: psi(|all| all.cpu),
        };
        let memory = api::MemoryUsage {
            timestamp,
            working_set_bytes: uint64(from.memory_working_set_bytes),
            usage_bytes: uint64(from.memory_usage_bytes),
            rss_bytes: uint64(from.memory_rss_bytes),
            page_faults: uint64(from.page_faults),
            major_page_faults: uint64(from.major_page_faults),
            psi: psi(|all| all.memory),
        };
        let writable_layer = api::FilesystemUsage {
            timestamp,
            fs_id: None,
            used_bytes: uint64(from.rootfs_used_bytes),
            inodes_used: uint64(from.rootfs_inodes_used),
        };
        let io = psi(|all| all.io).map(|psi| api::IoUsage { timestamp, psi: Some(psi) });
        api::ContainerStats {
            attributes: Some(api::ContainerAttributes {
                id: from.id,
                metadata: Some(from.metadata.into()),
                labels: from.labels,
                annotations: Default::default(),
            }),
            cpu: Some(cpu),
            memory: Some(memory),
            writable_layer: Some(writable_layer),
            io,
        }
    }
}

impl api::ContainerStats {
    /// Statistics say whose they are, but not in which sandbox that is.
    pub fn in_sandbox(self, sandbox_id: String) -> ContainerStats {
        let from = self;
        let attributes = from.attributes.unwrap_or_default();
        let (cpu, memory) = (from.cpu.unwrap_or_default(), from.memory.unwrap_or_default());
        let layer = from.writable_layer.unwrap_or_default();
        let pressure = match (cpu.psi, memory.psi, from.io.and_then(|io| io.psi)) {
            (Some(cpu), Some(memory), Some(io)) => {
                Some(Pressures { cpu: cpu.into(), memory: memory.into(), io: io.into() })
            }
            _ => None,
        };
        ContainerStats {
            id: attributes.id,
            sandbox_id,
            metadata: attributes.metadata.unwrap_or_default().into(),
            labels: attributes.labels,
            timestamp: time(cpu.timestamp.max(memory.timestamp)),
            cpu: Duration::from_nanos(count(cpu.usage_core_nano_seconds)),
            memory_usage_bytes: count(memory.usage_bytes),
            memory_working_set_bytes: count(memory.working_set_bytes),
            memory_rss_bytes: count(memory.rss_bytes),
            page_faults: count(memory.page_faults),
            major_page_faults: count(memory.major_page_faults),
            pids: 0,
            pressure,
            rootfs_used_bytes: count(layer.used_bytes),
            rootfs_inodes_used: count(layer.inodes_used),
        }
    }
}

impl From<Pressure> for api::PsiStats {
    fn from(from: Pressure) -> Self {
        api::PsiStats { full: Some(from.full.into()), some: Some(from.some.into()) }
    }
}

impl From<api::PsiStats> for Pressure {
    fn from(from: api::PsiStats) -> Self {
        Pressure {
            some: from.some.unwrap_or_default().into(),
            full: from.full.unwrap_or_default().into(),
        }
    }
}

impl From<Stall> for api::PsiData {
    fn from(Stall { avg10, avg60, avg300, total }: Stall) -> Self {
        let total = u64::try_from(total.as_nanos()).unwrap_or(u64::MAX);
        api::PsiData { total, avg10, avg60, avg300 }
    }
}

impl From<api::PsiData> for Stall {
    fn from(api::PsiData { total, avg10, avg60, avg300 }: api::PsiData) -> Self {
        Stall { avg10, avg60, avg300, total: Duration::from_nanos(total) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn statistics_come_back_as_they_were() {
        let stall = Stall { avg10: 1.5, total: Duration::from_micros(7), ..Stall::default() };
        let pressure = Pressure { some: stall, full: Stall::default() };
        let stats = ContainerStats {
            id: "c".into(),
            sandbox_id: "s".into(),
            metadata: Default::default(),
            labels: [("a".to_owned(), "b".to_owned())].into(),
            timestamp: UNIX_EPOCH + Duration::from_secs(9),
            cpu: Duration::from_millis(3),
            memory_usage_bytes: 1,
            memory_working_set_bytes: 2,
            memory_rss_bytes: 3,
            page_faults: 4,
            major_page_faults: 5,
            pids: 0,
            pressure: Some(Pressures { cpu: pressure, ..Pressures::default() }),
            rootfs_used_bytes: 6,
            rootfs_inodes_used: 7,
        };
        let sent = api::ContainerStats::from(stats.clone());
        assert_eq!(sent.in_sandbox("s".to_owned()), stats);
    }
}
