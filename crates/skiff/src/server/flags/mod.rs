//! The flags of `skiff server`, a file for each area: the flags, and what they make of the API server's configuration.
//!
//! Where upstream has a flag for it, the flag is upstream's: kube-apiserver's for the most part.
//! Invariant: a flag is read in its area's file and nowhere else, but for those the boot itself asks about.

mod admission;
mod audit;
mod authentication;
mod authorization;
mod encryption;
mod eviction;
mod images;
mod network;
mod runtime;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{ArgAction, Args};
use skiff_apiserver::ApiServerConfig;

use super::Result;
use admission::AdmissionArgs;
use audit::AuditArgs;
use authentication::AuthenticationArgs;
use authorization::AuthorizationArgs;
use encryption::EncryptionArgs;
use eviction::EvictionArgs;
pub use images::ImageArgs;
use network::NetworkArgs;
use runtime::RuntimeArgs;
pub use runtime::RuntimeTerms;

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Where everything is kept
    #[arg(long, default_value = "/var/lib/skiff/server", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Write an administrator's kubeconfig here once the API is ready
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// No controllers and no scheduler
    #[arg(long)]
    pub no_controllers: bool,
    /// Profiles and arguments of the scheduler: a KubeSchedulerConfiguration of kubescheduler.config.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// Serve Ingress, CronJob and PodDisruptionBudget in versions that older manifests speak
    #[arg(long, value_name = "BOOL", default_value_t = false, action = ArgAction::Set)]
    legacy_apis: bool,
    #[command(flatten)]
    pub node: NodeArgs,
    #[command(flatten)]
    pub network: NetworkArgs,
    #[command(flatten)]
    authentication: AuthenticationArgs,
    #[command(flatten)]
    authorization: AuthorizationArgs,
    #[command(flatten)]
    admission: AdmissionArgs,
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    encryption: EncryptionArgs,
    #[command(flatten)]
    pub images: ImageArgs,
    #[command(flatten)]
    pub runtime: RuntimeArgs,
    #[command(flatten)]
    pub eviction: EvictionArgs,
    #[command(flatten)]
    pub starter: StarterArgs,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Node")]
pub struct NodeArgs {
    /// No kubelet, service proxy or DNS
    #[arg(long)]
    pub no_node: bool,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this node [default: that of the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Where pods and their volumes are kept and plugins register; drivers of volumes mostly expect /var/lib/kubelet
    /// [default: node/kubelet below --data-dir]
    #[arg(long, value_name = "DIR")]
    pub root_dir: Option<PathBuf>,
    /// Manifests of pods that this node runs by itself: a directory of files in YAML or JSON
    #[arg(long, value_name = "DIR")]
    pub pod_manifest_path: Option<PathBuf>,
    /// How the node is to be: a KubeletConfiguration of kubelet.config.k8s.io/v1beta1; flags win over it
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// How many pods this node takes
    #[arg(long, value_name = "COUNT", default_value_t = 110)]
    pub max_pods: u32,
    /// Seconds pods get to end when the server is told to stop, the critical ones last; 0 leaves them running
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub shutdown_grace_period: u64,
    /// The part of --shutdown-grace-period that is kept for critical pods
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub shutdown_grace_period_critical_pods: u64,
    /// Parent of all pod cgroups
    #[arg(long, default_value = "/", hide = true)]
    pub cgroup_root: String,
}

/// What `skiff start` hands to the server it starts.
#[derive(Debug, Args)]
pub struct StarterArgs {
    /// Inherited pipe on which progress is reported
    #[arg(long, hide = true)]
    pub report_fd: Option<i32>,
    /// Inherited listening socket, served beside --port
    #[arg(long, hide = true)]
    pub listen_fd: Option<i32>,
    /// URL for the kubeconfig
    #[arg(long, hide = true)]
    pub external_url: Option<String>,
}

// === impl ServerArgs ===

impl ServerArgs {
    /// All that the flags alone say; the rest is this machine's to say.
    pub fn api(&self) -> Result<ApiServerConfig> {
        let mut api = ApiServerConfig::new(&self.data_dir);
        api.legacy_apis = self.legacy_apis;
        api.service_cidr = self.network.service_cidr()?.to_string().parse()?;
        api.audit = self.audit.config()?;
        api.authorization = self.authorization.authorizers()?;
        api.encryption = self.encryption.config();
        self.authentication.apply(&mut api)?;
        self.admission.apply(&mut api);
        self.network.name_in_certificate(&mut api);
        Ok(api)
    }
}
