//! The verbs about the runtime as a whole: its version, its state, its events.

use std::{sync::Arc, time::SystemTime};

use futures::{StreamExt, stream};
use skiff_grpc::{Answers, Status};
use skiff_runtime::{ContainerEvent, ContainerEventKind};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use super::Served;
use crate::{api, convert::nanos, error::status_of};

/// What upstream's tools expect of any runtime: the version of the interface before it had one.
const KUBELET_API_VERSION: &str = "0.1.0";
const CGROUPFS: i32 = 1;

pub async fn version(
    served: Arc<Served>,
    _: api::VersionRequest,
) -> Result<api::VersionResponse, Status> {
    let version = served.runtime.version().await.map_err(status_of)?;
    Ok(api::VersionResponse {
        version: KUBELET_API_VERSION.to_owned(),
        runtime_name: version.runtime_name,
        runtime_version: version.runtime_version,
        runtime_api_version: "v1".to_owned(),
    })
}

/// A sandbox has its network when it runs, so that one condition is as good as the other.
pub async fn status(
    served: Arc<Served>,
    _: api::StatusRequest,
) -> Result<api::StatusResponse, Status> {
    let why = served.runtime.unready().await.map_err(status_of)?;
    let condition = |kind: &str| api::RuntimeCondition {
        kind: kind.to_owned(),
        status: why.is_none(),
        reason: why.as_ref().map(|_| "NotReady".to_owned()).unwrap_or_default(),
        message: why.clone().unwrap_or_default(),
    };
    let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
    let features = served.runtime.features().await.map_err(status_of)?;
    let handler = api::RuntimeHandler {
        name: String::new(),
        features: Some(api::RuntimeHandlerFeatures {
            recursive_read_only_mounts: features.recursive_read_only_mounts,
            user_namespaces: features.user_namespaces,
        }),
    };
    Ok(api::StatusResponse {
        status: Some(api::RuntimeStatus { conditions }),
        info: Default::default(),
        runtime_handlers: vec![handler],
        features: Some(api::RuntimeFeatures {
            supplemental_groups_policy: features.supplemental_groups_policy,
        }),
    })
}

pub async fn runtime_config(_: Arc<Served>, _: ()) -> Result<api::RuntimeConfigResponse, Status> {
    let linux = api::LinuxRuntimeConfiguration { cgroup_driver: CGROUPFS };
    Ok(api::RuntimeConfigResponse { linux: Some(linux) })
}

/// What happens from now on, until the client leaves.
pub fn events(served: Arc<Served>) -> Answers<api::ContainerEventResponse> {
    let receiver = served.runtime.events();
    stream::unfold((served, receiver), |(served, mut receiver)| async move {
        let event = next(&mut receiver).await?;
        let answer = served.event(event).await;
        Some((Ok(answer), (served, receiver)))
    })
    .boxed()
}

/// Who is too slow misses some, and learns of the rest by what the next one carries.
async fn next(receiver: &mut Receiver<ContainerEvent>) -> Option<ContainerEvent> {
    loop {
        match receiver.recv().await {
            Ok(event) => return Some(event),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

impl Served {
    async fn event(&self, event: ContainerEvent) -> api::ContainerEventResponse {
        let sandbox = self.runtime.pod_sandbox_status(&event.sandbox_id).await.ok();
        let containers = self.runtime.list_containers().await.unwrap_or_default();
        let own = containers.into_iter().filter(|one| one.sandbox_id == event.sandbox_id);
        api::ContainerEventResponse {
            container_id: event.container_id,
            container_event_type: number(event.kind),
            created_at: nanos(SystemTime::now()),
            pod_sandbox_status: sandbox.map(Into::into),
            containers_statuses: own.map(Into::into).collect(),
        }
    }
}

fn number(kind: ContainerEventKind) -> i32 {
    match kind {
        ContainerEventKind::Created => 0,
        ContainerEventKind::Started => 1,
        // A sandbox is told of by its own id, as if it were a container.
        ContainerEventKind::Stopped { .. } | ContainerEventKind::SandboxStopped => 2,
        ContainerEventKind::Deleted => 3,
    }
}
