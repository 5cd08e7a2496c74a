//! What a user may do.

use std::path::PathBuf;

use clap::Args;
use skiff_apiserver::AuthorizerConfig;

use super::super::Result;

#[derive(Debug, Args)]
#[command(next_help_heading = "Authorization")]
pub struct AuthorizationArgs {
    /// Who decides, in this order: AlwaysAllow, AlwaysDeny, Node, RBAC, Webhook
    #[arg(long, value_name = "MODES", default_value = "Node,RBAC")]
    authorization_mode: String,
    /// Kubeconfig of the service behind the mode Webhook
    #[arg(long, value_name = "FILE")]
    authorization_webhook_config_file: Option<PathBuf>,
    /// An AuthorizationConfiguration, instead of --authorization-mode
    #[arg(long, value_name = "FILE", conflicts_with = "authorization_webhook_config_file")]
    authorization_config: Option<PathBuf>,
}

// === impl AuthorizationArgs ===

impl AuthorizationArgs {
    pub fn authorizers(&self) -> Result<Vec<AuthorizerConfig>> {
        let webhook = self.authorization_webhook_config_file.as_deref();
        Ok(match &self.authorization_config {
            Some(path) => AuthorizerConfig::read(path)?,
            None => AuthorizerConfig::of_modes(&self.authorization_mode, webhook)?,
        })
    }
}
