//! The verbs of containers, but for their streams and statistics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use serde_json::json;
use skiff_grpc::{Code, Status};

use super::{
    Served,
    filter::{Wanted, if_there},
};
use crate::{api, convert::Enumeration, error::status_of};

/// Profiles of AppArmor that take no loading.
const NO_APPARMOR: i32 = 1;

pub async fn create(
    served: Arc<Served>,
    request: api::CreateContainerRequest,
) -> Result<api::Id, Status> {
    let sandbox = served.sandbox(&request.pod_sandbox_id).await?;
    let missing = || Status::new(Code::InvalidArgument, "container config must include metadata");
    let config = request.config.filter(|config| config.metadata.is_some()).ok_or_else(missing)?;
    refuse_unoffered(&config)?;
    let created = served.runtime.create_container(&sandbox.id, config.try_into()?).await;
    Ok(api::Id { id: created.map_err(status_of)? })
}

/// What would silently make another container than was asked for.
fn refuse_unoffered(config: &api::ContainerConfig) -> Result<(), Status> {
    let security = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    let apparmor = security.and_then(|security| security.apparmor.as_ref());
    let namespaces = security.and_then(|security| security.namespace_options.as_ref());
    let users = namespaces.and_then(|namespaces| namespaces.userns_options.clone());
    let users = users.unwrap_or_default();
    // All of a pod's mounts are mapped as its users are; that is all there is.
    let mapped = |mount: &api::Mount| {
        let (uids, gids) = (&mount.uid_mappings, &mount.gid_mappings);
        !(uids.is_empty() && gids.is_empty()) && (*uids != users.uids || *gids != users.gids)
    };
    let unoffered = [
        (!config.cdi_devices.is_empty(), "CDI devices"),
        (apparmor.is_some_and(|profile| profile.profile_type > NO_APPARMOR), "AppArmor profiles"),
        (config.mounts.iter().any(mapped), "id mappings of single mounts that are not their pod's"),
    ];
    match unoffered.into_iter().find(|(asked, _)| *asked) {
        Some((_, what)) => {
            Err(Status::new(Code::InvalidArgument, format!("{what} are not supported")))
        }
        None => Ok(()),
    }
}

pub async fn start(served: Arc<Served>, request: api::Id) -> Result<(), Status> {
    let container = served.container(&request.id).await?;
    let started = served.runtime.start_container(&container.id).await;
    started.map_err(status_of)
}

pub async fn stop(served: Arc<Served>, request: api::StopContainerRequest) -> Result<(), Status> {
    let grace = Duration::from_secs(u64::try_from(request.timeout).unwrap_or_default());
    if let Some(container) = if_there(served.container(&request.container_id).await)? {
        served.runtime.stop_container(&container.id, grace).await.map_err(status_of)?;
    }
    Ok(())
}

pub async fn remove(served: Arc<Served>, request: api::Id) -> Result<(), Status> {
    if let Some(container) = if_there(served.container(&request.id).await)? {
        served.runtime.remove_container(&container.id).await.map_err(status_of)?;
    }
    Ok(())
}

pub async fn status(
    served: Arc<Served>,
    request: api::ContainerStatusRequest,
) -> Result<api::ContainerStatusResponse, Status> {
    let status = served.container(&request.container_id).await?;
    let info = match request.verbose {
        true => {
            let info = json!({ "pid": status.pid.unwrap_or_default() });
            BTreeMap::from([("info".to_owned(), info.to_string())])
        }
        false => BTreeMap::new(),
    };
    Ok(api::ContainerStatusResponse { status: Some(status.into()), info })
}

pub async fn list(
    served: Arc<Served>,
    request: api::ListContainersRequest,
) -> Result<api::ListContainersResponse, Status> {
    let filter = request.filter.unwrap_or_default();
    let wanted = Wanted {
        id: &filter.id,
        sandbox_id: &filter.pod_sandbox_id,
        state: filter.state,
        labels: &filter.label_selector,
    };
    let all = served.containers().await?.into_iter();
    let taken =
        all.filter(|one| wanted.takes(&one.id, &one.sandbox_id, one.state.number(), &one.labels));
    Ok(api::ListContainersResponse { containers: taken.map(Into::into).collect() })
}

pub async fn update_resources(
    served: Arc<Served>,
    request: api::UpdateContainerResourcesRequest,
) -> Result<(), Status> {
    let container = served.container(&request.container_id).await?;
    let resources = request.linux.unwrap_or_default().into();
    let updated = served.runtime.update_container_resources(&container.id, resources).await;
    updated.map_err(status_of)
}

pub async fn reopen_log(served: Arc<Served>, request: api::Id) -> Result<(), Status> {
    let container = served.container(&request.id).await?;
    let reopened = served.runtime.reopen_container_log(&container.id).await;
    reopened.map_err(status_of)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_offered_is_refused_by_name() {
        let mut config = api::ContainerConfig::default();
        assert_eq!(refuse_unoffered(&config), Ok(()));
        config.cdi_devices.push(api::CdiDevice { name: "vendor.com/gpu=0".into() });
        let refused = refuse_unoffered(&config).expect_err("a refusal");
        assert_eq!(refused.message, "CDI devices are not supported");
    }
}
