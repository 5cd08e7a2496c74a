//! Which requests are recorded, and where.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use skiff_apiserver::{AuditConfig, AuditLogTerms};

#[derive(Debug, Args)]
#[command(next_help_heading = "Audit")]
pub struct AuditArgs {
    /// Which requests are recorded, and how much of them: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    audit_policy_file: Option<PathBuf>,
    /// Where requests are recorded; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    audit_log_path: Option<PathBuf>,
    /// Not supported: requests can be recorded in a log only
    #[arg(long, value_name = "FILE", hide = true)]
    audit_webhook_config_file: Option<PathBuf>,
    /// Days for which full audit logs are kept; 0 for ever
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    audit_log_maxage: u32,
    /// How many full audit logs are kept; 0 for all
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    audit_log_maxbackup: usize,
    /// Megabytes after which an audit log is full; 0 for 100
    #[arg(long, default_value_t = 0, value_name = "MB")]
    audit_log_maxsize: u32,
}

#[derive(Debug, thiserror::Error)]
#[error("--audit-webhook-config-file is not supported: record to --audit-log-path")]
pub struct NoWebhook;

const DEFAULT_MEGABYTES: u32 = 100;

// === impl AuditArgs ===

impl AuditArgs {
    /// Without a log, a policy has nowhere to write to.
    pub fn config(&self) -> Result<Option<AuditConfig>, NoWebhook> {
        if self.audit_webhook_config_file.is_some() {
            return Err(NoWebhook);
        }
        let files = self.audit_policy_file.clone().zip(self.audit_log_path.clone());
        Ok(files.map(|(policy, path)| AuditConfig { policy, log: self.log(path) }))
    }

    fn log(&self, path: PathBuf) -> AuditLogTerms {
        let megabytes = match self.audit_log_maxsize {
            0 => DEFAULT_MEGABYTES,
            some => some,
        };
        AuditLogTerms {
            path,
            max_size: u64::from(megabytes) << 20,
            max_age: Duration::from_secs(u64::from(self.audit_log_maxage) * 24 * 3600),
            max_backups: self.audit_log_maxbackup,
        }
    }
}
