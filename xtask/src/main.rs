//! Chores of this repository: packing images for the sample app and the tests, keeping it tidy.

mod archive;
mod debian;
mod kuard;
mod pause;
mod postgres;
mod tidy;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask")]
enum Task {
    /// Pack an image archive
    #[command(subcommand)]
    Image(Image),
    /// Check what no compiler checks
    Tidy,
}

#[derive(Debug, Subcommand)]
enum Image {
    /// The sample app, once for each colour
    Kuard {
        /// The compiled app
        #[arg(long, default_value = "target/release/kuard")]
        binary: PathBuf,
        /// Archives kuard-blue.tar, kuard-green.tar and kuard-purple.tar go here
        #[arg(short, long, default_value = "target/images")]
        out: PathBuf,
    },
    /// What holds a pod's namespaces where the container runtime needs a process for it
    Pause {
        /// Archive pause.tar goes here
        #[arg(short, long, default_value = "target/images")]
        out: PathBuf,
    },
    /// PostgreSQL from the distribution's packages
    Postgres {
        /// Archive postgres.tar goes here
        #[arg(short, long, default_value = "target/images")]
        out: PathBuf,
    },
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let done = match Task::parse() {
        Task::Image(Image::Kuard { binary, out }) => kuard::pack(&binary, &out),
        Task::Image(Image::Pause { out }) => pause::pack(&out),
        Task::Image(Image::Postgres { out }) => postgres::pack(&out),
        Task::Tidy => tidy::check(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
