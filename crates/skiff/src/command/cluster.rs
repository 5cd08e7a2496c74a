//! `skiff start | stop | delete | status`.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};
use skiff_cluster::{Health, StartOptions, Status};

use super::{Done, block_on};
use crate::cli::Cli;

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
    /// How image registries are reached [default: /etc/skiff/registries.yaml]
    #[arg(long, value_name = "FILE")]
    pub registries: Option<PathBuf>,
    /// A further argument of `skiff server`, as in --server-arg=--eviction-hard=memory.available<1Gi; may be repeated
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    pub server_arg: Vec<String>,
}

pub fn start(args: StartArgs) -> Done {
    check_server_args(&args.server_arg)?;
    let name = args.cluster.name;
    println!("Starting cluster {name:?}");
    let registries = args.registries.map(std::path::absolute).transpose()?;
    let registries = registries.map(|file| format!("--registries={}", file.display()));
    // The disk of a workplace is full of other things, and what was loaded by hand is not found again.
    let keep_images = "--image-gc-high-threshold=100".to_owned();
    let options = StartOptions {
        name: name.clone(),
        bind_address: args.bind_address,
        port: args.port,
        server_args: [keep_images].into_iter().chain(registries).chain(args.server_arg).collect(),
    };
    block_on(async {
        let started = skiff_cluster::start(options, |phase, at| {
            println!("  {:>5} ms  {phase}", at.as_millis());
        })
        .await?;
        if started.was_running {
            println!("  it is running already");
        }
        println!("API server {}, node {}", started.server, started.node_address);
        println!(
            "Done! kubectl is now configured to use {name:?} ({})",
            started.kubeconfig.display()
        );
        Ok(ExitCode::SUCCESS)
    })
}

/// A mistake in them is told here: the server would tell it to a log that nobody looks at.
fn check_server_args(args: &[String]) -> Result<(), String> {
    let words = ["skiff", "server"].into_iter().chain(args.iter().map(String::as_str));
    let Err(error) = Cli::try_parse_from(words) else { return Ok(()) };
    let text = error.to_string();
    let first = text.lines().next().unwrap_or_default();
    Err(format!("--server-arg: {}", first.trim_start_matches("error: ")))
}

pub fn stop(name: &str) -> Done {
    block_on(async {
        match skiff_cluster::stop(name).await? {
            true => println!("Stopped cluster {name:?}; its state is kept"),
            false => println!("Cluster {name:?} was not running"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub fn delete(name: &str) -> Done {
    block_on(async {
        match skiff_cluster::delete(name).await? {
            true => println!("Deleted cluster {name:?}"),
            false => println!("There is no cluster {name:?}"),
        }
        Ok(ExitCode::SUCCESS)
    })
}

pub fn status(name: &str) -> Done {
    let status = skiff_cluster::status(name)?;
    if !status.exists {
        println!("There is no cluster {name:?}: create it with `skiff start`");
        return Ok(ExitCode::from(85));
    }
    print(&status);
    Ok(ExitCode::from(status.exit_code()))
}

/// Line for line what people read off `minikube status`.
fn print(status: &Status) {
    let word = |health: Health| match health {
        Health::Running => "Running",
        Health::Stopped => "Stopped",
    };
    println!("{}", status.name);
    println!("type: Control Plane");
    println!("host: {}", word(status.host));
    println!("kubelet: {}", word(status.kubelet));
    println!("apiserver: {}", word(status.apiserver));
    let configured = match (status.kubeconfig, status.host) {
        (true, _) => "Configured",
        (false, Health::Running) => "Misconfigured",
        (false, Health::Stopped) => "Stopped",
    };
    println!("kubeconfig: {configured}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mistake_in_an_argument_of_the_server_is_told_at_once() {
        let check = |args: &[&str]| {
            check_server_args(&args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(check(&["--max-pods=20", "--no-controllers"]), Ok(()));
        let error = check(&["--maximal-pods=20"]).unwrap_err();
        assert_eq!(error, "--server-arg: unexpected argument '--maximal-pods' found");
    }
}
