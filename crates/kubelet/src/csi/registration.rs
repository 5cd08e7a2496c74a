//! What it takes for a CSI driver to be registered on the node.
//!
//! A driver that presents itself -> asked for its node's name and place -> published in the API, then there for pods.
//! Counterpart: `RegistrationHandler` of `pkg/volume/csi`. Invariant: a driver is published before anyone may use it.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Endpoint, csi_node};
use crate::{
    context::NodeContext,
    plugin_registration::{Plugin, PluginKind},
};

pub struct CsiPlugins;

#[derive(Debug, thiserror::Error)]
enum AdmissionError {
    #[error("validation failed for CSI Driver {name} at endpoint {endpoint}: {why}")]
    Version { name: String, endpoint: String, why: String },
    #[error("{0}")]
    Call(#[from] skiff_grpc::Status),
    #[error("{0}")]
    Publish(#[from] csi_node::PublishError),
}

// === impl CsiPlugins ===

#[async_trait]
impl PluginKind for CsiPlugins {
    fn name(&self) -> &'static str {
        "CSIPlugin"
    }

    /// A node has a CSINode even if it never has a driver.
    async fn prepare(&self, ctx: &NodeContext) -> Result<(), String> {
        csi_node::ensure(ctx).await.map(drop).map_err(|error| error.to_string())
    }

    async fn admit(&self, ctx: &Arc<NodeContext>, plugin: Plugin<'_>) -> Result<(), String> {
        admit(ctx, plugin).await.map_err(|error| error.to_string())
    }

    async fn forget(&self, ctx: &NodeContext, name: &str) {
        tracing::info!(driver = name, "CSI driver has left");
        ctx.csi.unregister(name);
        if let Err(error) = csi_node::uninstall(ctx, name).await {
            tracing::warn!(driver = name, %error, "CSI driver still published");
        }
    }
}

async fn admit(
    ctx: &NodeContext,
    Plugin { name, endpoint, versions }: Plugin<'_>,
) -> Result<(), AdmissionError> {
    check_versions(versions).map_err(|why| AdmissionError::Version {
        name: name.to_owned(),
        endpoint: endpoint.display().to_string(),
        why,
    })?;
    let driver = Endpoint(endpoint.to_owned());
    csi_node::install(ctx, name, &driver.node_info().await?).await?;
    tracing::info!(driver = name, "CSI driver registered");
    ctx.csi.register(name, driver);
    Ok(())
}

/// Drivers of CSI 1 are understood; those of 0 and of 2 are not.
fn check_versions(versions: &[String]) -> Result<(), String> {
    let major = |version: &String| {
        version.trim_start_matches('v').split('.').next().and_then(|n| n.parse::<u32>().ok())
    };
    match versions.iter().any(|version| major(version) == Some(1)) {
        true => Ok(()),
        false => Err(format!("none of the versions specified {versions:?} are supported")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drivers_of_the_first_version_are_taken() {
        let check = |versions: &[&str]| {
            let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
            check_versions(&versions).is_ok()
        };
        assert!(check(&["1.0.0"]) && check(&["v1.2.0"]) && check(&["0.3.0", "1.0.0"]));
        assert!(!check(&[]) && !check(&["0.3.0"]) && !check(&["2.0.0"]) && !check(&["one"]));
    }
}
