//! The grammar of the command line: one enum, from which help and errors derive.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::command;
use crate::server::access::AccessArgs;

/// Kubernetes in one binary: ready in a second, and gone without a trace.
#[derive(Debug, Parser)]
#[command(name = "skiff", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create a local cluster, or resume one that was stopped
    Start(StartArgs),
    /// Stop a local cluster and keep its state
    Stop(ClusterArgs),
    /// Delete a local cluster and everything it put on this machine
    Delete(ClusterArgs),
    /// Say what of a local cluster is running
    Status(ClusterArgs),
    /// The images of a local cluster
    #[command(subcommand)]
    Image(ImageCommand),
    /// Run the daemon in the foreground, in the namespaces it is started in
    Server(Box<ServerArgs>),
    /// The encryption of Secrets on a server's disk
    SecretsEncrypt(SecretsEncryptArgs),
    /// Measure the promised numbers against any cluster
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub struct ClusterArgs {
    /// Which local cluster
    #[arg(long, default_value = "skiff", value_name = "NAME")]
    pub name: String,
}

#[derive(Debug, Args)]
pub struct StartArgs {
    #[command(flatten)]
    pub cluster: ClusterArgs,
    /// Port of the API server on this machine; 0 for any free one [default: 6443, or a free one]
    #[arg(long)]
    pub port: Option<u16>,
    /// Address of this machine on which the API server listens
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    pub bind_address: Ipv4Addr,
}

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Import an image archive (OCI layout or `docker save`)
    Load {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The archive; - reads standard input
        file: PathBuf,
    },
    /// List images
    Ls {
        #[command(flatten)]
        cluster: ClusterArgs,
    },
    /// Remove images
    Rm {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Names or ids
        #[arg(required = true)]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct ServerArgs {
    /// Where everything is kept
    #[arg(long, default_value = "/var/lib/skiff/server", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Address on which the API server listens
    #[arg(long, default_value = "0.0.0.0")]
    pub bind_address: IpAddr,
    /// Port on which the API server listens; 0 for any free one
    #[arg(long, default_value_t = 6443)]
    pub port: u16,
    /// Address under which other nodes and pods reach this server [default: the node's]
    #[arg(long)]
    pub advertise_address: Option<IpAddr>,
    /// Write an administrator's kubeconfig here once the API is ready
    #[arg(long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// No kubelet, service proxy or DNS
    #[arg(long)]
    pub no_node: bool,
    /// No controllers and no scheduler
    #[arg(long)]
    pub no_controllers: bool,
    /// Name of this node [default: the host name]
    #[arg(long)]
    pub node_name: Option<String>,
    /// Address of this node [default: that of the default route]
    #[arg(long)]
    pub node_ip: Option<IpAddr>,
    /// Addresses of Services
    #[arg(long, default_value = "10.96.0.0/16")]
    pub service_cluster_ip_range: String,
    /// Addresses of pods; every node gets a part
    #[arg(long, default_value = "10.244.0.0/16")]
    pub cluster_cidr: String,
    /// Domain of the cluster's DNS names
    #[arg(long, default_value = "cluster.local")]
    pub cluster_domain: String,
    /// Issuer of service account tokens
    #[arg(long, default_value = "https://kubernetes.default.svc.cluster.local")]
    pub service_account_issuer: String,
    #[command(flatten)]
    pub access: AccessArgs,
    /// Refuse privileged containers
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    pub allow_privileged: bool,
    /// Admission plugins to run beside the default ones
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins not to run
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Serve Ingress, CronJob and PodDisruptionBudget in versions that older manifests speak
    #[arg(long, value_name = "BOOL", default_value_t = false, action = clap::ArgAction::Set)]
    pub legacy_apis: bool,
    /// Which requests are recorded, and how much of them: a Policy of audit.k8s.io/v1
    #[arg(long, value_name = "FILE")]
    pub audit_policy_file: Option<PathBuf>,
    /// Where requests are recorded; - is standard output
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Not supported: requests can be recorded in a log only
    #[arg(long, value_name = "FILE", hide = true)]
    pub audit_webhook_config_file: Option<PathBuf>,
    /// Days for which full audit logs are kept; 0 for ever
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    pub audit_log_maxage: u32,
    /// How many full audit logs are kept; 0 for all
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    pub audit_log_maxbackup: usize,
    /// Megabytes after which an audit log is full; 0 for 100
    #[arg(long, default_value_t = 0, value_name = "MB")]
    pub audit_log_maxsize: u32,
    /// Further names and addresses in the serving certificate
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// Parent of all pod cgroups
    #[arg(long, default_value = "/", hide = true)]
    pub cgroup_root: String,
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

#[derive(Debug, Args)]
pub struct SecretsEncryptArgs {
    /// The cluster [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long, global = true)]
    pub kubeconfig: Option<PathBuf>,
    #[command(subcommand)]
    pub command: SecretsEncryptCommand,
}

#[derive(Debug, Subcommand)]
pub enum SecretsEncryptCommand {
    /// Say how many Secrets are encrypted, and with which key
    Status,
    /// Make a new key, encrypt every Secret with it, and forget the old one
    Rotate,
    /// Encrypt every Secret that is not encrypted with the current key
    Reencrypt,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The cluster to measure [default: $KUBECONFIG or ~/.kube/config]
    #[arg(long)]
    pub kubeconfig: Option<PathBuf>,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 5)]
    pub seconds: u64,
    /// Concurrent clients for creates and gets
    #[arg(long, default_value_t = 64)]
    pub clients: usize,
    /// Watchers of one resource that changes
    #[arg(long, default_value_t = 1000)]
    pub watchers: usize,
    /// How often it changes
    #[arg(long, default_value_t = 1000)]
    pub changes_per_second: u32,
    /// Process id of the server, if it runs here, to say what the server costs and what its clients
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Image of a pod whose start is timed; no pods without it
    #[arg(long)]
    pub image: Option<String>,
}

impl Cli {
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Start(args) => command::cluster::start(args),
            Command::Stop(args) => command::cluster::stop(&args.name),
            Command::Delete(args) => command::cluster::delete(&args.name),
            Command::Status(args) => command::cluster::status(&args.name),
            Command::Image(command) => command::image::run(command),
            Command::Server(args) => crate::server::run(*args),
            Command::SecretsEncrypt(args) => command::secrets_encrypt::run(args),
            Command::Bench(args) => command::bench::run(args),
        };
        done.unwrap_or_else(|error| {
            eprintln!("error: {}", with_causes(&*error));
            ExitCode::FAILURE
        })
    }
}

/// What went wrong, and why, in one line.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        // Some errors print their source themselves.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_has_no_contradiction() {
        Cli::command().debug_assert();
    }
}
