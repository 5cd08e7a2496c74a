//! The grammar of the command line: one table of commands, from which help and errors derive.
//!
//! What a command takes stands with what it does, in `command` and `server`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::command;
use crate::command::cluster::{ClusterArgs, StartArgs};
use crate::command::image::ImageCommand;
use crate::command::node::NodeCommand;
use crate::command::secrets_encrypt::SecretsEncryptArgs;
use crate::server::flags::ServerArgs;

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
    /// Simulated nodes: without a machine, run by the server
    #[command(subcommand)]
    Node(NodeCommand),
    /// Run the daemon in the foreground, in the namespaces it is started in
    Server(Box<ServerArgs>),
    /// The encryption of Secrets on a server's disk
    SecretsEncrypt(SecretsEncryptArgs),
    /// Measure the promised numbers against any cluster
    Bench(BenchArgs),
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
    /// Measure only how fast so many pods get a node; needs simulated ones (`skiff node add`)
    #[arg(long)]
    pub pods: Option<usize>,
    /// With --pods: pods that ask to be spread over zones and keep away from each other
    #[arg(long, requires = "pods")]
    pub spread: bool,
    /// Measure only the node, with pods of this image, which it must have
    #[arg(long, conflicts_with = "pods")]
    pub image: Option<String>,
    /// With --image: a command that the image has and that ends at once, such as `true`
    #[arg(long, requires = "image", value_name = "COMMAND")]
    pub exec: Option<String>,
    /// With --image: so many sessions of `cat` at once in one pod
    #[arg(long, requires = "image", value_name = "COUNT")]
    pub sessions: Option<usize>,
    /// With --image: how many pods are started at once
    #[arg(long, requires = "image", default_value_t = 100)]
    pub burst: usize,
}

impl Cli {
    pub fn run(self) -> ExitCode {
        let done = match self.command {
            Command::Start(args) => command::cluster::start(args),
            Command::Stop(args) => command::cluster::stop(&args.name),
            Command::Delete(args) => command::cluster::delete(&args.name),
            Command::Status(args) => command::cluster::status(&args.name),
            Command::Image(command) => command::image::run(command),
            Command::Node(command) => command::node::run(command),
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
pub fn with_causes(error: &dyn std::error::Error) -> String {
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
