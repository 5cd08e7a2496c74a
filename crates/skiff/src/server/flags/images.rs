//! Flags about images: where they come from, how many at once, and when they go.
//!
//! Counterpart: the image part of `KubeletConfiguration`, and its deprecated flags, whose names these are.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use skiff_kubelet::{CredentialProviderPaths, KubeletConfig};

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Images")]
pub struct ImageArgs {
    /// How image registries are reached: mirrors, authorities, credentials; read for every pull
    #[arg(long, default_value = "/etc/skiff/registries.yaml", value_name = "FILE")]
    pub registries: PathBuf,
    /// Fetch images one after another
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    serialize_image_pulls: bool,
    /// How many images are fetched at once; 0 is without a limit
    #[arg(long, default_value_t = 4, value_name = "COUNT")]
    max_parallel_image_pulls: usize,
    /// Per cent of the disk in use from which unused images are removed; 100 is never
    #[arg(long, default_value_t = 85, value_name = "PERCENT", value_parser = percent())]
    image_gc_high_threshold: u8,
    /// Per cent of the disk in use to which unused images are removed
    #[arg(long, default_value_t = 80, value_name = "PERCENT", value_parser = percent())]
    image_gc_low_threshold: u8,
    /// Seconds after which an unused image is removed whatever the disk holds; 0 is never
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    image_maximum_gc_age: u64,
    /// Programs that know credentials for images: a CredentialProviderConfig of kubelet.config.k8s.io/v1
    #[arg(long, value_name = "FILE", requires = "image_credential_provider_bin_dir")]
    image_credential_provider_config: Option<PathBuf>,
    /// Where those programs are
    #[arg(long, value_name = "DIR")]
    image_credential_provider_bin_dir: Option<PathBuf>,
}

fn percent() -> clap::builder::RangedI64ValueParser<u8> {
    clap::value_parser!(u8).range(0..=100)
}

#[derive(Debug, thiserror::Error)]
#[error("--image-gc-low-threshold {low} must be lower than --image-gc-high-threshold {high}")]
pub struct BadThresholds {
    high: u8,
    low: u8,
}

// === impl ImageArgs ===

impl ImageArgs {
    pub fn checked(&self) -> Result<ImageArgs, BadThresholds> {
        let (high, low) = (self.image_gc_high_threshold, self.image_gc_low_threshold);
        match low < high {
            true => Ok(self.clone()),
            false => Err(BadThresholds { high, low }),
        }
    }

    pub fn apply(&self, config: &mut KubeletConfig) {
        config.serialize_image_pulls = self.serialize_image_pulls;
        config.max_parallel_image_pulls =
            Some(self.max_parallel_image_pulls).filter(|count| *count > 0);
        config.image_garbage.high_threshold = self.image_gc_high_threshold;
        config.image_garbage.low_threshold = self.image_gc_low_threshold;
        config.image_garbage.max_age = Duration::from_secs(self.image_maximum_gc_age);
        let program = self.image_credential_provider_config.clone();
        config.credential_providers = program
            .zip(self.image_credential_provider_bin_dir.clone())
            .map(|(config, bin_dir)| CredentialProviderPaths { config, bin_dir });
    }
}
