//! What each command of the command line does.

pub mod bench;
pub mod cluster;
pub mod image;
pub mod node;
pub mod secrets_encrypt;

use std::error::Error;
use std::future::Future;
use std::process::ExitCode;

pub type Done = Result<ExitCode, Box<dyn Error>>;

/// Runs a command that talks to something; one thread is enough for that.
pub fn block_on(future: impl Future<Output = Done>) -> Done {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
