//! The verbs of statistics. A pod's are the sum of its containers'.

use std::{sync::Arc, time::SystemTime};

use skiff_grpc::Status;
use skiff_runtime::{ContainerStats, PodSandboxStatus};

use super::{Served, filter::Wanted};
use crate::{
    api,
    convert::{Enumeration, nanos},
    error::status_of,
};

pub async fn container(
    served: Arc<Served>,
    request: api::Id,
) -> Result<api::ContainerStatsResponse, Status> {
    let container = served.container(&request.id).await?;
    let stats = served.runtime.container_stats(&container.id).await.map_err(status_of)?;
    Ok(api::ContainerStatsResponse { stats: Some(stats.into()) })
}

pub async fn containers(
    served: Arc<Served>,
    request: api::ListContainerStatsRequest,
) -> Result<api::ListContainerStatsResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let wanted = Wanted {
        id: &filter.id,
        sandbox_id: &filter.pod_sandbox_id,
        state: None,
        labels: &filter.label_selector,
    };
    let all = served.runtime.list_container_stats().await.map_err(status_of)?.into_iter();
    let taken = all.filter(|one| wanted.takes(&one.id, &one.sandbox_id, 0, &one.labels));
    Ok(api::ListContainerStatsResponse { stats: taken.map(Into::into).collect() })
}

pub async fn sandbox(
    served: Arc<Served>,
    request: api::Id,
) -> Result<api::PodSandboxStatsResponse, Status> {
    let sandbox = served.sandbox(&request.id).await?;
    let all = served.runtime.list_container_stats().await.map_err(status_of)?;
    Ok(api::PodSandboxStatsResponse { stats: Some(sum(sandbox, &all)) })
}

pub async fn sandboxes(
    served: Arc<Served>,
    request: api::ListPodSandboxStatsRequest,
) -> Result<api::ListPodSandboxStatsResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let wanted =
        Wanted { id: &filter.id, sandbox_id: "", state: None, labels: &filter.label_selector };
    let all = served.runtime.list_container_stats().await.map_err(status_of)?;
    let sandboxes = served.sandboxes().await?.into_iter();
    let taken = sandboxes.filter(|one| wanted.takes(&one.id, "", one.state.number(), &one.labels));
    Ok(api::ListPodSandboxStatsResponse { stats: taken.map(|one| sum(one, &all)).collect() })
}

fn sum(sandbox: PodSandboxStatus, all: &[ContainerStats]) -> api::PodSandboxStats {
    let own: Vec<&ContainerStats> = all.iter().filter(|one| one.sandbox_id == sandbox.id).collect();
    let timestamp = nanos(SystemTime::now());
    let total = |of: fn(&ContainerStats) -> u64| {
        Some(api::UInt64Value { value: own.iter().map(|stats| of(stats)).sum() })
    };
    let cpu = api::CpuUsage {
        timestamp,
        usage_core_nano_seconds: total(|one| one.cpu.as_nanos().try_into().unwrap_or(u64::MAX)),
        psi: None,
    };
    let memory = api::MemoryUsage {
        timestamp,
        working_set_bytes: total(|one| one.memory_working_set_bytes),
        usage_bytes: total(|one| one.memory_usage_bytes),
        rss_bytes: total(|one| one.memory_rss_bytes),
        page_faults: total(|one| one.page_faults),
        major_page_faults: total(|one| one.major_page_faults),
        psi: None,
    };
    let linux = api::LinuxPodSandboxStats {
        cpu: Some(cpu),
        memory: Some(memory),
        process: Some(api::ProcessUsage { timestamp, process_count: total(|one| one.pids) }),
        containers: own.iter().map(|stats| (*stats).clone().into()).collect(),
    };
    api::PodSandboxStats {
        attributes: Some(api::PodSandboxAttributes {
            id: sandbox.id,
            metadata: Some(sandbox.metadata.into()),
            labels: sandbox.labels,
            annotations: sandbox.annotations,
        }),
        linux: Some(linux),
    }
}
