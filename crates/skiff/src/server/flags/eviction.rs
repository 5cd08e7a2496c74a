//! Flags about the node's shortages: when pods are evicted, and how.
//!
//! Counterpart: the eviction part of `KubeletConfiguration`, and its deprecated flags, whose names these are.

use std::time::Duration;

use clap::Args;
use skiff_kubelet::{EvictionConfig, EvictionStatements, ThresholdError};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Eviction")]
pub struct EvictionArgs {
    /// Evict pods at once when less than this is left: signals of memory.available, nodefs.available,
    /// nodefs.inodesFree, imagefs.available, imagefs.inodesFree and pid.available, as in
    /// memory.available<100Mi,nodefs.available<10%; empty is never [default: 100 Mi of memory; 10 % of the disk and
    /// 15 % of the images' disk but no more than 2 Gi; 5 % of inodes]
    #[arg(long, value_name = "THRESHOLDS")]
    eviction_hard: Option<String>,
    /// Evict pods gently when less than this is left for longer than --eviction-soft-grace-period
    #[arg(long, default_value = "", hide_default_value = true, value_name = "THRESHOLDS")]
    eviction_soft: String,
    /// How long a soft threshold has to be met, as in memory.available=1m30s
    #[arg(long, default_value = "", hide_default_value = true, value_name = "PERIODS")]
    eviction_soft_grace_period: String,
    /// What has to be left beyond a threshold before a shortage is over, as in memory.available=500Mi
    #[arg(long, default_value = "", hide_default_value = true, value_name = "AMOUNTS")]
    eviction_minimum_reclaim: String,
    /// Seconds for which a pressure condition of the node outlives the shortage
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    eviction_pressure_transition_period: u64,
    /// The most seconds a pod gets to end when a soft threshold is met
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    eviction_max_pod_grace_period: u64,
}

// === impl EvictionArgs ===

impl EvictionArgs {
    pub fn config(&self) -> Result<EvictionConfig, ThresholdError> {
        let mut config = EvictionConfig {
            transition: Duration::from_secs(self.eviction_pressure_transition_period),
            max_pod_grace: Duration::from_secs(self.eviction_max_pod_grace_period),
            ..EvictionConfig::default()
        };
        config.set(&EvictionStatements {
            hard: self.eviction_hard.as_deref(),
            soft: &self.eviction_soft,
            soft_grace: &self.eviction_soft_grace_period,
            minimum_reclaim: &self.eviction_minimum_reclaim,
        })?;
        Ok(config)
    }
}
