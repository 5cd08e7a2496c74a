//! What may be stored.

use clap::{ArgAction, Args};
use skiff_apiserver::ApiServerConfig;

#[derive(Debug, Args)]
#[command(next_help_heading = "Admission")]
pub struct AdmissionArgs {
    /// Refuse privileged containers
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    allow_privileged: bool,
    /// Admission plugins to run beside the default ones
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    enable_admission_plugins: Vec<String>,
    /// Default admission plugins not to run
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    disable_admission_plugins: Vec<String>,
}

// === impl AdmissionArgs ===

impl AdmissionArgs {
    pub fn apply(&self, api: &mut ApiServerConfig) {
        api.allow_privileged = self.allow_privileged;
        api.enable_admission_plugins = self.enable_admission_plugins.clone();
        api.disable_admission_plugins = self.disable_admission_plugins.clone();
    }
}
