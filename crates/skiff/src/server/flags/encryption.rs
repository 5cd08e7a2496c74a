//! How what is secret is kept on disk.

use std::path::PathBuf;

use clap::{ArgAction, Args};
use skiff_apiserver::EncryptionConfig;

#[derive(Debug, Args)]
#[command(next_help_heading = "Encryption at rest")]
pub struct EncryptionArgs {
    /// Keep Secrets encrypted on disk
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    secrets_encryption: bool,
    /// An EncryptionConfiguration, instead of keys that the server keeps itself
    #[arg(long, value_name = "FILE")]
    encryption_provider_config: Option<PathBuf>,
}

// === impl EncryptionArgs ===

impl EncryptionArgs {
    pub fn config(&self) -> EncryptionConfig {
        match (&self.encryption_provider_config, self.secrets_encryption) {
            (Some(path), _) => EncryptionConfig::File(path.clone()),
            (None, true) => EncryptionConfig::Managed,
            (None, false) => EncryptionConfig::Off,
        }
    }
}
