//! What the classes of pods get of the node beside each other: the groups above the pods' own.
//!
//! Consumes the grants of all pods, emits the CPU shares of the burstable class (what its pods ask for together), the
//! least there is for the best-effort class, and what the node has for all. Counterpart:
//! `pkg/kubelet/cm/qos_container_manager_linux.go` and `node_container_manager_linux.go`.
//! Differs from upstream: at every change of the grants, not once a minute.
//! Invariant: best-effort pods, however many, never get more of a busy CPU than one small request.

use std::sync::Arc;

use skiff_runtime::LinuxContainerResources;

use crate::{
    container::resources::{QosClass, cgroup_of_class, shares},
    context::NodeContext,
};

const MACHINE_MILLI_PER_CPU: i64 = 1000;

/// Runs for ever.
pub async fn run(ctx: Arc<NodeContext>) {
    let mut given = None;
    loop {
        let burstable = ctx.allocations.granted_cpu(QosClass::Burstable);
        if given != Some(burstable) {
            given = give(&ctx, burstable).await.then_some(burstable);
        }
        ctx.allocations.changed().await;
    }
}

/// Whether all groups took what they were given; a failure is tried again with the next change.
async fn give(ctx: &NodeContext, burstable_milli: i64) -> bool {
    let machine = &ctx.machine;
    // Without a limit of its own: what the machine has.
    let (whole_milli, memory) = match ctx.config.enforce_node_allocatable {
        true => (machine.pods_milli_cpu(), machine.pods_memory),
        false => (MACHINE_MILLI_PER_CPU.saturating_mul(machine.cpus as i64), machine.memory_bytes),
    };
    let mut all = true;
    for (path, resources) in tiers(whole_milli, memory, burstable_milli) {
        if let Err(error) = ctx.runtime.set_cgroup_resources(path, resources).await {
            tracing::warn!(cgroup = path, %error, "a class of pods has not been given its share");
            all = false;
        }
    }
    all
}

fn tiers(
    whole_milli: i64,
    memory: u64,
    burstable_milli: i64,
) -> [(&'static str, LinuxContainerResources); 3] {
    let with = |milli| LinuxContainerResources {
        cpu_shares: shares(milli),
        ..LinuxContainerResources::default()
    };
    let node = LinuxContainerResources {
        memory_limit_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
        ..with(whole_milli)
    };
    [
        (cgroup_of_class(QosClass::Guaranteed), node),
        (cgroup_of_class(QosClass::Burstable), with(burstable_milli)),
        (cgroup_of_class(QosClass::BestEffort), with(0)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_effort_pods_do_not_compete_with_those_that_asked() {
        let tiers = tiers(4000, 8 << 30, 1500);
        let shares: Vec<_> = tiers.iter().map(|(path, r)| (*path, r.cpu_shares)).collect();
        assert_eq!(
            shares,
            [("/kubepods", 4096), ("/kubepods/burstable", 1536), ("/kubepods/besteffort", 2)]
        );
        assert_eq!(tiers.map(|(_, r)| r.memory_limit_bytes), [8 << 30, 0, 0]);
    }
}
