//! Drivers that prepare devices for claims, as they announce themselves in the registration directory.
//!
//! Counterpart: the registration handler of `pkg/kubelet/cm/dra/plugin`.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    context::NodeContext,
    plugin_registration::{Plugin, PluginKind},
};

pub struct DraPlugins;

#[async_trait]
impl PluginKind for DraPlugins {
    fn name(&self) -> &'static str {
        "DRAPlugin"
    }

    async fn admit(&self, ctx: &Arc<NodeContext>, plugin: Plugin<'_>) -> Result<(), String> {
        ctx.claims.register(plugin.name, plugin.endpoint.to_owned(), plugin.versions)
    }

    async fn forget(&self, ctx: &NodeContext, name: &str) {
        ctx.claims.unregister(name);
    }
}
