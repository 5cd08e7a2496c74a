//! `skiff image build`: sends a directory and a Dockerfile to the node, and shows what it does with them.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use futures::{StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use skiff_runtime::{BuildNetwork, BuildOptions, pack_context};

use super::cannot_use;
use super::door::{Body, Door, Result, chunks};
use super::progress::short;
use crate::command::cluster::ClusterArgs;
use crate::node_socket::Progress;

#[derive(Debug, Args)]
pub struct BuildArgs {
    #[command(flatten)]
    cluster: ClusterArgs,
    /// The Dockerfile; - reads standard input [default: Dockerfile in the directory]
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Names of the image
    #[arg(long = "tag", short, value_name = "IMAGE")]
    tags: Vec<String>,
    /// The stage to stop at
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// Values of ARGs; without a value the environment's
    #[arg(long, value_name = "NAME=VALUE")]
    build_arg: Vec<String>,
    /// Run every step anew
    #[arg(long)]
    no_cache: bool,
    /// What RUN can reach
    #[arg(long, value_enum, default_value_t = Network::Default)]
    network: Network,
    /// The files that can be copied
    #[arg(value_name = "DIRECTORY")]
    context: PathBuf,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Network {
    /// What a pod can
    Default,
    /// The node's own network
    Host,
    /// Nothing
    None,
}

pub async fn build(args: BuildArgs) -> Result<()> {
    let file = args.file.clone().unwrap_or_else(|| args.context.join("Dockerfile"));
    let options = BuildOptions {
        dockerfile: read_dockerfile(&file)?,
        tags: args.tags.clone(),
        target: args.target,
        build_args: args.build_arg.iter().filter_map(|text| argument(text)).collect(),
        no_cache: args.no_cache,
        network: match args.network {
            Network::Default => BuildNetwork::Pod,
            Network::Host => BuildNetwork::Host,
            Network::None => BuildNetwork::None,
        },
    };
    let body = packed(options, args.context, file)?;
    let tell = |step| {
        if let Progress::Step(line) = step {
            eprintln!("{line}");
        }
    };
    let id = Door { cluster: args.cluster.name }.follow("/images/build", body, tell).await?;
    match args.tags.is_empty() {
        true => println!("Built {}", short(&id)),
        false => println!("Built {} ({})", args.tags.join(", "), short(&id)),
    }
    Ok(())
}

fn read_dockerfile(file: &Path) -> Result<String> {
    let text = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    Ok(text.map_err(|source| cannot_use(file, source))?)
}

/// A name alone takes its value from the environment; one that is not there is not given.
fn argument(text: &str) -> Option<(String, String)> {
    match text.split_once('=') {
        Some((name, value)) => Some((name.to_owned(), value.to_owned())),
        None => Some((text.to_owned(), std::env::var(text).ok()?)),
    }
}

/// A line of options and the files. One that cannot be read breaks the request off.
fn packed(options: BuildOptions, context: PathBuf, file: PathBuf) -> Result<Body> {
    let (reader, writer) = std::io::pipe()?;
    std::fs::read_dir(&context).map_err(|source| cannot_use(&context, source))?;
    let packing = tokio::task::spawn_blocking(move || {
        let mut output = BufWriter::with_capacity(256 << 10, writer);
        serde_json::to_writer(&mut output, &options)?;
        output.write_all(b"\n")?;
        pack_context(&context, Some(&file), output)
    });
    let reader = tokio::fs::File::from_std(File::from(OwnedFd::from(reader)));
    let end = stream::once(async {
        packing.await.expect("packing does not panic").map(|()| Frame::data(Default::default()))
    });
    Ok(BodyExt::boxed(StreamBody::new(Box::pin(chunks(reader).chain(end)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_arguments_have_a_value_or_the_environments() {
        assert_eq!(argument("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(argument("A="), Some(("A".into(), String::new())));
        assert_eq!(argument("SKIFF_NOBODY_SETS_THIS"), None);
        assert!(argument("PATH").is_some());
    }
}
