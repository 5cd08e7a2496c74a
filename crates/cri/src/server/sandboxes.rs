//! The verbs of pod sandboxes.

use std::sync::Arc;

use skiff_grpc::{Code, Status};
use skiff_runtime::PodSandboxConfig;

use super::{
    Served,
    filter::{Wanted, if_there},
};
use crate::{
    api,
    convert::{Enumeration, info_of},
    error::status_of,
};

pub async fn run(
    served: Arc<Served>,
    request: api::RunPodSandboxRequest,
) -> Result<api::Id, Status> {
    let missing = || Status::new(Code::InvalidArgument, "sandbox config must include metadata");
    let config = request.config.filter(|config| config.metadata.is_some()).ok_or_else(missing)?;
    let config = PodSandboxConfig {
        runtime_handler: request.runtime_handler,
        ..PodSandboxConfig::try_from(config)?
    };
    let id = served.runtime.run_pod_sandbox(config).await.map_err(status_of)?;
    Ok(api::Id { id })
}

pub async fn stop(served: Arc<Served>, request: api::Id) -> Result<(), Status> {
    if let Some(sandbox) = if_there(served.sandbox(&request.id).await)? {
        served.runtime.stop_pod_sandbox(&sandbox.id).await.map_err(status_of)?;
    }
    Ok(())
}

pub async fn remove(served: Arc<Served>, request: api::Id) -> Result<(), Status> {
    if let Some(sandbox) = if_there(served.sandbox(&request.id).await)? {
        served.runtime.remove_pod_sandbox(&sandbox.id).await.map_err(status_of)?;
    }
    Ok(())
}

pub async fn status(
    served: Arc<Served>,
    request: api::PodSandboxStatusRequest,
) -> Result<api::PodSandboxStatusResponse, Status> {
    let status = served.sandbox(&request.pod_sandbox_id).await?;
    let info = if request.verbose { info_of(&status) } else { Default::default() };
    Ok(api::PodSandboxStatusResponse { status: Some(status.into()), info })
}

pub async fn list(
    served: Arc<Served>,
    request: api::ListPodSandboxRequest,
) -> Result<api::ListPodSandboxResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let wanted = Wanted {
        id: &filter.id,
        sandbox_id: "",
        state: filter.state,
        labels: &filter.label_selector,
    };
    let all = served.sandboxes().await?.into_iter();
    let taken = all.filter(|one| wanted.takes(&one.id, "", one.state.number(), &one.labels));
    Ok(api::ListPodSandboxResponse { items: taken.map(Into::into).collect() })
}

pub async fn update_resources(
    served: Arc<Served>,
    request: api::UpdatePodSandboxResourcesRequest,
) -> Result<(), Status> {
    let sandbox = served.sandbox(&request.pod_sandbox_id).await?;
    let resources = request.resources.unwrap_or_default().into();
    let updated = served.runtime.update_pod_sandbox_resources(&sandbox.id, resources).await;
    updated.map_err(status_of)
}
