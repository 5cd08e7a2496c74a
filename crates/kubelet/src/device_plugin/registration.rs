//! Device plugins that announce themselves in the registration directory, rather than by a call.
//!
//! Counterpart: the plugin handler of `pkg/kubelet/cm/devicemanager/plugin/v1beta1`.

use std::sync::Arc;

use async_trait::async_trait;

use super::registry::{check_name, check_version, connect, disconnect};
use crate::{
    context::NodeContext,
    plugin_registration::{Plugin, PluginKind},
};

pub struct DevicePlugins;

#[async_trait]
impl PluginKind for DevicePlugins {
    fn name(&self) -> &'static str {
        "DevicePlugin"
    }

    async fn admit(&self, ctx: &Arc<NodeContext>, plugin: Plugin<'_>) -> Result<(), String> {
        check_version(plugin.versions)?;
        check_name(plugin.name)?;
        let connected = connect(ctx, plugin.name, plugin.endpoint.to_owned()).await;
        connected.map_err(|error| error.to_string())
    }

    async fn forget(&self, ctx: &NodeContext, name: &str) {
        disconnect(ctx, name);
    }
}
