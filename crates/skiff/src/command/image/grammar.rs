//! The grammar of `skiff image`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::build::BuildArgs;
use crate::command::cluster::ClusterArgs;

#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build an image from a Dockerfile
    Build(BuildArgs),
    /// Fetch images from their registries
    Pull {
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        credentials: CredentialArgs,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Send images to the registries their names say
    Push {
        #[command(flatten)]
        cluster: ClusterArgs,
        #[command(flatten)]
        credentials: CredentialArgs,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Import image archives (OCI layout or `docker save`)
    Load {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// The archives; - reads standard input
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
    /// Write images to an archive that OCI tools and `docker load` read
    Save {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Where to; - is standard output
        #[arg(long, short, default_value = "-", value_name = "FILE")]
        output: PathBuf,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Give an image another name
    Tag {
        #[command(flatten)]
        cluster: ClusterArgs,
        image: String,
        new_name: String,
    },
    /// List images
    Ls {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Ids only
        #[arg(long, short)]
        quiet: bool,
    },
    /// Remove images
    Rm {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Even if a container uses them
        #[arg(long, short)]
        force: bool,
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Remove images without a tag that no container uses
    Prune {
        #[command(flatten)]
        cluster: ClusterArgs,
        /// Tagged ones too, and what builds remember
        #[arg(long, short)]
        all: bool,
    },
    /// Show all that is known of images, as JSON
    Inspect {
        #[command(flatten)]
        cluster: ClusterArgs,
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub struct CredentialArgs {
    /// Name and password for the registry [default: what `docker login` wrote down]
    #[arg(long, value_name = "USER:PASSWORD")]
    pub creds: Option<String>,
}
